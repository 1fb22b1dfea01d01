// Package notify tells people and programs what happens to the cluster.
//
// It reads the replicated history and sends what is worth telling over the
// channels of the policy. Whoever leads does that. How far each channel is
// stands in the log: a message is claimed before it is sent and settled after
// it, so that the next leader goes on where the last one stopped. What exactly
// is promised is in docs/notifications.md, and why it is built so in DESIGN.md.
//
// Nothing that a failover waits for waits for this package.
package notify
