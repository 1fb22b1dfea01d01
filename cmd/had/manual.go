//go:build manual

// With this tag had writes its man pages and completions into the folder given,
// and does nothing else. The second argument is docs/files.md.
package main

import (
	"errors"
	"fmt"
	"os"

	"had/internal/manual"
)

// packagedDocs is where a package has docs/.
const packagedDocs = "/usr/share/doc/had"

func main() {
	book, err := manual.New(version)
	if err == nil {
		dir, files := os.Args[1], os.Args[2]
		err = errors.Join(
			book.Commands(dir, newRoot(), "8"),
			book.File(dir, "had.hcl", "who the nodes of a had cluster are", files, packagedDocs),
			book.File(dir, "policy.hcl", "what a had cluster owns", files, packagedDocs),
		)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "had:", err)
		os.Exit(exitFailed)
	}
}
