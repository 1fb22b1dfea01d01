# Made by hactl import keepalived from keepalived.conf.
# The same on every node, as /etc/had/had.hcl; who the host is, its name says.

cluster "web" {
  detect = "500ms"

  node "alpha" {
    address = "10.0.0.11:7400"
  }

  node "beta" {
    address = "10.0.0.12:7400"
  }

  node "gamma" {
    address = "10.0.0.13:7400"
    role    = "witness"
  }
}
