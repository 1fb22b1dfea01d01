package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"had/internal/importer"
)

// importFlags are the flags of every import.
type importFlags struct {
	out       string
	force     bool
	nodes     []string
	witnesses []string
	only      []string
	hooksDir  string
	port      int
}

func (c *cli) newImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Make had's files out of keepalived's or IPFailover's",
		Long: `Make a node file, a policy and hook folders of the configuration of another
failover manager, and list with file and line what can't be carried over and
why. No daemon is asked, and nothing is changed but the folder given by --out.`,
		Example: `  hactl import keepalived /etc/keepalived/keepalived.conf
  hactl import ipfailover /Library/IPFailover --hostconfig hostconfig --out had`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newImportKeepalived(), c.newImportIPFailover())
	group(cmd)
	return cmd
}

func (c *cli) newImportKeepalived() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "keepalived [NODE=]FILE...",
		Short: "Make had's files of keepalived.conf",
		Long: `Make had's files of keepalived.conf: of one that serves all nodes by its lines
with @, or of the file of each node. NODE= says whose a file is, where neither
router_id nor unicast_src_ip does.

Without --out everything is printed as one text. Files that are wrong are
refused with their lines, and nothing is written; the exit code is then 2.`,
		Example: `  hactl import keepalived /etc/keepalived/keepalived.conf
  hactl import keepalived alpha=alpha.conf beta=beta.conf --witness gamma=10.0.0.13 --out had
  hactl import keepalived keepalived.conf --only VI_2 --cluster mail --port 7401 --out mail`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := c.importOptions(f, cmd)
			if err != nil {
				return err
			}
			var sources []importer.Source
			for _, arg := range args {
				src, err := keepalivedSource(arg)
				if err != nil {
					return err
				}
				sources = append(sources, src)
			}
			r, err := importer.Keepalived(os.DirFS("/"), sources, opts)
			return c.imported(r, err, f)
		},
	}
	f.register(cmd, "`NAME` of a vrrp_instance or vrrp_sync_group; the others are left out (repeatable)")
	return cmd
}

func (c *cli) newImportIPFailover() *cobra.Command {
	var f importFlags
	var hostconfigs []string
	cmd := &cobra.Command{
		Use:   "ipfailover FOLDER",
		Short: "Make had's files of a Mac OS X Server's IPFailover folder",
		Long: `Make had's files of a Mac OS X Server's /Library/IPFailover and of the FAILOVER_
lines of the servers' /etc/hostconfig. The scripts are copied as they are; what
in them only a Mac knows is listed.

Without --out everything is printed as one text. Files that are wrong are
refused with their lines, and nothing is written; the exit code is then 2.`,
		Example: `  hactl import ipfailover IPFailover
  hactl import ipfailover IPFailover --hostconfig hostconfig.primary --hostconfig hostconfig.secondary --out had`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := c.importOptions(f, cmd)
			if err != nil {
				return err
			}
			folder, err := importSource(args[0])
			if err != nil {
				return err
			}
			var configs []importer.Source
			for _, path := range hostconfigs {
				src, err := importSource(path)
				if err != nil {
					return err
				}
				configs = append(configs, src)
			}
			r, err := importer.IPFailover(os.DirFS("/"), folder, configs, opts)
			return c.imported(r, err, f)
		},
	}
	cmd.Flags().StringArrayVar(&hostconfigs, "hostconfig", nil, "`FILE` with the FAILOVER_ lines of one server (repeatable)")
	f.register(cmd, "`ADDRESS` to carry over; the others are left out (repeatable)")
	return cmd
}

func (f *importFlags) register(cmd *cobra.Command, only string) {
	flags := cmd.Flags()
	flags.StringVar(&f.out, "out", "", "write the files into `FOLDER`")
	flags.BoolVar(&f.force, "force", false, "replace files that are there")
	flags.StringArrayVar(&f.nodes, "node", nil, "a node of the cluster to be, as `NAME=ADDRESS` (repeatable)")
	flags.StringArrayVar(&f.witnesses, "witness", nil, "one that votes but never owns, as `NAME=ADDRESS` (repeatable)")
	flags.StringArrayVar(&f.only, "only", nil, only)
	flags.IntVar(&f.port, "port", 7400, "the nodes' TCP port, another for each cluster of a host")
	flags.StringVar(&f.hooksDir, "hooks", "/etc/had/hooks", "where the hook folders will lie on the nodes, `FOLDER`")
}

