# A web server whose files are on a disk that two servers see; see README.md.

prefer = ["alpha", "beta"]

vip "web" { address = "192.0.2.10" }

volume "web" {
  device  = "UUID=2b228ffc-b727-2910-a3b9-917cbad7134f"
  path    = "/srv/web"
  options = ["noatime"]
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
