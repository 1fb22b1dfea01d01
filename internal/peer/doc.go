// Package peer is a node's one TCP port and what has to be settled before a
// byte of raft or RPC crosses it: who is on the other side.
//
// A node is its data folder. It draws a random node ID when the folder is
// empty; a cluster is born when all its nodes have met and durably agreed on
// one birth certificate that names every node's ID. From then on a connection
// is opened by a preamble in which both sides show that they are the nodes of
// that certificate. A node whose folder was emptied comes back as somebody
// else and is refused by everybody: it may have forgotten a vote.
//
// DESIGN.md has the agreement's proof and what was rejected.
package peer
