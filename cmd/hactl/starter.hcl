# What the cluster owns. Everything here moves together, to one owner.
# hactl policy validate checks this file, hactl policy plan shows what it would
# do, hactl policy apply puts it in force.
#
# A line that begins with # and no space is an example: take the # away.

# The address that clients use. It must be in the subnet of an interface on every
# node that may own it, and be used by nothing else.
vip "web" {
  address = "192.0.2.10"
  #interface = "eth0" # default: the interface whose subnet contains the address
}

# Who owns after a cold start, most wanted first.
#prefer = ["alpha", "beta"]

# Scripts that start and stop what uses the address, one folder for each address:
# /etc/had/hooks/192.0.2.10/PostAcq-web. They are the same on every node.
#hooks {
#  dir     = "/etc/had/hooks"
#  timeout = "30s"
#}

# A file system that is mounted where the address is, and nowhere else. It needs a
# fence: how we know that a silent owner doesn't write any more.
#volume "data" {
#  device = "LABEL=data"
#  path   = "/srv/data"
#}
#fence { methods = ["confirm"] }

# Is the service well? When this fails on the owner, another node takes over.
#check "http" "site" {
#  url      = "http://127.0.0.1/healthz"
#  interval = "2s"
#}

# Who is told. Without this a failover is only in the history.
#notify "email" "ops" {
#  to   = ["ops@example.org"]
#  from = "had@example.org"
#  smtp = "mail.example.org:587"
#}
