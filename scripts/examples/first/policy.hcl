# What the cluster owns: hactl policy apply policy.hcl, once, on any node.
vip "web" { address = "10.0.0.80" } # configured nowhere else
