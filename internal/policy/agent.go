package policy

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"had/internal/redact"
)

// Agent is a program of the fence-agents project that can switch a node off.
// It runs on another node.
type Agent struct {
	Program string            // a name in the PATH that begins with fence_, or an absolute path
	Options map[string]string // as the program takes them on its input, without the action
	Secrets map[string]string // options whose value is what the named file holds on the node that fences
	Timeout time.Duration     // for one run of the program
}

// Command is the operator's own way to switch a node off. It runs on another
// node.
type Command struct {
	Command []string // switches it off; exit code 0 means it believes so
	Verify  []string // exit code 0 means: the node is off
	Timeout time.Duration
}

const (
	exampleOptions = `{ ip = "10.0.9.11", password_file = "/etc/had/secrets/ipmi" }`
	maxLevel       = 9
)

type rawAgent struct {
	node    text
	program text
	options []rawAssignment
	timeout time.Duration
	level   int // 0 when not written
}

type rawCommand struct {
	node            text
	command, verify []text
	timeout         time.Duration
	level           int
}

func (s *source) rawAgent(b *hclsyntax.Block) rawAgent {
	raw := rawAgent{
		node:    label(b),
		program: s.required(b, "program", `"fence_ipmilan"`),
		timeout: s.fenceTime(b.Body),
		level:   s.number(b.Body, "level", 1, maxLevel),
	}
	if a := b.Body.Attributes["options"]; a != nil {
		if object, ok := a.Expr.(*hclsyntax.ObjectConsExpr); ok {
			raw.options = s.assignments(object, "the name of each option", "each option", "options = "+exampleOptions)
		} else {
			s.errorf(a.Expr.Range(), "write options = "+exampleOptions, "options must be a map")
		}
	}
	return raw
}

func (s *source) rawCommand(b *hclsyntax.Block) rawCommand {
	return rawCommand{
		node:    label(b),
		command: s.requiredList(b, "command", exampleOff),
		verify:  s.requiredList(b, "verify", exampleVerify),
		timeout: s.fenceTime(b.Body),
		level:   s.number(b.Body, "level", 1, maxLevel),
	}
}

func (s *source) fenceTime(body *hclsyntax.Body) time.Duration {
	return s.duration(body, "timeout", defaultFenceTime, span{
		min: time.Second, low: "few devices switch anything that fast; 1m is the default",
		max: 10 * time.Minute, high: "a device that doesn't answer would hold up the takeover for as long; 1m is the default",
	})
}

func (s *source) validAgents(raw []rawAgent) map[string][][]Agent {
	var l levels[Agent]
	for _, r := range raw {
		a := Agent{Program: r.program.value, Timeout: r.timeout}
		if r.program.ok {
			a.Program = s.agentProgram(r.program)
		}
		a.Options, a.Secrets = s.agentOptions(r.options)
		l.add(s, r.node, r.level, a)
	}
	return l.byNode()
}

func (s *source) validCommands(raw []rawCommand) map[string][][]Command {
	var l levels[Command]
	for _, r := range raw {
		l.add(s, r.node, r.level, Command{
			Command: s.arguments(r.command, "command"),
			Verify:  s.verifier(r.verify),
			Timeout: r.timeout,
		})
	}
	return l.byNode()
}

// levels collects what fences each node.
type levels[T any] struct {
	first map[string]levelled
	all   map[string]map[int][]T
}

// levelled is the first block about a node.
type levelled struct {
	line  int
	level int // 0 when not written
}

