// Command had is the high-availability daemon.
package main

import "os"

// version and commit are set by the linker (see the Makefile).
var version, commit string

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
