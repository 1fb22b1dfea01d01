package importer

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

func (v *view) script(n *node) {
	name, ok := v.named(n, func(name string) *node {
		for _, s := range v.scripts {
			if s.name == name {
				return s.at
			}
		}
		return nil
	})
	if !ok {
		return
	}
	s := &trackScript{name: name, at: n, interval: time.Second, rise: 1, fall: 1}
	to := "check " + quote(identifier(name)) + " in policy.hcl"
	v.carry(n, to)
	set := func(do func(*node)) keyword {
		return keyword{func(n *node) { v.carry(n, to); do(n) }, false}
	}
	v.block(n.kids, map[string]keyword{
		"script":   set(func(n *node) { s.argv = v.command(n) }),
		"interval": set(func(n *node) { s.interval = v.seconds(n, 1e6) }),
		"timeout":  set(func(n *node) { s.timeout = v.seconds(n, 1e6) }),
		"rise":     set(func(n *node) { s.rise = v.number(n, 1, 1<<31-1) }),
		"fall":     set(func(n *node) { s.fall = v.number(n, 1, 1<<31-1) }),
		"user":     set(func(n *node) { v.text(n); s.user = v.runAs(n, 1) }),
		"weight":   {func(n *node) { s.reverse = v.weight(n, 1) }, false},
	}, scriptLosses())
	if s.argv == nil {
		v.bad.add(n.at, "vrrp_script %s has no script", name)
	}
	if s.interval <= 0 {
		s.interval = time.Second
	}
	v.scripts = append(v.scripts, s)
}

// weight reads "weight N [reverse]" from the i-th word of a statement on, and
// lists it: only whether it is reversed can be carried over.
func (v *view) weight(n *node, i int) (reverse bool) {
	s, _ := n.arg(i)
	w, err := strconv.Atoi(s)
	if err != nil || w < -254 || w > 254 {
		v.bad.add(n.at, "weight %s: it must be a whole number from -253 to 253", quote(s))
		return false
	}
	r, ok := n.arg(i + 1)
	switch {
	case !ok || r == "noreverse" || r == "no_reverse":
	case r == "reverse":
		reverse = true
	default:
		n.words[i+1].used = false
	}
	n.fate = true
	n.arg(0)
	switch {
	case reverse:
		v.note(n, "weight "+s+" reverse", "a check counts against a node when it fails, never when it succeeds")
	case w == 0:
		v.carry(n, "a check that fails moves all, as without a weight")
	default:
		v.note(n, "weight "+s, "had adds up no weights: a check that fails makes its node give up, unless no other is better")
	}
	return reverse
}

// command reads the program and its arguments from a statement's second word,
// in which spaces separate and quotes join (keepalived.conf(5), Quoted
// strings).
func (v *view) command(n *node) []string {
	text := v.text(n)
	if text != "" && text[0] == '<' {
		// A redirection: keepalived leaves it to a shell, of which only bash
		// knows /dev/tcp.
		return []string{"/bin/bash", "-c", text}
	}
	words, err := split(text)
	if err != nil {
		v.bad.add(n.at, "%s: %v", n.name(), err)
	}
	var argv []string
	for _, w := range words {
		if strings.ContainsFunc(w.text, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }) {
			v.bad.add(n.at, "%s holds a character that isn't printable: %s", n.name(), quote(w.text))
		}
		argv = append(argv, w.text)
	}
	return argv
}

func (v *view) group(n *node) {
	name, ok := v.named(n, func(name string) *node {
		for _, g := range v.groups {
			if g.name == name {
				return g.at
			}
		}
		return nil
	})
	if !ok {
		return
	}
	g := &group{name: name, at: n}
	v.groups = append(v.groups, g)
	v.carry(n, "policy.hcl: all in it moves together")
	known := map[string]keyword{
		"group": {func(n *node) {
			if !v.wantBlock(n) {
				return
			}
			v.carry(n, "policy.hcl: all in it moves together")
			for _, k := range n.kids {
				v.carry(k, "policy.hcl: all in it moves together")
				for i := range k.words {
					member, _ := k.arg(i)
					g.members = append(g.members, member)
				}
			}
		}, false},
		"smtp_alert": {v.globalAlert, false},
	}
	v.notifyKeywords(known, "group", &g.notifies)
	v.trackKeywords(known, &g.tracks)
	v.block(n.kids, known, groupLosses())
}

// trackKeywords adds the blocks that name interfaces and scripts.
func (v *view) trackKeywords(known map[string]keyword, t *tracks) {
	into := func(list *[]*node) keyword {
		return keyword{func(n *node) {
			if v.wantBlock(n) {
				v.carry(n, "checks in policy.hcl")
				*list = append(*list, n.kids...)
			}
		}, true}
	}
	known["track_interface"] = into(&t.interfaces)
	known["track_script"] = into(&t.scripts)
}

