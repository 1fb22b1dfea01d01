package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"had/internal/pki"
)

const day = 24 * time.Hour

func (c *cli) newTLS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tls",
		Short: "Make the certificates of nodes and of operators",
		Long: `Make the certificates by which nodes and operators prove who they are, with a CA
of the cluster's own. It asks no daemon and needs no network: do it on a machine
you trust, and keep the CA's key there.`,
		Example: `  hactl tls init --cluster office
  hactl tls issue alpha beta gamma
  hactl tls issue --client alice --role operator
  hactl tls revoke --client alice
  hactl tls show /etc/had/tls/node.pem`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newTLSInit(), c.newTLSIssue(), c.newTLSRevoke(), c.newTLSShow())
	group(cmd)
	return cmd
}

func (c *cli) newTLSInit() *cobra.Command {
	var dir string
	var days int
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a CA for a cluster",
		Long: `Make a CA for the cluster that --cluster names as had.hcl does. What it signs is
good for that cluster alone. An existing CA is never overwritten.`,
		Example: `  hactl tls init --cluster office
  hactl tls init --cluster office --dir /root/office-ca`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.cluster == "":
				return usageError("say which cluster the CA is for: --cluster NAME, as in had.hcl", nil, cmd)
			case !pki.ValidHost(c.cluster):
				return usageError(fmt.Sprintf("--cluster %q: a cluster's name has letters, digits, \"-\" and \".\"", c.cluster), nil, cmd)
			case days < 1:
				return usageError("--days: at least 1", nil, cmd)
			}
			a, err := pki.CreateAuthority(dir, c.cluster, time.Duration(days)*day, time.Now())
			if err != nil {
				return c.tlsFailure(err, "a CA is never overwritten: choose another --dir for a new one")
			}
			return c.toldOfCA(dir, a)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", c.tlsDir, "the CA's `FOLDER`")
	cmd.Flags().IntVar(&days, "days", int(pki.AuthorityLife/day), "how long the CA is good for")
	return cmd
}

func (c *cli) toldOfCA(dir string, a *pki.Authority) error {
	cert := a.Certificate()
	if c.json() {
		d := documentOf(filepath.Join(dir, pki.CAFile), cert)
		d.SchemaVersion = schemaVersion
		return c.printValue(d)
	}
	return c.print(clean(fmt.Sprintf("the CA of %s is good until %s; its fingerprint is %s", c.cluster, cert.NotAfter.UTC().Format(time.DateOnly), pki.Fingerprint(cert))) + "\n" +
		fmt.Sprintf("  %s  goes to every node and every operator\n  %s  stays here: whoever has it can make nodes\n", filepath.Join(dir, pki.CAFile), filepath.Join(dir, pki.CAKeyFile)) +
		"Next: hactl tls issue NODE…" + dirFlag(dir, c.tlsDir) + "\n")
}

func dirFlag(dir, standard string) string {
	if dir == standard {
		return ""
	}
	return " --dir " + dir
}

// issue is what hactl tls issue is asked for.
type issue struct {
	dir, out, client, role string
	days                   int
	renew                  bool
}

