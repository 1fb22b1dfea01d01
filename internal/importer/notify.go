package importer

import (
	"fmt"
	"strings"
)

// notify is a script that runs when an instance or a group changes its state.
type notify struct {
	event string // the statement's name, "notify" or "notify_…"
	argv  []string
	user  string // "user", "user group" or ""
	at    *node
}

// notifyKeywords adds the statements that name such scripts. kind is
// "instance" or "group".
func (v *view) notifyKeywords(known map[string]keyword, kind string, list *[]notify) {
	for _, event := range []string{"notify", "notify_master", "notify_backup", "notify_fault", "notify_stop"} {
		known[event] = keyword{func(n *node) {
			argv := v.command(n)
			if len(argv) == 0 {
				n.fate = true
				return
			}
			user := v.runAs(n, 2)
			v.carry(n, "the hook folder")
			*list = append(*list, notify{event: event, argv: argv, user: user, at: n})
			if event == "notify_backup" || event == "notify" {
				v.note(n, event, "keepalived also ran it on each standby as it started: had runs PostRel scripts only where the address was")
			}
			if event == "notify_stop" {
				v.note(n, event, "it now runs at every release, whether or not the service stops")
			}
			if event == "notify" {
				v.note(n, event, "no script is told "+strings.ToUpper(kind)+" … STOP: had stops an owner by a release")
			}
		}, false}
	}
}

// hookScript is one script of a hook folder.
type hookScript struct {
	name   string // without what makes it unique
	forced bool   // only after a forced release
	what   string // for people
	run    notify
	args   []string
	kind   string // INSTANCE or GROUP
	owner  string // the instance's or the group's name
}

// hooks returns what a list of notify statements becomes. Numbers keep
// keepalived's order: an instance's scripts before its group's, those of one
// state before the one for all.
func hooks(kind, owner string, list []notify) []hookScript {
	var scripts []hookScript
	first := 10
	if kind == "GROUP" {
		first = 30
	}
	add := func(stage string, n int, run notify, forced bool, state string) {
		s := hookScript{
			name: fmt.Sprintf("%s%d-%s-%s", stage, first+n, fileName(owner), run.event), forced: forced,
			what: fmt.Sprintf("%s of %s %s, %s", run.event, map[string]string{"INSTANCE": "vrrp_instance", "GROUP": "vrrp_sync_group"}[kind], owner, run.at.at),
			run:  run, kind: kind, owner: owner,
		}
		if run.event == "notify" {
			s.args = []string{kind, owner, state}
			s.name += "-" + strings.ToLower(state)
		}
		scripts = append(scripts, s)
	}
	for _, run := range list {
		switch run.event {
		case "notify_master":
			add("PostAcq", 0, run, false, "")
		case "notify_fault":
			add("PostRel", 0, run, true, "")
		case "notify_backup":
			add("PostRel", 2, run, false, "")
		case "notify_stop":
			add("PostRel", 4, run, false, "")
		case "notify":
			add("PostAcq", 1, run, false, "MASTER")
			add("PostRel", 1, run, true, "FAULT")
			add("PostRel", 3, run, false, "BACKUP")
		}
	}
	return scripts
}

// fileName makes a part of a file's name of any text.
func fileName(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
			return r
		}
		return '-'
	}, text)
}

// asUser returns a command line that runs argv as user, "user" or "user
// group".
func asUser(user string, argv []string) []string {
	name, group, grouped := strings.Cut(user, " ")
	switch {
	case user == "" || user == "root":
		return argv
	case grouped && name != group:
		return append([]string{"/usr/sbin/runuser", "-u", name, "-g", group, "--"}, argv...)
	}
	return append([]string{"/usr/sbin/runuser", "-u", name, "--"}, argv...)
}

// shellCommand writes a command line for sh(1).
func shellCommand(argv []string) string {
	var words []string
	for _, a := range argv {
		words = append(words, shellWord(a))
	}
	return strings.Join(words, " ")
}