// add refuses a second block for a node unless both say their level: which of
// "this or that" and "this and that" is meant decides whether a node is off.
func (l *levels[T]) add(s *source, node text, level int, one T) {
	if !validHostName(node.value) {
		s.errorf(node.at, nodeNameHint, "%s can't be a node's name", quote(node.value))
	}
	if l.all == nil {
		l.first, l.all = map[string]levelled{}, map[string]map[int][]T{}
	}
	first, again := l.first[node.value]
	if again && (level == 0 || first.level == 0) {
		s.errorf(node.at, fmt.Sprintf("the first is on line %d; give both a level: 1 and 2 if the second is for when the first fails, the same if the node is off only when both have succeeded, as with two power supplies", first.line),
			"node %s has two of these, and not both say their level", quote(node.value))
	}
	if !again {
		l.first[node.value] = levelled{node.at.Start.Line, level}
		l.all[node.value] = map[int][]T{}
	}
	l.all[node.value][level] = append(l.all[node.value][level], one)
}

// byNode returns each node's levels in the order in which they are tried.
func (l *levels[T]) byNode() map[string][][]T {
	if l.all == nil {
		return nil
	}
	nodes := map[string][][]T{}
	for node, all := range l.all {
		for _, level := range slices.Sorted(maps.Keys(all)) {
			nodes[node] = append(nodes[node], all[level])
		}
	}
	return nodes
}

var (
	agentName  = regexp.MustCompile(`^fence_[A-Za-z0-9_-]+$`)
	optionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
)

// noFence says why a program of fence-agents isn't what a volume needs, or "".
func noFence(program string) (why, hint string) {
	switch filepath.Base(program) {
	case "fence_ack_manual":
		return "it asks a person", `use methods = ["confirm"]`
	case "fence_dummy", "fence_heuristics_ping", "fence_kdump", "fence_evacuate":
		return "it switches nothing off", "use the one for the machine's power: fence_ipmilan, fence_redfish, fence_pve, fence_virsh, fence_apc_snmp …"
	case "fence_scsi", "fence_mpath":
		return "it takes away disks of nodes that Pacemaker has registered with them", "use methods = [\"reservation\"]: had reserves the disks itself"
	}
	return "", ""
}

func (s *source) agentProgram(t text) string {
	const hint = `write it as in program = "fence_ipmilan"; fence-agents has one for most devices (apt-get install fence-agents; man -k fence_)`
	why, instead := noFence(t.value)
	switch {
	case why != "":
		s.errorf(t.at, instead, "%s is no proof: %s", t.value, why)
	case strings.ContainsFunc(t.value, func(r rune) bool { return !unicode.IsPrint(r) }):
		s.errorf(t.at, hint, "program holds a character that isn't printable")
	case filepath.IsAbs(t.value):
		return filepath.Clean(t.value)
	case !agentName.MatchString(t.value) && agentName.MatchString("fence_"+t.value):
		s.errorf(t.at, "did you mean "+quote("fence_"+t.value)+"?", "%s isn't a fence agent's name", quote(t.value))
	case !agentName.MatchString(t.value):
		s.errorf(t.at, hint, "%s is neither a fence agent's name nor an absolute path", quote(t.value))
	}
	return t.value
}

// agentOptions returns what the agent is told, and the files that hold the
// rest.
func (s *source) agentOptions(raw []rawAssignment) (options, secrets map[string]string) {
	options, secrets = map[string]string{}, map[string]string{}
	seen := map[string]text{}
	for _, r := range raw {
		key := strings.ReplaceAll(r.key.value, "-", "_") // agents take both
		if first, twice := seen[key]; twice {
			s.errorf(r.key.at, fmt.Sprintf("the first is on line %d; leave one of them out", first.at.Start.Line), "options has %s twice", quote(r.key.value))
			continue
		}
		seen[key] = r.key
		if !s.checkAgentOption(key, r) {
			continue
		}
		value := r.value.value
		if redact.IsFile(key) {
			value = s.path(r.value, r.key.value, "")
		}
		if name, secret := redact.Option(key); secret {
			secrets[name] = value
		} else {
			options[key] = value
		}
	}
	return options, secrets
}

