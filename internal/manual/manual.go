// Package manual writes what a distribution's package has beside the programs:
// man pages and shell completions, made from the commands themselves.
package manual

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Book is what all pages of a build have in common.
type Book struct {
	Version string    // of what is documented
	Date    time.Time // printed on every page
}

// New returns the book of a version. Its date is SOURCE_DATE_EPOCH's
// (https://reproducible-builds.org/specs/source-date-epoch/), so that two
// builds of one commit write the same bytes.
func New(version string) (Book, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return Book{}, fmt.Errorf("read SOURCE_DATE_EPOCH, the seconds since 1970 that pages are dated with: %w", err)
	}
	return Book{Version: version, Date: time.Unix(seconds, 0).UTC()}, nil
}

const title = "Manual of had"

// Commands writes the pages of root and of every command below it,
// dir/man/had-run.8, and the completions dir/completions/had.{bash,zsh,fish}.
func (b Book) Commands(dir string, root *cobra.Command, section string) error {
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	for _, d := range []string{man, completions} {
		if err := os.MkdirAll(d, 0o755); err != nil { //nolint:gosec // documents are for all to read
			return fmt.Errorf("make a folder for the pages: %w", err)
		}
	}
	plain(root)
	header := doc.GenManHeader{Section: section, Date: &b.Date, Source: root.Name() + " " + b.Version, Manual: title}
	err := doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{Header: &header, Path: man, CommandSeparator: "-"})
	if err != nil {
		return fmt.Errorf("write the man pages of %s: %w", root.Name(), err)
	}
	for shell, write := range map[string]func(io.Writer) error{
		"bash": func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  root.GenZshCompletion,
		"fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	} {
		var script bytes.Buffer
		if err := write(&script); err != nil {
			return fmt.Errorf("write the completion of %s for %s: %w", root.Name(), shell, err)
		}
		if err := publish(filepath.Join(completions, root.Name()+"."+shell), script.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// plain prepares a command and those below it for a page: the time of the
// build isn't noted, and what their texts mean literally isn't markup.
func plain(cmd *cobra.Command) {
	literal := strings.NewReplacer("<", `\<`, "*", `\*`, "_", `\_`, "[", `\[`, "#", `\#`, "`", "\\`")
	cmd.DisableAutoGenTag = true
	cmd.Long = literal.Replace(cmd.Long)
	for _, c := range cmd.Commands() {
		plain(c)
	}
}

func publish(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // documents are for all to read
		return fmt.Errorf("write a document: %w", err)
	}
	return nil
}
