package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"had/internal/daemon"
	"had/internal/policy"
)

// validation is the answer of had validate.
type validation struct {
	SchemaVersion int       `json:"schema_version"`
	Valid         bool      `json:"valid"`
	Node          string    `json:"node"`
	Cluster       string    `json:"cluster"`
	Nodes         int       `json:"nodes"`
	Addresses     *int      `json:"addresses,omitempty"` // only with --policy
	Diagnostics   []finding `json:"diagnostics"`

	// What would end a lease on this host without the daemon.
	Layers []daemon.Layer `json:"layers"`
	// Where the file differs from who belongs to the cluster; not wrong.
	Notes []string `json:"notes,omitempty"`
}

// errRefused is returned when the findings have been printed already.
var errRefused = errors.New("refused")

func validateCommand() *cobra.Command {
	var config, node, policyFile string
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a node file, and a policy file, without running anything",
		Long: `Check the node file, and with --policy a policy file against it. Nothing is
changed, and no daemon is needed. Exit code 2 when a file is refused.`,
		Example: "  had validate\n  had validate --config ./had.hcl --policy ./policy.hcl\n  had validate --node beta -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			v, diags, text, err := validate(config, node, policyFile, cmd.InOrStdin())
			if err != nil {
				return err
			}
			v.Diagnostics = findings(diags)
			v.Valid = !diags.HasErrors()
			if output.form == "table" {
				fmt.Fprint(cmd.ErrOrStderr(), diags)
			}
			if err := output.print(cmd.OutOrStdout(), v, text); err != nil {
				return err
			}
			if !v.Valid {
				return usageError{errRefused}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", defaultConfig, "the node file")
	cmd.Flags().StringVar(&node, "node", "", "check the file as this node's (default: the host name)")
	cmd.Flags().StringVarP(&policyFile, "policy", "p", "", "a policy file to check too; - reads standard input")
	output.register(cmd)
	return cmd
}

// validate checks the files; text has a line for each that is valid.
func validate(config, node, policyFile string, stdin io.Reader) (v validation, diags policy.Diagnostics, text string, err error) {
	v.SchemaVersion, v.Layers = schemaVersion, []daemon.Layer{}
	f, diags, err := parseNodeFile(config, node)
	if err != nil || f == nil {
		return v, diags, "", err
	}
	v.Node, v.Cluster, v.Nodes = f.Node, f.Cluster, len(f.Members)
	if err := daemon.WatchdogTaken(f); err != nil {
		return v, diags, "", usageError{err}
	}
	text = fmt.Sprintf("%s is valid: node %s of cluster %s, %s\n", config, f.Node, f.Cluster, plural(len(f.Members), "node", "nodes"))
	v.Notes = daemon.Disagreements(f)
	for _, note := range v.Notes {
		text += "  but " + note + "\n"
	}
	if !f.Self().Witness {
		v.Layers = daemon.Layers()
		text += layersText(v.Layers)
	}
	if policyFile == "" {
		return v, diags, text, nil
	}
	src, err := readFileOr(policyFile, stdin)
	if err != nil {
		return v, nil, "", usageError{fmt.Errorf("read the policy: %w", err)}
	}
	p, more := policy.ParsePolicy(policyFile, src)
	if p != nil {
		more = append(more, p.CheckMembers(f.Members)...)
		n := len(p.VIPs)
		v.Addresses = &n
	}
	if !more.HasErrors() {
		text += fmt.Sprintf("%s is valid: %s\n", policyFile, plural(*v.Addresses, "address", "addresses"))
	}
	return v, append(diags, more...), text, nil
}

// layersText is a line on what this host does should the daemon die.
func layersText(layers []daemon.Layer) string {
	var names []string
	missing := ""
	for _, l := range layers {
		if l.Missing == "" {
			names = append(names, l.Name)
		} else {
			missing += fmt.Sprintf("  without %s: %s\n", l.Name, l.Missing)
		}
	}
	return "should the daemon die, this host ends a lease by: " + strings.Join(names, ", ") + "\n" + missing
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func readFileOr(path string, stdin io.Reader) ([]byte, error) {
	if path != "-" {
		return os.ReadFile(path)
	}
	if stdin == nil {
		return nil, errors.New("there is no standard input")
	}
	return io.ReadAll(stdin)
}
