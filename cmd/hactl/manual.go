//go:build manual

// With this tag hactl writes its man pages and completions into the folder
// given, and does nothing else.
package main

import (
	"fmt"
	"os"

	"had/internal/manual"
)

func main() {
	book, err := manual.New(version)
	if err == nil {
		c := &cli{app: hostApp()}
		err = book.Commands(os.Args[1], c.newRoot(), "1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hactl:", err)
		os.Exit(exitFailed)
	}
}
