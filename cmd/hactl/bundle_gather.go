package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"had/internal/bundle"
	"had/internal/redact"
	hadv1 "had/proto/had/v1"
)

// gatherer fills a bundle. What fails is noted in it and keeps nothing else out.
type gatherer struct {
	*cli
	config string // the node file
	unit   string // systemd's, which runs had with it
	node   bundle.Config
	bundle *bundle.Bundle

	secrets []string
	hide    *strings.Replacer // of secrets
	silent  string            // why the daemon is asked no more; empty: it is
	mute    int               // questions that it has not answered
	lost    error             // what status ended with, if that is why
}

func (c *cli) newGatherer(config string) *gatherer {
	g := &gatherer{cli: c, config: config, bundle: &bundle.Bundle{At: time.Now().UTC().Truncate(time.Second)}, hide: redact.Hider(nil)}
	g.bundle.List = bundle.List{SchemaVersion: schemaVersion, Missing: []bundle.Missing{}, Notes: []string{}}
	if config == "" {
		g.config = filepath.Join(c.configDir, "had.hcl")
		own := filepath.Join(c.configDir, c.cluster+".hcl")
		if _, err := os.Stat(own); c.cluster != "" && err == nil {
			g.config = own
		}
	}
	g.unit = "had"
	if name := strings.TrimSuffix(filepath.Base(g.config), ".hcl"); name != "had" {
		g.unit = "had@" + name
	}
	return g
}

func (g *gatherer) local() bool { return g.nodeAddress() == "" }

// gather looks for secrets first: everything else is searched for them.
func (g *gatherer) gather(ctx context.Context) {
	g.knowSecrets(ctx)
	if g.local() {
		g.nodeFile()
	} else {
		g.bundle.Miss("host/", "what a node's host has is gathered by hactl support-bundle there: its log, its kernel's state, its files")
		g.note("It was made from elsewhere: what only the node's files with secrets hold could not be looked for.")
	}
	g.askDaemon(ctx)
	if g.local() {
		g.host(ctx)
	}
	g.about(ctx)
}

func (g *gatherer) note(text string) {
	g.bundle.List.Notes = append(g.bundle.List.Notes, text)
}

// add takes a file of which nothing is known; list one that hactl or had has laid out,
// in which names like "token" stand for no secret.
func (g *gatherer) add(name, from string, content []byte) {
	g.list(name, from, []byte(redact.Text(string(content))))
}

func (g *gatherer) list(name, from string, content []byte) {
	g.bundle.Add(name, from, []byte(g.hide.Replace(string(content))))
}

// askDaemon adds what the daemon says, as hactl shows it.
func (g *gatherer) askDaemon(ctx context.Context) {
	g.verb(ctx, "cluster/status.txt", "status")
	if g.silent != "" {
		g.bundle.Miss("the rest of cluster/", g.silent+". The history is the same on every node: gather on another one, too")
		return
	}
	for _, v := range []struct{ file, verb string }{
		{"cluster/status.json", "status -o json"},
		{"cluster/version.json", "version -o json"},
		{"cluster/why.txt", "why"},
		{"cluster/why.json", "why -o json"},
		{"cluster/history.txt", "history --last 0"},
		{"cluster/history.jsonl", "history --last 0 -o json"},
		{"cluster/nodes.txt", "node list"},
		{"cluster/nodes.json", "node list -o json"},
		{"cluster/timing.txt", "timing"},
		{"cluster/timing.json", "timing -o json"},
		{"cluster/policy.hcl", "policy export"},
		{"cluster/policy-history.txt", "policy history"},
		{"cluster/policy-history.json", "policy history -o json"},
		{"cluster/hooks.txt", "hook list"},
		{"cluster/tokens.txt", "token show"},
		{"cluster/log-level.txt", "log level"},
		{"cluster/preflight.txt", "preflight"},
	} {
		g.verb(ctx, v.file, strings.Fields(v.verb)...)
	}
	if g.silent != "" {
		return
	}
	for _, name := range g.nodeNames(ctx) {
		g.verb(ctx, "cluster/why-not-"+notInName.ReplaceAllString(name, "-")+".txt", "why-not", name)
	}
}

// verb runs one of hactl's own. An exit code other than 0 with an answer is part of the
// answer: a node that isn't ready.
func (g *gatherer) verb(ctx context.Context, file string, args ...string) {
	if g.silent != "" || ctx.Err() != nil {
		g.bundle.Miss(file, g.silent)
		return
	}
	var out, said bytes.Buffer
	a := g.app
	a.in, a.out, a.err, a.asks, a.isTerminal, a.zone, a.redact = strings.NewReader(""), &out, &said, false, false, time.UTC, g.answer
	code := run(ctx, append(args, g.globals()...), a)
	why := g.hide.Replace(redact.Text(strings.TrimPrefix(oneLine(said.String()), "hactl: ")))
	switch {
	case out.Len() > 0:
		g.list(file, "hactl "+strings.Join(args, " "), out.Bytes())
		if why != "" && code == exitDone {
			g.note(file + ": " + why)
		}
	case code == exitDone:
		g.bundle.Miss(file, "there is none")
	default:
		g.bundle.Miss(file, why)
	}
	if code == exitUnreachable {
		g.mute++
	}
	// Without a daemon, or without the right to open its socket, all answers are alike;
	// one that hangs is not waited for a dozen times.
	if args[0] == "status" && (code == exitUnreachable || code == exitNotPermitted) || g.mute > 1 {
		g.silent = why
		g.lost = fail(code, "%s", why)
	}
}

// globals are the flags that say which daemon is asked, and for how long.
func (g *gatherer) globals() (flags []string) {
	for _, f := range [][2]string{
		{"cluster", g.cluster}, {"socket", g.socket}, {"address", g.remote.address},
		{"tls-ca", g.remote.ca}, {"tls-cert", g.remote.cert}, {"tls-key", g.remote.key},
	} {
		if f[1] != "" {
			flags = append(flags, "--"+f[0], f[1])
		}
	}
	if g.timeout > 0 {
		flags = append(flags, "--timeout", g.timeout.String())
	}
	return flags
}

// about says whose bundle it is: by the daemon, else by the node file, else by the host.
func (g *gatherer) about(ctx context.Context) {
	cluster, node := g.node.Labels["cluster"], g.node.Values["node"]
	if g.silent == "" {
		s, err := g.fetchStatus(ctx)
		if err == nil {
			cluster, node = s.GetCluster(), s.GetAnsweredBy()
		}
	}
	if host, err := os.Hostname(); node == "" && err == nil && g.local() {
		node = host
	}
	b := g.bundle
	b.Name = bundleName(cluster, node, b.At)
	b.List.About = []string{
		fmt.Sprintf("Support bundle of cluster %s, node %s, made at %s by hactl %s.", orUnknown(cluster), orUnknown(node), b.At.Format(time.RFC3339), ownBuild()),
	}
	if g.silent != "" {
		b.List.About = append(b.List.About, "Its daemon could not be asked: "+g.silent+".")
	}
}

func orUnknown(name string) string {
	if name == "" {
		return "(unknown)"
	}
	return name
}

// policyInForce is the text of the cluster's policy; empty: none can be had.
func (g *gatherer) policyInForce(ctx context.Context) string {
	r, err := call(ctx, g.cli, func(ctx context.Context, cl *client) (*hadv1.PolicyShowResponse, error) {
		return cl.PolicyShow(ctx, &hadv1.PolicyShowRequest{})
	})
	if err != nil {
		return "" // the same verb says why, below
	}
	return r.GetPolicy().GetText()
}
