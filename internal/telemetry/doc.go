// Package telemetry tells monitoring how a node is: /metrics in the text format of
// Prometheus, /healthz and /readyz, over HTTP.
//
// Nothing that a failover does waits for it, or does anything for it: the state is
// read when somebody asks, and what is counted is counted from the history that every
// node has.
package telemetry
