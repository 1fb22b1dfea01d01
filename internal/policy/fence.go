package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Fence says how the cluster makes sure that an owner which fell silent no
// longer writes its volumes, before another node mounts them.
type Fence struct {
	Methods  []Method               // tried in this order; empty without a fence block
	Agents   map[string][][]Agent   // by node: levels, the first to be tried first; all of one level must succeed
	Commands map[string][][]Command // by node, as Agents
	Margin   time.Duration          // MethodWatchdog and MethodLease wait for it on top of the lease; 0 without them
}

// Method is a way to know that a silent owner no longer writes.
type Method string

// An operator can always confirm: MethodConfirm alone means that nothing else
// is tried.
const (
	MethodAgent       Method = "agent"       // a program of fence-agents switched the node off, and saw it off
	MethodCommand     Method = "command"     // so did a command of the operator's own
	MethodReservation Method = "reservation" // the disks refuse what it writes
	MethodWatchdog    Method = "watchdog"    // the node's own watchdog has reset it
	MethodConfirm     Method = "confirm"     // a person looked
	MethodLease       Method = "lease"       // only time has passed: best effort
)

// methods are those that this version can carry out, with a line for people.
func methods() []struct {
	method  Method
	meaning string
} {
	return []struct {
		method  Method
		meaning string
	}{
		{MethodAgent, `another node switches the silent one off by a program of fence-agents (IPMI, power strips, hypervisors) and sees it off; needs agent "NODE" { … } for each node it is to switch off`},
		{MethodCommand, `the same by a command of your own; needs command "NODE" { … } for each`},
		{MethodReservation, `the disks refuse whatever the silent node still writes: its SCSI-3 persistent reservation is taken away; needs disks that have them, and nothing else`},
		{MethodWatchdog, `the silent node's own watchdog resets it, and so much time has passed; needs watchdog { … } in had.hcl of each node that may own`},
		{MethodConfirm, `nothing happens until you have seen that the node is off and say so: hactl fence confirm NODE`},
		{MethodLease, `only wait until the owner must have unmounted by itself; best effort, not proof: a node whose kernel lives on without had may still write`},
	}
}

const (
	defaultMargin    = 5 * time.Second
	defaultFenceTime = time.Minute
	exampleGrace     = 10 * time.Second
	maxGrace         = 10 * time.Minute

	exampleMethods = `["agent", "confirm"]`
	exampleAgent   = `agent "alpha"`
	exampleCommand = `command "alpha"`
	exampleOff     = `["/usr/local/sbin/power", "off", "alpha"]`
	exampleVerify  = `["/usr/local/sbin/power", "is-off", "alpha"]`
)

func fenceShape() shape {
	return shape{
		what:  "fence",
		attrs: map[string]string{"methods": exampleMethods, "margin": quote(shortest(defaultMargin))},
		once:  "it is for all volumes together: write all of it there",
		others: map[string]string{
			"confirm":       `it needs no block: name it in methods = ["confirm"]`,
			"lease":         `it needs no block: name it in methods = ["lease"]`,
			"reservation":   `it needs no block: name it in methods = ["reservation"]`,
			"watchdog":      `name it in methods = ["watchdog"]; the device is the node's own: watchdog { … } belongs in had.hcl`,
			"release_grace": "it belongs at the top level of the policy",
			"timeout":       "it belongs in an agent or command block",
			"device":        "it is called \"agent\"",
		},
		blocks: map[string]shape{
			"agent": {
				what:   exampleAgent,
				labels: 1,
				attrs: map[string]string{
					"program": `"fence_ipmilan"`, "options": exampleOptions, "timeout": quote(shortest(defaultFenceTime)), "level": "2",
				},
			},
			"command": {
				what:   exampleCommand,
				labels: 1,
				attrs: map[string]string{
					"command": exampleOff, "verify": exampleVerify, "timeout": quote(shortest(defaultFenceTime)), "level": "2",
				},
			},
		},
	}
}

type rawFence struct {
	at       hcl.Range // of the block's first line
	written  bool
	methods  []text
	margin   time.Duration
	marginAt hcl.Range // empty when not written
	agents   []rawAgent
	commands []rawCommand
}

func (s *source) rawFence(b *hclsyntax.Block) rawFence {
	raw := rawFence{at: b.DefRange(), written: true, methods: s.requiredList(b, "methods", exampleMethods)}
	raw.margin = s.duration(b.Body, "margin", defaultMargin, span{
		min: time.Second, low: "the silent node's kernel may need longer to write what it has accepted; 5s is the default",
		max: 10 * time.Minute, high: "the volumes would be away for as long; 5s is the default",
	})
	if a := b.Body.Attributes["margin"]; a != nil {
		raw.marginAt = a.Expr.Range()
	}
	for _, inner := range b.Body.Blocks {
		switch inner.Type {
		case "agent":
			raw.agents = append(raw.agents, s.rawAgent(inner))
		case "command":
			raw.commands = append(raw.commands, s.rawCommand(inner))
		}
	}
	return raw
}

// grace reads release_grace, which is 0 when it isn't written.
func (s *source) grace(body *hclsyntax.Body) time.Duration {
	const name = "release_grace"
	a := body.Attributes[name]
	if a == nil {
		return 0
	}
	before := s.errors
	d := s.duration(body, name, exampleGrace, span{
		min: 0, low: "leave the line out for none",
		max: maxGrace, high: "every takeover from a silent owner would wait for as long",
	})
	if d > 0 && s.errors == before {
		s.warnf(a.Expr.Range(), "it need be no longer than what your PreRel scripts take", "a takeover from a silent owner takes %s longer, for addresses and volumes alike", shortest(d))
	}
	return d
}

