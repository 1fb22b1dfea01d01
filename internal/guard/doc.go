// Package guard is the small process beside had that ends a lease when had
// can't: at the deadline when had is stopped or stuck, and at once when had
// dies. It then tells the other nodes, so that they need not wait.
//
// had's side is Supervisor and Guard (and Client, which a simulation uses
// alone). The guard's side is Main, the process, and Warden, what it does.
// DESIGN.md says why its report is true.
package guard
