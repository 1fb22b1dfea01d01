package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"had/internal/durable"
)

func (c *cli) newSupportBundle() *cobra.Command {
	var file, config string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Gather what explains a failover in one file, without secrets",
		Long: `Gather what somebody needs to know why a cluster did what it did: state, history,
policy and timing as the daemon tells them, and on a node itself its log, its kernel's
addresses, routes, filters and mounts, and what its node file says. It is written to
one compressed tar file that only you can read. Nothing is changed; preflight, which is
part of it, asks fence devices for their status.

What can't be had is listed with the reason. A daemon that is down keeps nothing else
out: run this on the node itself. Asked from elsewhere (--address), it has what your
role may see, and nothing of the node's host.

Private keys and files with secrets are never read into it. What stands where secrets
do is replaced by (secret), and so is what this host's files with secrets hold,
wherever it turns up; comments of policy and node file are left out. Scripts' output is
part of the history: look at the file before you send it.`,
		Example: `  hactl support-bundle
  hactl support-bundle -o /tmp/had.tar.gz
  ssh root@alpha hactl support-bundle -o - > alpha.tar.gz`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "json" || file == "table" {
				return usageError(fmt.Sprintf("-o %s names the file here: write ./%s if that is meant", file, file), nil, cmd)
			}
			return c.supportBundle(cmd.Context(), file, config)
		},
	}
	// In the place of the global flag of that name: there is one form.
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to `FILE`, or with - to stdout (default: had-support-CLUSTER-NODE-TIME.tar.gz here)")
	cmd.Flags().StringVar(&config, "config", "", "this host's node `FILE` (default: "+filepath.Join(c.configDir, "had.hcl")+"; of --cluster NAME that file there, if it is)")
	return cmd
}

func (c *cli) supportBundle(ctx context.Context, file, config string) error {
	toStdout := file == "-"
	if toStdout && c.isTerminal {
		return fail(exitUsage, "a terminal can't show a compressed file: name a file with -o FILE, or send it into a pipe")
	}
	if !toStdout {
		if err := vacant(file); err != nil {
			return err
		}
	}
	if c.nodeAddress() == "" {
		if _, err := c.socketPath(); err != nil && asFailure(err).code == exitUsage {
			return err // there are several: without a daemon one is gathered from all the same
		}
	}
	g := c.newGatherer(config)
	g.gather(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case g.lost != nil && !g.local():
		return g.lost
	}
	data, err := g.bundle.Bytes()
	if err != nil {
		return err
	}
	if toStdout {
		if _, err := c.out.Write(data); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		fmt.Fprint(c.err, g.summary("", len(data)))
		return nil
	}
	if file == "" {
		file = g.bundle.Name + ".tar.gz"
	}
	switch err := durable.WriteFile(file, data, false); {
	case errors.Is(err, fs.ErrExist):
		return occupied(file)
	case err != nil:
		return fmt.Errorf("write the bundle, of which nothing is left behind: %w", err)
	}
	return c.print(g.summary(file, len(data)))
}

// vacant looks before minutes are spent whether a file can be made.
func vacant(file string) error {
	if file == "" {
		return nil
	}
	if _, err := os.Lstat(file); err == nil {
		return occupied(file)
	}
	if info, err := os.Stat(filepath.Dir(file)); err != nil {
		return fail(exitUsage, "write the bundle: %w", err)
	} else if !info.IsDir() {
		return fail(exitUsage, "write the bundle: %s is no folder", filepath.Dir(file))
	}
	return nil
}

func occupied(file string) error {
	return fail(exitRefused, "%s is there already, and a bundle replaces nothing: name another file with -o", file)
}

// summary says what has been gathered and what to do with it; file is empty when it
// went to stdout.
func (g *gatherer) summary(file string, size int) string {
	where, unpack := file, "tar xzf "+file
	if file == "" {
		where, unpack = "stdout", "tar xzf FILE"
	}
	return strings.Join(cleanBlock(g.bundle.List.Text()), "\n") + fmt.Sprintf(`

Written to %s, %d bytes.
Look at it before you send it: %s
Secrets are taken out as far as they can be recognised; names and addresses are not.
`, where, size, unpack)
}

// bundleName is what a bundle, and its folder, are called.
func bundleName(cluster, node string, at time.Time) string {
	part := func(s string) string {
		s = strings.Trim(notInName.ReplaceAllString(s, "-"), "-.")
		if s == "" {
			return "unknown"
		}
		return s[:min(len(s), 64)]
	}
	return fmt.Sprintf("had-support-%s-%s-%s", part(cluster), part(node), at.UTC().Format("20060102T150405Z"))
}

var notInName = regexp.MustCompile(`[^A-Za-z0-9.-]+`)