func (c *cli) newTLSIssue() *cobra.Command {
	var i issue
	cmd := &cobra.Command{
		Use:   "issue {NODE… | --client NAME --role viewer|operator|admin}",
		Short: "Make certificates for nodes, or one for an operator",
		Long: `Make a certificate and a key for each named node, or for one person or program
that asks from elsewhere. The files get the names under which had and hactl look
for them, each set in a folder of its own that can be copied as it is.

A viewer reads. An operator also does what takes no decision about who may own:
moves and rehearsals. An admin does everything. docs/security.md has the table.

Nothing is overwritten without --renew, which makes a new certificate and a new
key for the same name and, for a client, with the same role.`,
		Example: `  hactl tls issue alpha beta gamma
  hactl tls issue --client alice --role operator
  hactl tls issue alpha --renew --days 365`,
		RunE: func(cmd *cobra.Command, nodes []string) error {
			names, err := i.names(cmd, nodes)
			if err != nil {
				return err
			}
			return c.issue(i, names)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.dir, "dir", c.tlsDir, "the CA's `FOLDER`")
	f.StringVar(&i.out, "out", "", "`FOLDER` for the files, with one name only (default: nodes/NODE or clients/NAME in the CA's folder)")
	f.StringVar(&i.client, "client", "", "the `NAME` of a person or program; it stands in the history")
	f.StringVar(&i.role, "role", "", "what the client may do: `viewer|operator|admin`")
	f.IntVar(&i.days, "days", 0, fmt.Sprintf("how long it is good for (default: a node %d, a client %d)", pki.NodeLife/day, pki.ClientLife/day))
	f.BoolVar(&i.renew, "renew", false, "replace the certificate that is there, and its key")
	return cmd
}

// names are whom certificates are for; the cluster is filled in later.
func (i issue) names(cmd *cobra.Command, nodes []string) (names []pki.Name, err error) {
	switch {
	case (len(nodes) == 0) == (i.client == ""):
		return nil, usageError("name nodes, or one client with --client", nil, cmd)
	case i.client == "" && i.role != "":
		return nil, usageError("--role is for --client: a node has none", nil, cmd)
	case i.client != "" && i.role == "" && !i.renew:
		return nil, usageError("say what "+i.client+" may do: --role viewer, operator or admin", nil, cmd)
	case i.out != "" && len(nodes) > 1:
		return nil, usageError("--out is for one node: each needs a folder of its own", nil, cmd)
	case i.days < 0:
		return nil, usageError("--days: at least 1", nil, cmd)
	case i.client != "" && !pki.ValidClient(i.client):
		return nil, usageError(fmt.Sprintf("--client %q: take letters, digits, and \".\", \"-\", \"_\" or \"@\" between them", i.client), nil, cmd)
	case i.client != "":
		n := pki.Name{Client: i.client}
		if i.role != "" {
			if n.Role, err = pki.RoleOf(i.role); err != nil {
				return nil, usageError("--role: "+err.Error(), nil, cmd)
			}
		}
		return []pki.Name{n}, nil
	}
	for _, node := range nodes {
		if !pki.ValidHost(node) {
			return nil, usageError(fmt.Sprintf("%q can't be a node's name", node), nil, cmd)
		}
		names = append(names, pki.Name{Node: node})
	}
	return names, nil
}

// folder is where a name's files go.
func (i issue) folder(n pki.Name) string {
	switch {
	case i.out != "":
		return i.out
	case n.Node != "":
		return filepath.Join(i.dir, "nodes", n.Node)
	}
	return filepath.Join(i.dir, "clients", n.Client)
}

// issuedDocument is what was made, in JSON.
type issuedDocument struct {
	SchemaVersion int                   `json:"schema_version"`
	Issued        []certificateDocument `json:"issued"`
}

func (c *cli) issue(i issue, names []pki.Name) error {
	authority, cluster, err := c.authority(i.dir)
	if err != nil {
		return err
	}
	doc := issuedDocument{SchemaVersion: schemaVersion, Issued: []certificateDocument{}}
	var text strings.Builder
	for _, n := range names {
		n.Cluster = cluster
		paths, cert, err := i.make(authority, n)
		if err != nil {
			return c.tlsFailure(err, "give --renew to replace it, or another --out")
		}
		doc.Issued = append(doc.Issued, documentOf(paths[1], cert))
		text.WriteString(c.placed(n, c.nodesFolder(i.dir), paths, cert))
	}
	if names[0].Node != "" && authority.Revoked().Count() > 0 {
		fmt.Fprintf(&text, "a node that is new needs to know whose certificates are revoked, too\n  scp %s root@NODE:%s/\n", filepath.Join(i.dir, pki.RevokedFile), c.nodesFolder(i.dir))
	}
	if c.json() {
		return c.printValue(doc)
	}
	return c.print(text.String())
}

// authority opens the CA of a folder, which is the asked cluster's.
func (c *cli) authority(dir string) (a *pki.Authority, cluster string, err error) {
	a, err = pki.OpenAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fail(exitRefused, "there is no CA in %s: hactl tls init --cluster NAME makes one, and --dir names another folder (%w)", dir, err)
	}
	if err != nil {
		return nil, "", c.tlsFailure(err, "")
	}
	if cluster, err = a.Cluster(); err != nil {
		return nil, "", fail(exitRefused, "use the CA in %s: %w", dir, err)
	}
	if c.cluster != "" && c.cluster != cluster {
		return nil, "", fail(exitRefused, "the CA in %s is for the cluster %q, not for %q", dir, cluster, c.cluster)
	}
	return a, cluster, nil
}

