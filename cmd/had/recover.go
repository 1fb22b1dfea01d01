package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"had/internal/daemon"
	hadv1 "had/proto/had/v1"
)

// recovery is one had recover.
type recovery struct {
	flags  nodeFlags
	output outputFlag
	lost   []string
	reason string
	yes    bool
	dryRun bool

	in       *bufio.Reader
	asks     bool // in is a terminal
	out, err io.Writer
}

func recoverCommand() *cobra.Command {
	var r recovery
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on with this node alone when the majority of the cluster is lost for ever",
		Long: `Go on with this node alone, when so many nodes are lost for ever that those left
are no majority. had must be stopped. What a node that comes back later still has
is of no use to it: this node's cluster is a new generation, which the former
members can't join as they are; a node that meets it ends and says what to do.

It shows what this node's log has and what would follow. Then you confirm every
other member by its name: it is off for good, or had is stopped on it and its data
folder will be emptied before had starts there again. If you are wrong, two nodes
may own the addresses and write to the volumes. A node that answers is refused.

Of several nodes that are left, recover the one whose log ends last (--dry-run
shows it), and add the others afterwards as new nodes. docs/disaster.md leads
through all of it. A copy of the data folder is kept beside it.`,
		Example: `  had recover --dry-run
  had recover --reason "fire in room 2"
  had recover --lost alpha --lost beta --yes    # in a script that has looked`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.in, r.out, r.err = bufio.NewReader(cmd.InOrStdin()), cmd.OutOrStdout(), cmd.ErrOrStderr()
			f, isFile := cmd.InOrStdin().(*os.File)
			r.asks = isFile && term.IsTerminal(int(f.Fd()))
			return r.run(cmd)
		},
	}
	r.flags.register(cmd)
	r.output.register(cmd)
	cmd.Flags().StringArrayVar(&r.lost, "lost", nil, "with --yes: `NODE` is off for good, or its data folder will be emptied; once for every other member")
	cmd.Flags().StringVar(&r.reason, "reason", "", "`TEXT` kept in the history: what you have seen")
	cmd.Flags().BoolVar(&r.yes, "yes", false, "don't ask for the names: you have looked")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "show what would be done, and end")
	return cmd
}

