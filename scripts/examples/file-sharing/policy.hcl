# File sharing from a disk that two servers see; see README.md.

prefer = ["alpha", "beta"]

vip "files" { address = "192.0.2.10" }

volume "share" {
  device  = "UUID=2b228ffc-b727-2910-a3b9-917cbad7134f"
  path    = "/srv/share"
  options = ["noatime"]
}

# The accounts and the server's own secrets, without which no client could log in
# on the other server.
reconnect_token "samba" {
  location = "/srv/share/private/secrets.tdb"
  mode     = "0600"
}

hooks { timeout = "30s" }

fence {
  methods = ["agent", "confirm"]

  agent "alpha" {
    program = "fence_ipmilan"
    options = {
      ip            = "10.0.9.11"
      username      = "had"
      password_file = "/etc/had/secrets/ipmi"
      lanplus       = "1"
    }
  }
  agent "beta" {
    program = "fence_ipmilan"
    options = {
      ip            = "10.0.9.12"
      username      = "had"
      password_file = "/etc/had/secrets/ipmi"
      lanplus       = "1"
    }
  }
}