func (s *source) validFence(raw rawFence, volumes []rawVolume) Fence {
	switch {
	case !raw.written && len(volumes) > 0:
		s.errorf(volumes[0].at, howToFence(), "the policy has a volume, but no fence: nobody could know that an owner which fell silent no longer writes it")
	case raw.written && len(volumes) == 0:
		s.warnf(raw.at, "leave it out, or add a volume", "there is a fence, but no volume: addresses alone never wait for one")
	}
	f := Fence{
		Methods:  s.validMethods(raw.methods),
		Agents:   s.validAgents(raw.agents),
		Commands: s.validCommands(raw.commands),
	}
	waits := slices.Contains(f.Methods, MethodLease) || slices.Contains(f.Methods, MethodWatchdog)
	if waits {
		f.Margin = raw.margin
	} else if raw.marginAt.Filename != "" && len(f.Methods) > 0 {
		s.errorf(raw.marginAt, `leave it out: only the methods "watchdog" and "lease" wait for time`, "margin has no effect: no method uses it")
	}
	if !s.failed() {
		s.checkBlocks(raw, f)
		s.checkReservable(raw, f, volumes)
	}
	return f
}

// howToFence explains the choices, a line for each.
func howToFence() string {
	lines := []string{`add fence { methods = [ … ] } with one or several of these, which are tried in order:`}
	for _, m := range methods() {
		lines = append(lines, fmt.Sprintf("%s: %s", quote(string(m.method)), m.meaning))
	}
	return strings.Join(append(lines, "docs/fencing.md helps to choose"), "\n")
}

func (s *source) validMethods(raw []text) []Method {
	var known []string
	for _, m := range methods() {
		known = append(known, string(m.method))
	}
	var valid []Method
	var lease, ends text // the method that always comes to an end
	for _, t := range raw {
		m := Method(t.value)
		switch {
		case !slices.Contains(known, t.value):
			s.errorf(t.at, suggest(t.value, known), "unknown method %s", quote(t.value))
		case slices.Contains(valid, m):
			s.errorf(t.at, "name each method once", "methods name %s twice", quote(t.value))
		case ends.ok && m != MethodConfirm:
			s.errorf(t.at, fmt.Sprintf("write %s last, or leave it out", quote(ends.value)), "%s would never be tried: %s before it always comes to an end", quote(t.value), quote(ends.value))
		default:
			valid = append(valid, m)
		}
		switch m {
		case MethodLease:
			lease, ends = t, t
		case MethodWatchdog:
			ends = t
		case MethodAgent, MethodCommand, MethodReservation, MethodConfirm:
		}
	}
	if lease.ok {
		s.warnf(lease.at, "leave it out, unless serving again matters more than the data",
			`"lease" is best effort: a node whose had and guard are both stopped or killed while its kernel lives, or a guest whose hypervisor paused it, may still write when another has mounted the volume`)
	}
	return valid
}

// checkBlocks refuses blocks that no method uses, and methods without blocks:
// either would look like a protection and be none.
func (s *source) checkBlocks(raw rawFence, f Fence) {
	for _, a := range raw.agents {
		if !slices.Contains(f.Methods, MethodAgent) {
			s.errorf(a.node.at, `add "agent" to methods, or leave the block out`, "no method uses this agent")
		}
	}
	for _, c := range raw.commands {
		if !slices.Contains(f.Methods, MethodCommand) {
			s.errorf(c.node.at, `add "command" to methods, or leave the block out`, "no method uses this command")
		}
	}
	for i, m := range f.Methods {
		if m == MethodAgent && len(raw.agents) == 0 {
			s.errorf(raw.methods[i].at, "add "+exampleAgent+` { program = "fence_ipmilan" … } for each node that may own`, "the method \"agent\" has no agent")
		}
		if m == MethodCommand && len(raw.commands) == 0 {
			s.errorf(raw.methods[i].at, "add "+exampleCommand+` { command = [ … ] … } for each node that may own`, "the method \"command\" has no command")
		}
	}
}

// checkReservable refuses reservations of what isn't a disk.
func (s *source) checkReservable(raw rawFence, f Fence, volumes []rawVolume) {
	for i, m := range f.Methods {
		if m != MethodReservation {
			continue
		}
		for _, v := range volumes {
			if isNetworkSource(v.device.value) {
				s.errorf(raw.methods[i].at, "use another method; \"agent\" covers volumes of every kind", "volume %s is a server's (%s): there is no disk that could be reserved", quote(v.name.value), v.device.value)
			}
		}
	}
}

// checkFenced refuses a fence that could do nothing about a node which may
// own. One block is enough: a method that has none for it is passed over.
func (s *source) checkFenced(raw rawFence, f Fence, members []Member) {
	for _, a := range raw.agents {
		s.checkOwner(a.node, members)
	}
	for _, c := range raw.commands {
		s.checkOwner(c.node, members)
	}
	if !slices.Contains(f.Methods, MethodAgent) && !slices.Contains(f.Methods, MethodCommand) || slices.Contains(f.Methods, MethodWatchdog) || slices.Contains(f.Methods, MethodReservation) {
		return // nothing is to be switched off, or there is a method for each node
	}
	for _, m := range members {
		if !m.Witness && len(f.Agents[m.Name]) == 0 && len(f.Commands[m.Name]) == 0 {
			kind := "command"
			if slices.Contains(f.Methods, MethodAgent) {
				kind = "agent"
			}
			s.errorf(raw.at, fmt.Sprintf("add %s %s { … }", kind, quote(m.Name)), "%s may own, but nothing here can switch it off", quote(m.Name))
		}
	}
}
