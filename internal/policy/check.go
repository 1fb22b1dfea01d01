package policy

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Check is something that is looked at again and again.
type Check struct {
	Kind CheckKind
	Name string
	On   CheckOn

	URL       string   `json:",omitzero"` // CheckHTTP
	Address   string   `json:",omitzero"` // CheckTCP: host:port
	Command   []string `json:",omitzero"` // CheckExec; the first is an absolute path
	Interface string   `json:",omitzero"` // CheckLink
	Volume    *Volume  `json:",omitzero"` // CheckVolume: one of the policy

	Interval    time.Duration // from the begin of one look to that of the next
	Timeout     time.Duration // after which a look has failed
	Failures    int           // in a row, until it is failing
	Successes   int           // in a row, until it isn't any more
	StartPeriod time.Duration // after PostAcq, in which failures don't count before the first success
}

// CheckKind says what is looked at.
type CheckKind string

// The kinds of checks.
const (
	CheckHTTP CheckKind = "http" // a GET is answered with 200 to 399
	CheckTCP  CheckKind = "tcp"  // a connection is accepted
	CheckExec CheckKind = "exec" // a command ends with exit code 0
	CheckLink CheckKind = "link" // an interface has its carrier

	CheckVolume CheckKind = "volume" // a volume takes writes; only where it is mounted, on the owner
)

// CheckOn says where a check runs, and so what it decides.
type CheckOn string

// Where checks run.
const (
	OnOwner   CheckOn = "owner"   // failing, the owner hands over
	OnStandby CheckOn = "standby" // failing or not passed yet, a node can't take over
	OnAll     CheckOn = "all"     // both
)

const (
	defaultCheckInterval = 2 * time.Second
	defaultCheckTimeout  = time.Second
	defaultFailures      = 3
	defaultSuccesses     = 2
	defaultStartPeriod   = 30 * time.Second
	mostInARow           = 100
)

func checkKinds() []string {
	return []string{string(CheckHTTP), string(CheckTCP), string(CheckExec), string(CheckLink), string(CheckVolume)}
}

// checkTarget is the attribute that says what a kind looks at, and an example.
func checkTarget(k CheckKind) (attr, example string) {
	switch k {
	case CheckHTTP:
		return "url", `"http://127.0.0.1/healthz"`
	case CheckTCP:
		return "address", `"127.0.0.1:25"`
	case CheckExec:
		return "command", `["/usr/local/sbin/check-site"]`
	case CheckLink:
		return "interface", `"eth1"`
	case CheckVolume:
		return "volume", `"webstuff"`
	}
	return "", ""
}

func checkShape() shape {
	sh := shape{
		what:   `check "http" "site"`,
		labels: 2,
		attrs: map[string]string{
			"on": quote(string(OnOwner)), "interval": quote(shortest(defaultCheckInterval)), "timeout": quote(shortest(defaultCheckTimeout)),
			"failures": strconv.Itoa(defaultFailures), "successes": strconv.Itoa(defaultSuccesses), "start_period": quote(shortest(defaultStartPeriod)),
		},
	}
	for _, k := range checkKinds() {
		attr, example := checkTarget(CheckKind(k))
		sh.attrs[attr] = example
	}
	return sh
}

type rawCheck struct {
	kind, name, on           text
	target                   text   // url, address, interface or volume
	command                  []text // of CheckExec
	interval, timeout, start time.Duration
	failures, successes      int
}

