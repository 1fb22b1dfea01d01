package importer

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// raftPort is had's own choice of a port.
const raftPort = 7400

// files writes the plan down.
func (p *plan) files() []File {
	files := []File{
		{Path: "had.hcl", Mode: 0o644, Data: []byte(p.nodeFile())},
		{Path: "policy.hcl", Mode: 0o644, Data: []byte(p.policyFile())},
	}
	scripts := slices.Clone(p.scripts)
	slices.SortFunc(scripts, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, s := range scripts {
		s.Path = "hooks/" + s.Path
		files = append(files, s)
	}
	return files
}

// doc is an HCL document as it grows.
type doc struct {
	b     strings.Builder
	depth int
}

func (d *doc) line(text string) {
	if text == "" {
		d.b.WriteByte('\n')
		return
	}
	d.b.WriteString(strings.Repeat("  ", d.depth) + text + "\n")
}

func (d *doc) comment(text string) { d.line("# " + printable(text)) }

// attrs writes attributes with their equal signs in a column.
func (d *doc) attrs(list []pair) {
	width := 0
	for _, a := range list {
		width = max(width, len(a.key))
	}
	for _, a := range list {
		d.line(fmt.Sprintf("%-*s = %s", width, a.key, a.value))
	}
}

// block writes a block; from, if not empty, says what it was made of.
func (d *doc) block(head, from string, inside func()) {
	if from != "" {
		from = " # " + printable(from)
	}
	d.line(head + " {" + from)
	d.depth++
	inside()
	d.depth--
	d.line("}")
}

// hclList writes a list: on one line, or an item each if that would be long.
func hclList(items []string) string {
	var quoted []string
	for _, i := range items {
		quoted = append(quoted, hclString(i))
	}
	if line := "[" + strings.Join(quoted, ", ") + "]"; len(line) <= 120 {
		return line
	}
	return "[\n    " + strings.Join(quoted, ",\n    ") + ",\n  ]"
}

func (p *plan) nodeFile() string {
	d := &doc{}
	d.comment("Made by hactl import " + p.source + ".")
	d.comment("The same on every node, as /etc/had/had.hcl; who the host is, its name says.")
	d.line("")
	d.block("cluster "+hclString(p.opts.Cluster), "", func() {
		if p.detect > 0 {
			d.attrs([]pair{{"detect", hclString(shortest(p.detect))}})
			d.line("")
		}
		for i, n := range p.nodes {
			if i > 0 {
				d.line("")
			}
			d.block("node "+hclString(n.name), "", func() {
				host := n.address.String()
				if n.address.Is6() {
					host = "[" + host + "]"
				}
				attrs := []pair{{"address", hclString(fmt.Sprintf("%s:%d", host, p.opts.Port))}}
				if n.witness {
					attrs = append(attrs, pair{"role", hclString("witness")})
				}
				d.attrs(attrs)
			})
		}
	})
	if p.opts.Port != raftPort {
		d.line("")
		d.attrs([]pair{{"data_dir", hclString("/var/lib/had-" + p.opts.Cluster)}})
	}
	return d.b.String()
}

func (p *plan) policyFile() string {
	d := &doc{}
	d.comment("Made by hactl import " + p.source + ".")
	if len(p.prefer) > 0 {
		d.line("")
		d.attrs([]pair{{"prefer", hclList(p.prefer)}})
	}
	for _, v := range p.vips {
		d.line("")
		d.block("vip "+hclString(v.name), v.from, func() { v.emit(d) })
	}
	if len(p.scripts) > 0 {
		d.line("")
		d.block("hooks", "", func() { d.attrs([]pair{{"dir", hclString(p.opts.HooksDir)}}) })
	}
	for _, c := range p.checks {
		d.line("")
		d.block("check "+hclString(c.kind)+" "+hclString(c.name), c.from, func() { d.attrs(c.attrs) })
	}
	if f := p.failback; f != nil {
		d.line("")
		d.block("failback", f.from, func() {
			d.attrs([]pair{{"mode", hclString("auto")}, {"delay", hclString(shortest(f.delay))}})
		})
	}
	if m := p.mail; m != nil {
		d.line("")
		d.block(`notify "email" "mail"`, m.origin, func() {
			d.attrs([]pair{{"to", hclList(m.to)}, {"from", hclString(m.from)}, {"smtp", hclString(m.server)}})
		})
	}
	return d.b.String()
}

func (v planVIP) emit(d *doc) {
	attrs := []pair{{"address", hclString(v.address.String())}}
	if v.iface != "" {
		attrs = append(attrs, pair{"interface", hclString(v.iface)})
	}
	d.attrs(attrs)
	if len(v.byNode) == 0 {
		return
	}
	d.line("interface = {")
	d.depth++
	var by []pair
	for _, b := range v.byNode {
		by = append(by, pair{hclString(b.key), hclString(b.value)})
	}
	d.attrs(by)
	d.depth--
	d.line("}")
}

// shortest is d without units that are zero: "1m", not "1m0s".
func shortest(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}
