// Package bench measures failover, ours and keepalived's, side by side: every
// subject runs in a lab of its own (internal/lab) with the same hosts, the same
// client and the same judges, and the subjects take turns, so that a busy
// moment of the machine hits them alike.
//
// [Run] measures and keeps every single trial in a [Report]; [WriteDocs] makes
// the page and the plot of a report. `make bench` does both.
package bench