func (s *source) rawCheck(b *hclsyntax.Block) rawCheck {
	r := rawCheck{
		kind: label(b), name: text{value: b.Labels[1], at: b.LabelRanges[1], ok: true},
		on: s.optional(b.Body, "on", quote(string(OnOwner))),
		interval: s.duration(b.Body, "interval", defaultCheckInterval, span{
			min: 100 * time.Millisecond, low: "a look costs more than it tells so often",
			max: time.Hour, high: "a failure would be noticed hours later",
		}),
		timeout: s.duration(b.Body, "timeout", defaultCheckTimeout, span{
			min: 10 * time.Millisecond, low: "a busy host answers later than that",
			max: 10 * time.Minute, high: "a hang would be noticed too late",
		}),
		start: s.duration(b.Body, "start_period", defaultStartPeriod, span{
			min: 0, low: "0s is none",
			max: time.Hour, high: "a service that never starts would be noticed hours later",
		}),
		failures:  s.number(b.Body, "failures", 1, mostInARow),
		successes: s.number(b.Body, "successes", 1, mostInARow),
	}
	kind := CheckKind(r.kind.value)
	attr, example := checkTarget(kind)
	if attr == "" {
		s.errorf(r.kind.at, suggest(r.kind.value, checkKinds()), "unknown kind of check %s", quote(r.kind.value))
		return r
	}
	for _, k := range checkKinds() {
		if other, _ := checkTarget(CheckKind(k)); other != attr && b.Body.Attributes[other] != nil {
			s.errorf(b.Body.Attributes[other].NameRange, fmt.Sprintf("a check of kind %s is told what to look at by %s = %s", kind, attr, example), "%s belongs to %s checks", other, k)
		}
	}
	if kind == CheckExec {
		r.command = s.requiredList(b, attr, example)
	} else {
		r.target = s.required(b, attr, example)
	}
	return r
}

func (s *source) validChecks(raw []rawCheck, volumes []Volume) []Check {
	var checks []Check
	names := map[string]text{}
	for _, r := range raw {
		c := Check{
			Kind: CheckKind(r.kind.value), Name: r.name.value, On: OnOwner, Interval: r.interval, Timeout: r.timeout, StartPeriod: r.start,
			Failures: max(r.failures, 1), Successes: max(r.successes, 1),
		}
		if r.failures == 0 {
			c.Failures = defaultFailures
		}
		if r.successes == 0 {
			c.Successes = defaultSuccesses
		}
		if !validIdentifier(c.Name) {
			s.errorf(r.name.at, identHint, "%s can't be a check's name", quote(c.Name))
		}
		if first, twice := names[c.Name]; twice {
			s.errorf(r.name.at, fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line), "two checks are called %s", quote(c.Name))
		} else {
			names[c.Name] = r.name
		}
		if r.on.ok {
			c.On = s.checkOn(r.on)
		}
		s.aim(&c, r, volumes)
		checks = append(checks, c)
	}
	return checks
}

func (s *source) checkOn(t text) CheckOn {
	known := []string{string(OnOwner), string(OnStandby), string(OnAll)}
	if !slices.Contains(known, t.value) {
		s.errorf(t.at, suggest(t.value, known), "a check can't run on %s", quote(t.value))
	}
	return CheckOn(t.value)
}

func namesOf(volumes []Volume) (names []string) {
	for _, v := range volumes {
		names = append(names, v.Name)
	}
	return names
}

// aim sets what a check looks at.
func (s *source) aim(c *Check, r rawCheck, volumes []Volume) {
	_, example := checkTarget(c.Kind)
	switch t := r.target; {
	case c.Kind == CheckExec:
		for _, arg := range r.command {
			c.Command = append(c.Command, arg.value)
		}
		if len(r.command) > 0 {
			c.Command[0] = s.path(r.command[0], "command", "")
		}
	case !t.ok:
	case c.Kind == CheckHTTP:
		u, err := url.Parse(t.value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			s.errorf(t.at, "write it as in "+example, "url is not an http or https address: %s", quote(t.value))
		} else if u.User != nil {
			s.errorf(t.at, "the policy is in the log and shown: check a page that needs no password", "url holds a user name or password")
		}
		c.URL = t.value
	case c.Kind == CheckTCP:
		host, port, err := net.SplitHostPort(t.value)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			s.errorf(t.at, "write host and port, as in "+example, "address is not host:port: %s", quote(t.value))
		}
		c.Address = t.value
	case c.Kind == CheckLink:
		s.checkInterface(t)
		c.Interface = t.value
	case c.Kind == CheckVolume:
		i := slices.IndexFunc(volumes, func(v Volume) bool { return v.Name == t.value })
		if i < 0 {
			s.errorf(t.at, suggest(t.value, namesOf(volumes)), "the policy has no volume %s", quote(t.value))
			return
		}
		c.Volume = &volumes[i]
		if c.On != OnOwner {
			s.errorf(r.on.at, "leave it out: a node that doesn't own has nothing mounted", "a check of a volume can't run on %s", quote(r.on.value))
		}
	}
}