func (s *source) checkAgentOption(key string, r rawAssignment) bool {
	name, secret := redact.Option(key)
	switch {
	case !optionName.MatchString(key):
		s.errorf(r.key.at, "its man page has the names", "%s can't be an option's name", quote(r.key.value))
	case secret && !redact.IsFile(key):
		s.hide(r.value)
		s.errorf(r.key.at, fmt.Sprintf("write it to a file on every node that only root can read, and its path here: %s_file = \"/etc/had/secrets/…\"", name),
			"%s is a secret, and a policy is in the log and shown", quote(r.key.value))
	case key == "action" || key == "option":
		s.errorf(r.key.at, "leave it out", "had itself tells the agent what to do")
	case key == "missing_as_off":
		s.errorf(r.key.at, "leave it out", "with %s, a machine that the device doesn't know counts as off: a slip of the pen would be taken for proof", quote(r.key.value))
	case strings.HasPrefix(key, "pcmk_"):
		s.errorf(r.key.at, "leave it out: each node has an agent block of its own here", "%s is for Pacemaker, the agent doesn't know it", quote(r.key.value))
	case strings.ContainsFunc(r.value.value, func(c rune) bool { return !unicode.IsPrint(c) }):
		s.errorf(r.value.at, "", "option %s holds a character that isn't printable", quote(r.key.value))
	default:
		return true
	}
	return false
}

// arguments checks a command line and returns it. It is run as it is, without
// a shell.
func (s *source) arguments(raw []text, name string) []string {
	if len(raw) > 0 && !filepath.IsAbs(raw[0].value) && !strings.ContainsRune(raw[0].value, 0) {
		s.errorf(raw[0].at, "begin it with \"/\": "+quote("/usr/local/sbin/"+filepath.Base(raw[0].value)), "%s doesn't begin with an absolute path: %s", name, quote(raw[0].value))
	}
	return s.words(raw, name)
}

// commandLine is arguments for a program that may also be named as in a shell.
func (s *source) commandLine(raw []text, name string) []string {
	if len(raw) > 0 && !filepath.IsAbs(raw[0].value) && (raw[0].value == "" || strings.ContainsAny(raw[0].value, "/ \t")) {
		s.errorf(raw[0].at, "a name that root's PATH has, or a path that begins with \"/\"; each argument is an item of its own", "%s doesn't begin with a program: %s", name, quote(raw[0].value))
	}
	return s.words(raw, name)
}

// words returns the items of a command, which is run without a shell.
func (s *source) words(raw []text, name string) []string {
	if len(raw) == 0 {
		return nil
	}
	if strings.ContainsRune(raw[0].value, 0) {
		s.errorf(raw[0].at, "", "%s holds a NUL", name)
	}
	return append([]string{raw[0].value}, s.operands(raw[1:], name)...)
}

// operands checks what follows the program of a command line.
func (s *source) operands(raw []text, name string) []string {
	var args []string
	for i, t := range raw {
		flag, _, inOne := strings.Cut(strings.TrimLeft(t.value, "-"), "=")
		_, secret := redact.Option(flag)
		switch {
		case strings.ContainsRune(t.value, 0):
			s.errorf(t.at, "", "%s holds a NUL", name)
		case secret && !redact.IsFile(flag) && flag != t.value:
			if s.hide(t); !inOne && i+1 < len(raw) {
				s.hide(raw[i+1])
			}
			s.errorf(t.at, "let the command read it from a file on every node that only root can read", "%s holds a secret, and a policy is in the log and shown", name)
		}
		args = append(args, t.value)
	}
	return args
}

// verifier refuses what would say yes to everything.
func (s *source) verifier(raw []text) []string {
	if len(raw) > 0 && slices.Contains([]string{"true", ":", "echo", "sleep"}, filepath.Base(raw[0].value)) {
		s.errorf(raw[0].at, `it must end with 0 only if the node is off; if only a person can see that, use methods = ["confirm"]`, "verify proves nothing: %s always succeeds", quote(raw[0].value))
		return nil
	}
	return s.arguments(raw, "verify")
}
