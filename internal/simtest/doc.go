// Package simtest runs whole clusters in virtual time: the real consensus
// (package cluster, with raft) and the real ownership (internal/failover) of
// several nodes in one testing/synctest bubble, on a simulated network, with
// simulated kernels, disks, hooks and clocks, through random faults drawn from
// one seed. A checker watches every change of every kernel.
//
// What is simulated and what is real is told in DESIGN.md; the invariants are
// those of docs/protocol.md.
//
//	go test ./internal/simtest                            # some seeds, in seconds
//	go test ./internal/simtest -run Random -sim.seed=17   # one of them again
//	go test ./internal/simtest -run Random -sim.hours=2   # many more
package simtest