func (r *recovery) run(cmd *cobra.Command) (err error) {
	if err := r.output.check(); err != nil {
		return err
	}
	cfg, err := r.flags.daemonConfig(cmd)
	if err != nil {
		return err
	}
	rec, err := daemon.OpenRecovery(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	loss, node := rec.Loss(), cfg.File.Node
	if err := checkLost(r.lost, loss.Lost); err != nil {
		return err
	}
	doc := newLossDocument(cfg.File.Cluster, node, loss)
	if r.output.form != "json" {
		fmt.Fprint(r.out, lossText(cfg.File.DataDir, cfg.File.Cluster, node, loss))
	}
	ctx, _, stop := untilSignal(context.Background())
	defer stop()
	if answering := rec.Answering(ctx); len(answering) > 0 {
		fmt.Fprintf(r.err, "had: something answers at the address of %s: it isn't lost\n", strings.Join(answering, ", "))
		doc.Answering = answering
	}
	if r.dryRun {
		return r.output.print(r.out, doc, "")
	}
	if err := r.confirm(ctx, loss.Lost); err != nil {
		return err
	}
	if err := rec.Run(ctx, who()+" on "+node, r.reason); err != nil {
		return err
	}
	doc.Recovered = true
	return r.output.print(r.out, doc, nextText(r.flags.config, node, loss))
}

// checkLost wants the names that were given to be those of other members.
func checkLost(names []string, lost []*hadv1.Member) error {
	for _, name := range names {
		if !slices.ContainsFunc(lost, func(m *hadv1.Member) bool { return m.GetName() == name }) {
			return usageError{fmt.Errorf("--lost %s: the other members are %s", name, memberNames(lost))}
		}
	}
	return nil
}

// confirm has every lost node confirmed; nothing is changed before.
func (r *recovery) confirm(ctx context.Context, lost []*hadv1.Member) error {
	for _, m := range lost {
		name := m.GetName()
		switch {
		case r.yes && slices.Contains(r.lost, name):
			continue
		case r.yes:
			return usageError{fmt.Errorf("--yes needs --lost %s, too: that it is off for good, or that its data folder will be emptied", name)}
		case !r.asks:
			return usageError{fmt.Errorf("this isn't a terminal, so nobody can be asked: give --lost %s --yes if you have seen that", strings.ReplaceAll(memberNames(lost), ", ", " --lost "))}
		}
		fmt.Fprintf(r.err, "%s: it is off for good, or had is stopped on it and its data folder will be emptied.\nType the node's name to confirm: ", name)
		typed, err := r.typed(ctx)
		if err == nil && typed != name {
			err = fmt.Errorf("not confirmed: %q is not %s; nothing was changed", typed, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// typed is the line that somebody types at the terminal, without the space around it.
func (r *recovery) typed(ctx context.Context) (string, error) {
	answer := make(chan string, 1)
	// A read from a terminal can't be cut short: after Ctrl-C the process ends, and
	// with it this.
	go func() {
		line, err := r.in.ReadString('\n')
		if err != nil {
			fmt.Fprintln(r.err)
		}
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(r.err)
		return "", errors.New("interrupted: nothing was changed")
	case line := <-answer:
		return line, nil
	}
}

// who names the person at the keyboard, also behind sudo(8).
func who() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func memberNames(members []*hadv1.Member) string {
	var names []string
	for _, m := range members {
		names = append(names, m.GetName())
	}
	return strings.Join(names, ", ")
}

// lossText is what a person reads before confirming.
func lossText(dataDir, cluster, node string, l daemon.Loss) string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	view := l.Remains.View()
	fmt.Fprintf(&b, "Cluster %s as %s has it\n\n", cluster, node)
	written := ""
	if !l.Remains.LastAt.IsZero() {
		written = ", written " + stamp(l.Remains.LastAt)
	}
	line("log", "ends at entry %d of term %d%s", l.Remains.LastIndex, l.Remains.LastTerm, written)
	if p := view.Policy; p != nil {
		line("policy", "version %d of %s", p.GetVersion(), stamp(p.GetAt().AsTime()))
	} else {
		line("policy", "none")
	}
	for _, c := range view.Open {
		line("open epoch", "%d of %s since %s: %s", c.GetEpoch(), c.GetInstance().GetNode(), stamp(c.GetAt().AsTime()), heldText(c))
	}
	if len(view.Open) == 0 {
		line("open epoch", "none")
	}
	fmt.Fprintf(&b, "\nWhat would be done\n\n")
	line("members", "%s alone (generation %d), without %s", node, l.Generation, memberNames(l.Lost))
	line("kept", "%s, a copy of %s", l.Backup, dataDir)
	line("owning", "%s after had has started here: a lost node that was cut off has let go by then", l.Wait.Round(100*time.Millisecond))
	if l.Leaving {
		line("but", "%s was being removed when this log ends: the others have most likely gone on without it; recover one of them", node)
	}
	for _, d := range view.Drained {
		if d.GetNode() == node {
			line("but", "%s is drained by %s and owns nothing: hactl undrain %s, once had runs", node, d.GetBy(), node)
		}
	}
	if f := view.Frozen; f != nil {
		line("but", "ownership is frozen until %s: hactl unfreeze, once had runs", stamp(f.GetFreeze().GetUntil().AsTime()))
	}
	fmt.Fprintf(&b, "\nWhat %s agreed on after the end of this log is lost. A node that they added\nafter it isn't known here: had must be stopped on that, too.\n", memberNames(l.Lost))
	return b.String()
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// heldText is what the owner of an epoch may hold.
func heldText(c *hadv1.Claim) string {
	var held []string
	for _, a := range c.GetAddresses() {
		held = append(held, a.GetAddress())
	}
	for _, v := range c.GetVolumes() {
		held = append(held, fmt.Sprintf("%s (%s) on %s", v.GetName(), v.GetDevice(), v.GetPath()))
	}
	return strings.Join(held, ", ")
}

// nextText is what is left to do.
func nextText(config, node string, l daemon.Loss) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s is generation %d of its cluster, alone.\n\n", node, l.Generation)
	if l.Witness {
		fmt.Fprintf(&b, "First take role = \"witness\" out of the block of %s in %s:\none that is alone is no witness.\n\n", node, config)
	}
	fmt.Fprintf(&b, `1. Start it:            systemctl start had
2. See how it is:       hactl status     (it owns %s after the start)
3. Bring the others back as new nodes, with empty data folders: docs/disaster.md
`, l.Wait.Round(100*time.Millisecond))
	return b.String()
}

// lossDocument is the answer in JSON.
type lossDocument struct {
	SchemaVersion int       `json:"schema_version"`
	Cluster       string    `json:"cluster"`
	Node          string    `json:"node"`
	Generation    int       `json:"generation"` // that begins
	LastIndex     uint64    `json:"last_index"`
	LastTerm      uint64    `json:"last_term"`
	PolicyVersion uint64    `json:"policy_version"`
	Open          []openDoc `json:"open_epochs"`
	Lost          []lostDoc `json:"lost"`
	Answering     []string  `json:"answering,omitempty"` // lost nodes that answer: then it is refused
	WaitMs        float64   `json:"wait_ms"`
	Backup        string    `json:"backup"`
	Recovered     bool      `json:"recovered"`
}

type openDoc struct {
	Epoch uint64 `json:"epoch"`
	Node  string `json:"node"`
	Holds string `json:"holds"`
}

type lostDoc struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Witness bool   `json:"witness"`
}

func newLossDocument(cluster, node string, l daemon.Loss) lossDocument {
	view := l.Remains.View()
	doc := lossDocument{
		SchemaVersion: schemaVersion, Cluster: cluster, Node: node, Generation: l.Generation,
		LastIndex: l.Remains.LastIndex, LastTerm: l.Remains.LastTerm, PolicyVersion: view.Policy.GetVersion(),
		Open: []openDoc{}, Lost: []lostDoc{}, WaitMs: float64(l.Wait) / 1e6, Backup: l.Backup,
	}
	for _, c := range view.Open {
		doc.Open = append(doc.Open, openDoc{c.GetEpoch(), c.GetInstance().GetNode(), heldText(c)})
	}
	for _, m := range l.Lost {
		doc.Lost = append(doc.Lost, lostDoc{m.GetName(), m.GetAddress(), m.GetWitness()})
	}
	return doc
}
