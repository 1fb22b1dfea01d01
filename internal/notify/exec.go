package notify

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"had/internal/policy"
	"had/internal/program"
)

// command runs a program for each message, with the message as JSON on its
// standard input. Exit code 0 says that it took it.
type command struct{ cfg policy.Channel }

func (c command) target() string { return strings.Join(c.cfg.Command, " ") }

func (c command) check() error {
	_, err := program.Find(c.cfg.Command[0], "")
	return err
}

func (c command) send(ctx context.Context, m *message) error {
	input, err := m.json()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	r, err := program.Program{
		Argv: c.cfg.Command, Env: c.environ(m), Input: string(input) + "\n", Timeout: c.cfg.Timeout,
	}.Run(ctx)
	switch {
	case err != nil && r.Said == "":
		return &maybeSentError{fmt.Errorf("run %s: %w", c.cfg.Command[0], err)}
	case err != nil:
		return &maybeSentError{fmt.Errorf("run %s: %w: it says: %s", c.cfg.Command[0], err, r.Said)}
	case r.Code != 0 && r.Said == "":
		return fmt.Errorf("run %s: exit code %d", c.cfg.Command[0], r.Code)
	case r.Code != 0:
		return fmt.Errorf("run %s: exit code %d: it says: %s", c.cfg.Command[0], r.Code, r.Said)
	}
	return nil
}

// environ is for scripts that need no JSON.
func (c command) environ(m *message) []string {
	vars := []struct{ name, value string }{
		{"HAD_CLUSTER", m.cluster},
		{"HAD_NODE", m.node},
		{"HAD_NOTIFY", m.channel},
		{"HAD_NOTIFY_ID", m.id},
		{"HAD_SEVERITY", string(m.severity())},
		{"HAD_TOPIC", string(m.topic())},
		{"HAD_SUBJECT", m.subject()},
		{"HAD_EVENTS", strconv.Itoa(len(m.items))},
		{"HAD_TEST", strconv.FormatBool(m.test)},
		{"HAD_REPEAT", strconv.FormatBool(m.repeat)},
	}
	env := make([]string, 0, len(vars))
	for _, v := range vars {
		env = append(env, v.name+"="+strings.ReplaceAll(v.value, "\x00", ""))
	}
	return env
}