// resolve finds what names stand for, once everything is read.
func (v *view) resolve() {
	for _, g := range v.groups {
		if len(g.members) == 0 {
			v.bad.add(g.at.at, "vrrp_sync_group %s has no members", g.name)
		}
		for _, m := range g.members {
			if !slices.ContainsFunc(v.instances, func(i *instance) bool { return i.name == m }) {
				v.bad.add(g.at.at, "vrrp_sync_group %s names %s, and there is no such vrrp_instance", g.name, quote(m))
			}
		}
	}
	for _, i := range v.instances {
		if i.left = !v.wanted(i.name); i.left {
			v.leave(i.at, leftOut)
		}
	}
	track := func(t tracks) {
		for _, n := range t.interfaces {
			name, _ := n.arg(0)
			v.interfaceName(n, name)
			v.carry(n, "a check of the link in policy.hcl, unless it carries an address: had watches that anyway")
			if w, ok := n.arg(1); ok && w == "weight" {
				if v.weight(n, 2) {
					v.leave(n, "it counts when the link is up: write a check of your own that fails then")
				}
			} else if ok {
				n.words[1].used = false
			}
		}
		for _, n := range t.scripts {
			name, _ := n.arg(0)
			i := slices.IndexFunc(v.scripts, func(s *trackScript) bool { return s.name == name })
			if i < 0 {
				v.bad.add(n.at, "track_script names %s, and there is no such vrrp_script", quote(name))
				continue
			}
			s := v.scripts[i]
			v.carry(n, "check "+quote(identifier(name))+" in policy.hcl")
			if w, ok := n.arg(1); ok && w == "weight" {
				s.reverse = v.weight(n, 2) || s.reverse
			} else if ok {
				n.words[1].used = false
			}
			s.tracked = append(s.tracked, n)
		}
	}
	for _, i := range v.instances {
		if !i.left {
			track(i.tracks)
		}
	}
	for _, g := range v.groups {
		if v.wants(g) {
			track(g.tracks)
		} else {
			v.leave(g.at, leftOut)
		}
	}
	if len(v.mail.to) == 0 || v.mail.server == "" {
		for _, n := range v.mail.said {
			v.leave(n, "keepalived mails only with notification_email and smtp_server, and one isn't there")
		}
		v.mail.to = nil
	}
	v.users()
	for _, s := range v.scripts {
		switch {
		case len(s.tracked) == 0:
			v.leave(s.at, "nothing that is carried over tracks it, and keepalived runs only what is tracked")
		case s.reverse:
			for _, n := range s.tracked {
				v.leave(n, "the script counts when it succeeds")
			}
			v.leave(s.at, "it counts when it succeeds: write a check of your own that fails then")
		}
	}
}

// users lists the scripts for which nothing says whom they run as, and a user
// whom nothing runs as.
func (v *view) users() {
	var silent []*node
	for _, s := range v.scripts {
		if s.user == "" && len(s.tracked) > 0 {
			silent = append(silent, s.at)
		}
	}
	ask := func(list []notify) {
		for _, n := range list {
			if n.user == "" {
				silent = append(silent, n.at)
			}
		}
	}
	for _, i := range v.instances {
		if !i.left {
			ask(i.notifies)
		}
	}
	for _, g := range v.groups {
		if v.wants(g) {
			ask(g.notifies)
		}
	}
	switch {
	case v.userAt != nil && len(silent) == 0:
		v.leave(v.userAt, "there is no script that runs as it")
	case v.userAt == nil:
		for _, n := range silent {
			v.note(n, "the user", "keepalived runs scripts as keepalived_script where there is such a user; had runs them as root")
		}
	}
}

const leftOut = "--only names others"

// wants reports whether a group or one of its members is to be carried over.
func (v *view) wants(g *group) bool {
	return len(v.opts.Only) == 0 || slices.Contains(v.opts.Only, g.name) ||
		slices.ContainsFunc(g.members, func(m string) bool { return slices.Contains(v.opts.Only, m) })
}

// wanted reports whether an instance is to be carried over, by itself or with
// its group.
func (v *view) wanted(name string) bool {
	return len(v.opts.Only) == 0 || slices.Contains(v.opts.Only, name) ||
		slices.ContainsFunc(v.groups, func(g *group) bool {
			return slices.Contains(g.members, name) && v.wants(g)
		})
}

// absolute reports whether a program is found without PATH.
func absolute(argv []string) bool { return len(argv) > 0 && path.IsAbs(argv[0]) }
