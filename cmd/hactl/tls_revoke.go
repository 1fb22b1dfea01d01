package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"had/internal/pki"
)

func (c *cli) newTLSRevoke() *cobra.Command {
	var i issue
	cmd := &cobra.Command{
		Use:   "revoke {NODE… | --client NAME}",
		Short: "Take back what was issued to nodes or to an operator",
		Long: `Take back all certificates that were issued until now to each named node, or to one
person or program: a key was lost, or somebody left. The names are noted in a file
beside the CA's certificate. Nodes that have a copy of it refuse these certificates,
and within a second end the connections that were opened with them.

What is issued to the same name later is good. An operator who should never come back
is done with; a node needs a new certificate, before the others have the file.`,
		Example: `  hactl tls revoke --client alice
  hactl tls revoke beta`,
		RunE: func(cmd *cobra.Command, nodes []string) error {
			i.renew = true // whatever the role is
			names, err := i.names(cmd, nodes)
			if err != nil {
				return err
			}
			return c.revoke(i.dir, names)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.dir, "dir", c.tlsDir, "the CA's `FOLDER`")
	f.StringVar(&i.client, "client", "", "the `NAME` of a person or program")
	return cmd
}

// revokedDocument is what was noted, in JSON.
type revokedDocument struct {
	SchemaVersion int      `json:"schema_version"`
	File          string   `json:"file"`
	Revoked       []string `json:"revoked"`
}

func (c *cli) revoke(dir string, names []pki.Name) error {
	if _, _, err := c.authority(dir); err != nil {
		return err
	}
	path, err := pki.Revoke(dir, names, time.Now())
	if err != nil {
		return c.tlsFailure(err, "")
	}
	who := make([]string, len(names))
	for i, n := range names {
		who[i] = n.Node + n.Client
	}
	if c.json() {
		return c.printValue(revokedDocument{schemaVersion, path, who})
	}
	again, order := strings.Join(who, " ")+" --renew", "and this file to all after them: a node with a revoked certificate is refused"
	if names[0].Node == "" {
		again, order = "--client "+again, ""
	}
	nodes := c.nodesFolder(dir)
	text := fmt.Sprintf("%s: what was issued until now is revoked\n  %s\n  copy it to %s on every node, beside ca.pem; had there reads it by itself\n  scp %s root@NODE:%s/\n", strings.Join(who, ", "), path, nodes, path, nodes)
	text += "For new ones: hactl tls issue " + again + dirFlag(dir, c.tlsDir) + "\n"
	if order != "" {
		text += "Copy those to their nodes first, " + order + "\n"
	}
	return c.print(text)
}
