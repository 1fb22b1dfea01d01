// Package token has what a reconnect token needs on one host: the key that
// seals its content, the file that holds it, the notice of a change, and the
// service's configuration that names it.
//
// A reconnect token is what lets clients of a service come back to the next
// owner as if nothing had happened. Why its content is kept as it is, and what
// that protects against, is in DESIGN.md.
package token

// MaxSize is the longest content, in bytes. It travels in the log and in every
// snapshot.
const MaxSize = 64 << 10

// MaxKept is how many earlier versions are kept beside the current one, at the
// most.
const MaxKept = 3
