package policy

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Sync copies data from the owner to the nodes that don't own.
type Sync struct {
	Name    string
	Command []string      // an absolute path or a name in root's PATH, and its arguments
	Every   time.Duration // from the beginning of one run to the next
	Timeout time.Duration // for one run
	MaxAge  time.Duration // older data keep a node from owning; 0: they don't
}

const (
	exampleSync   = `["rsync", "-a", "rsync://${vip.web.address}/pages/", "/srv/pages/"]`
	exampleEvery  = 10 * time.Minute
	exampleMaxAge = time.Hour
	longestEvery  = 7 * 24 * time.Hour
)

func syncShape() shape {
	return shape{
		what:   `sync "pages"`,
		labels: 1,
		attrs: map[string]string{
			"command": exampleSync, "every": quote(shortest(exampleEvery)), "timeout": quote(shortest(exampleEvery)), "max_age": quote(shortest(exampleMaxAge)),
		},
		others: map[string]string{"interval": `it is called "every"`, "program": `it is called "command", and is a list`},
	}
}

type rawSync struct {
	name                   text
	command                []argument
	every, timeout, maxAge time.Duration // maxAge 0 when not written
	at                     hcl.Range     // of max_age, if it is written
}

func (s *source) rawSync(b *hclsyntax.Block) rawSync {
	raw := rawSync{name: label(b), command: s.requiredArguments(b, "command", exampleSync)}
	if b.Body.Attributes["every"] == nil {
		s.required(b, "every", quote(shortest(exampleEvery)))
	}
	raw.every = s.duration(b.Body, "every", exampleEvery, span{
		min: time.Second, low: "the owner would do little else than to be copied from",
		max: longestEvery, high: "a copy that old is a backup: make it another way",
	})
	raw.timeout = s.duration(b.Body, "timeout", raw.every, span{
		min: time.Second, low: "hardly anything is copied that fast; the default is the value of every",
		max: longestEvery, high: "a run that hangs would keep the data from being copied for as long",
	})
	if a := b.Body.Attributes["max_age"]; a != nil {
		raw.at = a.Expr.Range()
		raw.maxAge = s.duration(b.Body, "max_age", exampleMaxAge, span{
			min: time.Second, low: "leave the line out if the age of the data doesn't matter",
			max: 365 * 24 * time.Hour, high: "leave the line out if the age of the data doesn't matter",
		})
	}
	return raw
}

func (s *source) validSyncs(raw []rawSync, vips []VIP) []Sync {
	var syncs []Sync
	names := map[string]text{}
	for _, r := range raw {
		y := Sync{Name: r.name.value, Every: r.every, Timeout: r.timeout, MaxAge: r.maxAge}
		if !validIdentifier(y.Name) {
			s.errorf(r.name.at, identHint, "%s can't be a sync's name", quote(y.Name))
		}
		if first, twice := names[y.Name]; twice {
			s.errorf(r.name.at, fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line), "two syncs are called %s", quote(y.Name))
		} else {
			names[y.Name] = r.name
		}
		if y.MaxAge != 0 && y.MaxAge <= y.Every {
			s.errorf(r.at, "several times the value of every: a run may fail, or take its time", "max_age is %s, but a copy is made every %s only: each would be too old before the next", shortest(y.MaxAge), shortest(y.Every))
		}
		y.Command = s.syncCommand(r.command, vips)
		syncs = append(syncs, y)
	}
	return syncs
}

// syncCommand resolves the references of a command line and checks it.
func (s *source) syncCommand(raw []argument, vips []VIP) []string {
	var all []text
	for _, a := range raw {
		all = append(all, s.resolve(a, vips))
	}
	if len(all) == 0 || !all[0].ok {
		return nil
	}
	program := all[0].value
	switch {
	case len(raw[0].parts) != 1 || raw[0].parts[0].vip.ok:
		s.errorf(raw[0].at, "write it as in command = "+exampleSync, "the program is a reference")
	case program == "" || strings.ContainsFunc(program, func(r rune) bool { return !unicode.IsGraphic(r) }):
		s.errorf(raw[0].at, "write it as in command = "+exampleSync, "%s can't be a program's name", quote(program))
	case strings.Contains(program, "/") && !filepath.IsAbs(program):
		s.errorf(raw[0].at, "begin it with \"/\": had's working directory is not yours", "the program is a relative path: %s", quote(program))
	}
	return append([]string{program}, s.operands(all[1:], "command")...)
}
