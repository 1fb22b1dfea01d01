package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// starter is the policy to begin with. A line that begins with # and no space is
// HCL that waits to be wanted.
//
//go:embed starter.hcl
var starter string

func (c *cli) newPolicyInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE|-]",
		Short: "Write a policy to begin with",
		Long: `Write a policy to begin with, with a comment on each block, into FILE (default:
policy.hcl), or to stdout. A file that is there isn't touched: the exit code is
then 3.`,
		Example: `  hactl policy init
  hactl policy init - | less`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			path := "policy.hcl"
			if len(args) > 0 {
				path = args[0]
			}
			if path == "-" {
				return c.print(starter)
			}
			return c.policyInit(path)
		},
	}
}

func (c *cli) policyInit(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fail(exitRefused, "%s is there already: it isn't touched", clean(path))
	case err != nil:
		return fmt.Errorf("write a policy: %w", err)
	}
	_, err = f.WriteString(starter)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write a policy: %w", err), os.Remove(path))
	}
	fmt.Fprintln(c.err, "change it, then: hactl policy plan "+clean(path))
	return c.print(clean(path) + "\n")
}
