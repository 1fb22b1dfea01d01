# PostgreSQL on a disk that two servers see; see README.md.

prefer = ["alpha", "beta"]

vip "database" { address = "192.0.2.10" }

volume "pgdata" {
  device  = "UUID=2b228ffc-b727-2910-a3b9-917cbad7134f"
  path    = "/srv/pgdata"
  options = ["noatime"]
}

hooks {
  timeout = "5m" # after a crash PostgreSQL replays its log before it answers

  stage "PostAcq" { on_failure = "hand_over" } # where it doesn't start, nobody is served
}

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
