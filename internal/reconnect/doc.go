// Package reconnect keeps the files of reconnect tokens and the log the same:
// what the log has is in place on every node that may own, and what a service of
// the owner changes is in the log a moment later.
//
// internal/token has what that takes on one host, and DESIGN.md there the
// reasons.
package reconnect
