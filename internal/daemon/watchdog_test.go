package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/policy"
	"had/storage"
)

// kennel is a guard's watchdog.
type kennel struct {
	armed time.Duration
	err   error
}

func (k *kennel) Arm(context.Context) error {
	if k.err == nil {
		k.armed = 5 * time.Second
	}
	return k.err
}

func (k *kennel) Disarm(context.Context) error {
	if k.err == nil {
		k.armed = 0
	}
	return k.err
}

func (k *kennel) Armed() time.Duration { return k.armed }

// It is armed while the policy counts on it, but never beside what an earlier run may
// have left mounted; and a node without it says why it can't own.
func TestTheWatchdogFollowsThePolicy(t *testing.T) {
	counts := &policy.Policy{Volumes: []policy.Volume{{Name: "web"}}, Fence: policy.Fence{Methods: []policy.Method{policy.MethodWatchdog}}}
	k := &kennel{}
	var inForce *policy.Policy
	left := ""
	w := &watchdog{
		configured: true, guard: k, policy: func() (*policy.Policy, error) { return inForce, nil },
		unproven: func() string { return left }, logger: hclog.NewNullLogger(),
	}
	step := func(p *policy.Policy, leftovers string, err error, armed bool, trouble string) {
		t.Helper()
		inForce, left, k.err = p, leftovers, err
		w.look(t.Context())
		if k.armed > 0 != armed {
			t.Errorf("armed: %v", k.armed)
		}
		if got := strings.Join(w.trouble(p), "; "); trouble == "" && got != "" || !strings.Contains(got, trouble) {
			t.Errorf("trouble %q, want %q", got, trouble)
		}
	}
	step(nil, "", nil, false, "")
	step(&policy.Policy{Volumes: counts.Volumes}, "", nil, false, "")
	if got := w.trouble(counts); len(got) != 1 || got[0] != "its watchdog isn't armed yet" {
		t.Errorf("before it was tried: %v", got)
	}
	step(counts, "web may be mounted", nil, false, "can't be armed: web may be mounted")
	step(counts, "", errors.New("systemd has it"), false, "can't be armed: systemd has it")
	step(counts, "", nil, true, "")
	step(&policy.Policy{}, "", errors.New("epoch 7 has volumes"), true, "")
	step(&policy.Policy{}, "", nil, false, "")
	w.configured = false
	step(counts, "", nil, true, "add watchdog {")
}

// A device that a kernel which started anew doesn't have can't have been mounted by
// it.
func TestWhatIsAbsentAfterARestartIsUnused(t *testing.T) {
	var out strings.Builder
	v := storage.Volume{Name: "web", Device: "/dev/had-has-no-such-device", Path: "/srv/web"}
	for op, want := range map[string]string{inspectUnused: "[]", inspectFlush: "write what isn't on its disk yet"} {
		out.Reset()
		question := `{"op":"` + op + `","volumes":[{"Name":"` + v.Name + `","Device":"` + v.Device + `","Path":"` + v.Path + `"}]}`
		if err := Inspect(t.Context(), strings.NewReader(question), &out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %s, %v", op, out.String(), err)
		}
	}
}