// importOptions turns the flags into what the importer takes.
func (c *cli) importOptions(f importFlags, cmd *cobra.Command) (importer.Options, error) {
	opts := importer.Options{Cluster: c.cluster, Port: f.port, HooksDir: f.hooksDir, Only: f.only}
	if f.force && f.out == "" {
		return opts, usageError("--force without --out: nothing is written", nil, cmd)
	}
	if f.port < 1 || f.port > 65535 {
		return opts, fail(exitUsage, "--port %d: choose a number from 1 to 65535", f.port)
	}
	if !filepath.IsAbs(f.hooksDir) {
		return opts, fail(exitUsage, "--hooks %q: begin it with /: it is a folder of the nodes", f.hooksDir)
	}
	if opts.Cluster != "" && !importer.ValidName(opts.Cluster) {
		return opts, fail(exitUsage, "--cluster %q can't be a cluster's name: take letters, digits, - and .", opts.Cluster)
	}
	for _, list := range []struct {
		flag    string
		values  []string
		witness bool
	}{{"--node", f.nodes, false}, {"--witness", f.witnesses, true}} {
		for _, value := range list.values {
			name, address, _ := strings.Cut(value, "=")
			addr, err := netip.ParseAddr(address)
			if err != nil || !importer.ValidName(name) || addr.Zone() != "" {
				return opts, fail(exitUsage, "%s %q: write a host name and its IP address, as in alpha=10.0.0.11", list.flag, value)
			}
			opts.Nodes = append(opts.Nodes, importer.Node{Name: name, Address: addr.Unmap(), Witness: list.witness})
		}
	}
	return opts, nil
}

// importSource is a path of this host, which the importer reads from the root.
func importSource(path string) (importer.Source, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return importer.Source{}, fmt.Errorf("find %s: %w", path, err)
	}
	rooted := strings.TrimPrefix(full, "/")
	if rooted == "" {
		rooted = "."
	}
	return importer.Source{Name: path, Path: rooted}, nil
}

// keepalivedSource reads "[NODE=]FILE".
func keepalivedSource(arg string) (importer.Source, error) {
	node, path, named := strings.Cut(arg, "=")
	if _, err := os.Stat(arg); err == nil || !named || !importer.ValidName(node) {
		node, path = "", arg
	}
	src, err := importSource(path)
	src.Node = node
	return src, err
}

// imported prints the result or writes its files.
func (c *cli) imported(r *importer.Result, err error, f importFlags) error {
	if err != nil {
		fmt.Fprintln(c.err, strings.Join(cleanBlock(err.Error()), "\n"))
		return fail(exitUsage, "nothing was imported")
	}
	if f.out != "" {
		r.Files = append(r.Files, importer.File{Path: "import.txt", Mode: 0o644, Data: []byte(r.List())})
		if err := importer.Write(f.out, r.Files, f.force); err != nil {
			if errors.Is(err, os.ErrExist) {
				return fail(exitRefused, "%w: nothing was written; --force replaces what is there", err)
			}
			return fail(exitFailed, "%w", err)
		}
	}
	if c.json() {
		return c.printValue(importDocument(r))
	}
	if f.out == "" {
		return c.print(r.Text())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Written to %s:\n\n", clean(f.out))
	for _, file := range r.Files {
		fmt.Fprintf(&b, "  %s\n", clean(file.Path))
	}
	fmt.Fprintf(&b, "\n%s\nNext: had validate --config %s --policy %s\n", r.List(),
		clean(filepath.Join(f.out, "had.hcl")), clean(filepath.Join(f.out, "policy.hcl")))
	return c.print(b.String())
}

// importAnswer is an import in JSON.
type importAnswer struct {
	SchemaVersion int                `json:"schema_version"`
	Files         []importFile       `json:"files"`
	Carried       []importer.Carried `json:"carried"`
	NotCarried    []importer.Note    `json:"not_carried"`
	ToDo          []string           `json:"to_do"`
}

type importFile struct {
	Path       string `json:"path"`
	Executable bool   `json:"executable"`
	Text       string `json:"text"` // what isn't UTF-8 is replaced by U+FFFD
}

func importDocument(r *importer.Result) importAnswer {
	a := importAnswer{
		SchemaVersion: schemaVersion, Files: []importFile{}, Carried: append([]importer.Carried{}, r.Carried...),
		NotCarried: append([]importer.Note{}, r.Notes...), ToDo: append([]string{}, r.ToDo...),
	}
	for i, n := range a.NotCarried {
		if n.Lines == nil {
			a.NotCarried[i].Lines = []int{}
		}
	}
	for _, f := range r.Files {
		a.Files = append(a.Files, importFile{f.Path, f.Mode&0o111 != 0, strings.ToValidUTF8(string(f.Data), "\ufffd")})
	}
	return a
}
