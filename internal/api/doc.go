// Package api serves had's gRPC services: HA for operators, on the local
// socket and, forwarded, on the cluster port; Peer for the other nodes. It is
// the only place that turns errors into status codes.
package api
