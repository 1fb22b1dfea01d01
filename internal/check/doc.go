// Package check looks again and again at what a policy's checks name, and says
// which of them fail. What follows from that is decided elsewhere: see
// internal/failover.
package check