// make issues one certificate and writes its files.
func (i issue) make(a *pki.Authority, n pki.Name) (paths []string, cert *x509.Certificate, err error) {
	dir := i.folder(n)
	if i.renew {
		old, err := pki.NameAt(dir, n.Node != "")
		if err != nil {
			return nil, nil, fmt.Errorf("find what is to be renewed: %w", err)
		}
		if n.Role == pki.NoRole {
			n.Role = old.Role
		}
		if old.Cluster != n.Cluster || old.Node != n.Node || old.Client != n.Client {
			return nil, nil, fmt.Errorf("the certificate in %s is made out to %s: that isn't what is to be renewed", dir, old)
		}
	}
	life := pki.NodeLife
	switch {
	case i.days > 0:
		life = time.Duration(i.days) * day
	case n.Node == "":
		life = pki.ClientLife
	}
	made, err := a.Issue(n, life, time.Now())
	if err != nil {
		return nil, nil, err
	}
	defer clear(made.Key)
	if cert, err = x509.ParseCertificate(made.Cert); err != nil {
		return nil, nil, err
	}
	paths, err = pki.Write(dir, i.dir, n, made, i.renew)
	return paths, cert, err
}

// nodesFolder is where nodes look for the files of this CA: a folder within the usual
// one is another cluster's, which has it there, too.
func (c *cli) nodesFolder(dir string) string {
	if within, err := filepath.Rel(c.tlsDir, dir); err == nil && filepath.IsLocal(within) {
		return filepath.Clean(dir)
	}
	return c.tlsDir
}

// placed says what was made and which file goes where.
func (c *cli) placed(n pki.Name, nodes string, paths []string, cert *x509.Certificate) string {
	until := cert.NotAfter.UTC().Format(time.DateOnly)
	dir := filepath.Dir(paths[1])
	who, where := fmt.Sprintf("the node %s", n.Node), fmt.Sprintf("to %s on %s, or where the tls block of its had.hcl says; had there reads them by itself\n  scp %s/*.pem root@%s:%s/", nodes, n.Node, dir, n.Node, nodes)
	if n.Node == "" {
		name, _ := pki.NameIn(cert) // issued a moment ago
		who = fmt.Sprintf("%s, %s of %s", n.Client, name.Role, n.Cluster)
		where = "to ~/.config/had of whoever that is (mode 0600), for hactl --address HOST:PORT; who asks several clusters, to ~/.config/had/" + n.Cluster
	}
	return fmt.Sprintf("%s: good until %s\n  %s\n  copy them %s\n", who, until, strings.Join(paths, "\n  "), where)
}

// tlsFailure gives errors of files their exit codes.
func (c *cli) tlsFailure(err error, exists string) error {
	switch {
	case errors.Is(err, fs.ErrExist):
		return fail(exitRefused, "%w: %s", err, exists)
	case errors.Is(err, fs.ErrPermission):
		return fail(exitNotPermitted, "%w: try sudo, or another --dir", err)
	}
	return fail(exitFailed, "%w", err)
}
