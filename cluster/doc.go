// Package cluster holds what the nodes agree on: the replicated State with
// its pure Apply, the raft Node that replicates it, and the arithmetic of the
// lease that lets one node own.
//
// Ownership is not leadership. A leader may hold addresses only while a lease
// that it proposed itself, and that was committed, has not run out; the next
// leader waits that lease out by its own clock, or acts on evidence in the
// log. docs/protocol.md has the protocol and its proof; DESIGN.md in this
// folder has what was rejected on the way.
package cluster
