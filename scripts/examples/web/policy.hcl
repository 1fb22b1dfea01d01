# A web site that both servers have; see README.md.

prefer = ["alpha", "beta"]

vip "web" { address = "192.0.2.10" }
