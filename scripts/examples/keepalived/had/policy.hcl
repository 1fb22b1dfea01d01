# Made by hactl import keepalived from keepalived.conf.

prefer = ["alpha", "beta"]

vip "web" { # keepalived.conf:35
  address   = "10.0.0.100"
  interface = "eth0"
}

vip "web-2" { # keepalived.conf:38
  address   = "2001:db8::100"
  interface = "eth0"
}

hooks {
  dir = "/etc/had/hooks"
}

check "exec" "maintenance" { # keepalived.conf:9
  command   = ["/usr/bin/test", "!", "-e", "/etc/keepalived/maintenance"]
  on        = "all"
  interval  = "2s"
  timeout   = "2s"
  failures  = 2
  successes = 1
}
