package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/spf13/cobra"
)

func (c *cli) newPolicyFmt() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt FILE...|-",
		Short: "Lay a policy out as everybody does",
		Long: `Give policies, or node files, the usual layout of HCL, and print the names of those
that changed. - reads stdin and writes to stdout. No daemon is asked.

With --check nothing is written: the exit code is 1 when a file has another layout.`,
		Example: `  hactl policy fmt policy.hcl
  hactl policy fmt --check *.hcl`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, path := range args {
				errs = append(errs, c.policyFmt(path, check))
			}
			return worst(errs)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "only look: exit with 1 when a file has another layout")
	return cmd
}

// worst joins what became of several files; a file that isn't HCL counts most.
func worst(errs []error) error {
	err, code := errors.Join(errs...), exitDone
	for _, e := range errs {
		if e != nil {
			code = max(code, asFailure(e).code)
		}
	}
	if err == nil {
		return nil
	}
	if err.Error() == "" {
		return &failure{code: code}
	}
	return fail(code, "%w", err)
}

func (c *cli) policyFmt(path string, check bool) error {
	name, text, err := c.readPolicy(path)
	if err != nil {
		return err
	}
	if _, diags := hclwrite.ParseConfig([]byte(text), name, hcl.InitialPos); diags.HasErrors() {
		return fail(exitUsage, "%w", diags)
	}
	formatted := hclwrite.Format([]byte(text))
	same := bytes.Equal(formatted, []byte(text))
	switch {
	case path == "-" && !check:
		return c.print(string(formatted))
	case same:
		return nil
	case !check:
		if err := replaceFile(path, formatted); err != nil {
			return err
		}
	}
	if err := c.print(clean(name) + "\n"); err != nil || !check {
		return err
	}
	return &failure{code: exitFailed} // its name says it
}

// replaceFile gives a file another content, as a whole or not at all. It keeps its
// mode, and a link stays one.
func replaceFile(path string, content []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", clean(path), err)
		}
	}()
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".policy-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(content))
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
