// Package failover decides who owns and makes it so. Data flows one way:
//
//	gather (Controller) → Decide (pure) → act (Executor) → journal → log
//
// Decide is a pure function from Inputs to a Plan; it holds every rule of
// ownership that isn't already in cluster.State.Apply. The Executor runs the
// plan's steps in order and reports to the journal. Two tasks run beside that
// ring because a hook may keep it busy for half a minute: the Keeper renews
// the lease and the addresses' lifetimes, and takes the addresses away when
// the lease ends; the Courier carries the journal into the log.
//
// DESIGN.md tells what was rejected on the way.
package failover
