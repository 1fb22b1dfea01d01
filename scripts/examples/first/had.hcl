# The same file on every node: /etc/had/had.hcl. Names are host names.
cluster "office" {
  node "alpha" { address = "10.0.0.11:7400" }
  node "beta" { address = "10.0.0.12:7400" }
  node "gamma" {
    address = "10.0.0.13:7400"
    role    = "witness" # votes, never owns; any small machine
  }
}
