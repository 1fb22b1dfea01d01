# A site whose clients resume their TLS sessions on the next owner; see README.md.

prefer = ["alpha", "beta"]

vip "web" { address = "192.0.2.10" }

reconnect_token "tickets" {
  location  = "/etc/nginx/ticket.key"
  replicate = true
  bytes     = 80
  keep      = 1
  reload    = ["/usr/sbin/nginx", "-s", "reload"]
}

hooks { timeout = "30s" }
