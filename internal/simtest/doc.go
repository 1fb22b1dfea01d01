// Package simtest runs whole clusters in virtual time: the real consensus
// (package cluster, with raft) and the real ownership (internal/failover) of
// several nodes in one testing/synctest bubble, on a simulated network, with
// simulated kernels, disks, hooks and clocks, through random faults drawn from
// one seed. A checker watches every change of every kernel.
//
// What is simulated and what is real is told in DESIGN.md; the invariants are
// those of docs/protocol.md.
//
//	go test ./internal/simtest    # every scenario and some seeds
//	make sim N=100                # a hundred virtual hours
//	make sim SEED=17              # one seed again, exactly as it went
package simtest
