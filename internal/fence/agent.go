package fence

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"had/internal/program"
	"had/internal/secret"
)

// Agent is a program of the fence-agents project, or one that speaks as they
// do: it reads lines of name=value from its standard input, and exits with 0
// when it did what "action" says. Asked for the status it exits with 0 when the
// host is on and with 2 when it is off.
// (github.com/ClusterLabs/fence-agents, doc/FenceAgentAPI.md)
type Agent struct {
	Program string            // a name in root's PATH, or an absolute path; only root may be able to change it
	Options map[string]string // as the program takes them on its input, without the action
	Secrets map[string]string // options whose value is what the named file holds, in one line
	Timeout time.Duration     // for one run of the program; 0 means a minute
}

// String returns the program and what it is pointed at.
func (a Agent) String() string {
	var at []string
	for _, name := range []string{"ip", "ipaddr", "plug", "port"} {
		if v := a.Options[name]; v != "" {
			at = append(at, name+"="+v)
		}
	}
	if len(at) == 0 {
		return a.Program
	}
	return a.Program + " " + strings.Join(at, " ")
}

// Off asks the agent to switch the host off.
func (a Agent) Off(ctx context.Context) error {
	r, err := a.run(ctx, "off")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	return a.fail("switch off", r, err)
}

// IsOff asks the agent for the status. Exit code 2 alone isn't believed: it is
// also that of an interpreter which can't read the agent. All agents print the
// status, too.
func (a Agent) IsOff(ctx context.Context) error {
	r, err := a.run(ctx, "status")
	switch off := strings.Contains(strings.ToLower(r.Stdout), "off"); {
	case err != nil:
	case r.Code == 0:
		err = ErrOn
	case r.Code == 2 && off:
		return nil
	case r.Code == 2:
		err = errors.New(`exit code 2, which is for "off", but it didn't print "Status: OFF"`)
	default:
		err = fmt.Errorf("exit code %d", r.Code)
	}
	return a.fail("ask whether it is off", r, err)
}

// Check looks whether the agent is installed, knows all the options, can switch
// off and tell the status, and whether the secrets are there, for root alone.
func (a Agent) Check(ctx context.Context) error {
	_, missing := a.secrets()
	problems := []error{missing}
	for _, name := range slices.Sorted(maps.Keys(a.Secrets)) {
		if err := secret.CheckPrivate(a.Secrets[name]); err != nil {
			problems = append(problems, fmt.Errorf("secret %s: %w", name, err))
		}
	}
	r, err := a.program("action=metadata\n", nil).Run(ctx)
	if err == nil {
		err = a.checkMetadata(r.Stdout)
	}
	return a.fail("check it", program.Result{}, errors.Join(append(problems, err)...))
}

// metadata is what an agent says of itself (fence-agents, doc/FenceAgentAPI.md).
type metadata struct {
	Parameters []named `xml:"parameters>parameter"`
	Actions    []named `xml:"actions>action"`
}

type named struct {
	Name string `xml:"name,attr"`
}

// checkMetadata refuses options that the agent doesn't know: it would ignore
// them, and so perhaps switch off another host than is meant.
func (a Agent) checkMetadata(text string) error {
	var m metadata
	if err := xml.Unmarshal([]byte(text), &m); err != nil {
		return fmt.Errorf("read its metadata: %w", err)
	}
	has := func(list []named, name string) bool {
		return slices.ContainsFunc(list, func(n named) bool { return strings.ReplaceAll(n.Name, "-", "_") == name })
	}
	var problems []error
	for _, action := range []string{"off", "status"} {
		if !has(m.Actions, action) {
			problems = append(problems, fmt.Errorf("it has no action %q, without which it proves nothing", action))
		}
	}
	names := slices.Concat(slices.Collect(maps.Keys(a.Options)), slices.Collect(maps.Keys(a.Secrets)))
	slices.Sort(names)
	for _, name := range names {
		if !has(m.Parameters, name) {
			problems = append(problems, fmt.Errorf("it has no option %q (man %s)", name, a.Program))
		}
	}
	return errors.Join(problems...)
}

// run runs the agent once.
func (a Agent) run(ctx context.Context, action string) (program.Result, error) {
	secrets, err := a.secrets()
	if err != nil {
		return program.Result{}, err
	}
	options := maps.Clone(a.Options)
	if options == nil {
		options = map[string]string{}
	}
	maps.Copy(options, secrets)
	options["action"] = action
	var input strings.Builder
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if strings.ContainsAny(name, "=\n\x00") || strings.ContainsAny(options[name], "\n\r\x00") {
			return program.Result{}, fmt.Errorf("write the option %q: it isn't one line", name)
		}
		fmt.Fprintf(&input, "%s=%s\n", name, quoted(options[name]))
	}
	return a.program(input.String(), slices.Collect(maps.Values(secrets))).Run(ctx)
}

// program is one run of the agent.
func (a Agent) program(input string, secrets []string) program.Program {
	return program.Program{
		Argv: []string{a.Program}, Env: []string{"PYTHONWARNINGS=ignore"}, Input: input, Timeout: a.Timeout, Secrets: secrets,
		Hint: "apt-get install fence-agents",
	}
}

// quoted puts quotes around a value that agents would change otherwise: they
// drop blanks at a line's end, and one pair of quotes.
func quoted(v string) string {
	if strings.TrimSpace(v) != v || strings.HasPrefix(v, `"`) && strings.HasSuffix(v, `"`) {
		return `"` + v + `"`
	}
	return v
}

// secrets reads the files.
func (a Agent) secrets() (map[string]string, error) {
	secrets := map[string]string{}
	var failed []error
	for _, name := range slices.Sorted(maps.Keys(a.Secrets)) {
		v, err := secret.Read(a.Secrets[name])
		if err != nil {
			failed = append(failed, fmt.Errorf("read the secret %s: %w", name, err))
		}
		secrets[name] = v
	}
	return secrets, errors.Join(failed...)
}

func (a Agent) fail(doing string, r program.Result, err error) error {
	if err == nil {
		return nil
	}
	return &DeviceError{Device: a.String(), Doing: doing, Said: r.Said, Err: err}
}
