package failover

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/hook"
	"had/internal/journal"
	hadv1 "had/proto/had/v1"
)

// leftBehind is what Recover finds after a run that was killed while it owned
// epoch 7.
func leftBehind() (RecoverConfig, *memoryJournal, *memoryKernel, *scriptedHooks, *diary) {
	d := &diary{}
	j := &memoryJournal{diary: d, interrupted: []hook.Running{{ID: "1", Script: "PostAcq1"}}, tenure: &journal.Tenure{
		Epoch: 7, Instance: &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: "boot", Nonce: "1"},
		Addresses: []*hadv1.HeldAddress{{Address: "192.0.2.1", Interface: "eth0"}, {Address: "192.0.2.2", Interface: "eth0"}},
		HooksDir:  "/hooks", HookTimeout: time.Second,
	}}
	k := newMemoryKernel(d)
	k.present[addresses("192.0.2.1")[0].Addr] = true
	h := &scriptedHooks{diary: d, do: map[hook.Stage]func(context.Context, hook.Run) ([]hook.Result, error){}}
	return RecoverConfig{
		Cluster: "test", Instance: &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: "boot", Nonce: "2"},
		Journal: j, Addresses: k, Hooks: h.runner, Logger: hclog.NewNullLogger(),
		Kill: func(context.Context, hook.Running) (int, error) { d.add("kill"); return 1, nil },
	}, j, k, h, d
}

func TestRecoverKillsThenRemovesThenReports(t *testing.T) {
	cfg, j, k, _, d := leftBehind()
	r, err := Recover(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"remove 2", "kill", "report interrupted", "remove 2", "report released 7",
		"PreRel 192.0.2.2", "PreRel 192.0.2.1", "PostRel 192.0.2.2", "PostRel 192.0.2.1", "clear tenure",
	}
	if got := d.all(); !slices.Equal(got, want) {
		t.Errorf("it did\n%q, want\n%q", got, want)
	}
	if k.holds() != 0 || r.Epoch != 7 || r.Scripts != 1 || r.Rebooted {
		t.Errorf("recovered %+v with %d addresses left", r, k.holds())
	}
	if rel := j.pending[0].GetReleased(); !rel.GetForced() || rel.GetKind() != hadv1.Evidence_KIND_RELEASED {
		t.Errorf("the report is %v", rel)
	}
	if r, err := Recover(t.Context(), cfg); err != nil || r.Epoch != 0 {
		t.Errorf("the second run recovered %+v, %v: want nothing", r, err)
	}
}

// In another network namespace the addresses of the earlier run can't be seen:
// that they aren't here proves nothing.
func TestRecoverInAnotherNamespaceProvesNothing(t *testing.T) {
	cfg, j, k, _, d := leftBehind()
	j.tenure.Namespace, cfg.Namespace = "net:[1]", "net:[2]"
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if len(j.released()) != 0 || k.holds() != 1 {
		t.Errorf("reported %v; %d addresses are up", j.released(), k.holds())
	}
	if got := d.all(); !slices.Contains(got, "PostRel 192.0.2.1") || j.tenure != nil {
		t.Errorf("it did %v, and the journal has %v", got, j.tenure)
	}

	// A kernel that started anew has none of the old namespaces.
	cfg, j, _, _, _ = leftBehind()
	j.tenure.Namespace, cfg.Namespace, cfg.Instance.BootId = "net:[1]", "net:[2]", "another"
	if _, err := Recover(t.Context(), cfg); err != nil || len(j.released()) != 1 {
		t.Errorf("%v; reported %v after a reboot", err, j.released())
	}
}

// What the earlier run's guard has said is in the log, or on its way: the
// journal must not say it again.
func TestRecoverLeavesTheReportToTheGuard(t *testing.T) {
	cfg, j, k, _, d := leftBehind()
	cfg.Farewell = &hadv1.Farewell{Released: &hadv1.Released{Epoch: 7}}
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := j.released(); len(got) != 0 {
		t.Errorf("released was reported twice: %v", got)
	}
	if k.holds() != 0 || !slices.Contains(d.all(), "PreRel 192.0.2.1") || j.tenure != nil {
		t.Errorf("%d addresses left, it did %v", k.holds(), d.all())
	}

	cfg, j, _, _, _ = leftBehind()
	cfg.Farewell = &hadv1.Farewell{Released: &hadv1.Released{Epoch: 5}}
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := j.released(); !slices.Equal(got, []uint64{7}) {
		t.Errorf("released %v, want epoch 7: the guard spoke of an earlier one", got)
	}
}

// keys are a gate's guarded addresses.
type keys map[netip.Addr]bool

func (keys) Shut(uint64) {}

func (k keys) Guarded() ([]netip.Addr, error) { return slices.Collect(maps.Keys(k)), nil }

func (k keys) Forget(_ uint64, addrs []netip.Addr) error {
	for _, a := range addrs {
		delete(k, a)
	}
	return nil
}

// A run may have ended with a gate closed around what it had proven gone: no
// later run would open it, and this host may be another's way to the address.
func TestRecoverOpensAGateThatGuardsNothing(t *testing.T) {
	cfg, j, k, _, _ := leftBehind()
	j.tenure = nil
	here, gone := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	gate := keys{here: true, gone: true}
	cfg.Gate = gate
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if gate[gone] {
		t.Error("the gate stays closed around an address that no run holds")
	}
	if !gate[here] || k.holds() != 1 {
		t.Error("the gate was opened around an address that is on this host")
	}
}

func TestRecoverAfterARebootRunsNoHooks(t *testing.T) {
	cfg, j, _, _, d := leftBehind()
	cfg.Instance.BootId = "a later boot"
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if rel := j.pending[0].GetReleased(); rel.GetKind() != hadv1.Evidence_KIND_REBOOTED {
		t.Errorf("the report is %v, want rebooted", rel)
	}
	if slices.Contains(d.all(), "PreRel 192.0.2.1") {
		t.Error("hooks ran for services that the reboot has ended")
	}
}

// A run that had reported its release and was killed in its last hooks must
// not be reported again, and its orderly release not become a forced one.
func TestRecoverReportsAReleaseOnce(t *testing.T) {
	cfg, j, _, h, _ := leftBehind()
	j.tenure.Released = true
	h.do[hook.PostRel] = func(_ context.Context, run hook.Run) ([]hook.Result, error) {
		if run.Env.Forced {
			t.Error("PostRel of an orderly release ran with HAD_FORCED=1")
		}
		return nil, nil
	}
	if _, err := Recover(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := j.released(); len(got) != 0 {
		t.Errorf("released was reported again: %v", got)
	}
	if got := h.diary.all(); slices.Contains(got, "PreRel 192.0.2.1") || !slices.Contains(got, "PostRel 192.0.2.1") {
		t.Errorf("it did %q, want PostRel alone", got)
	}
}

func TestRecoverKeepsTheRecordUntilItIsThrough(t *testing.T) {
	t.Run("an address that doesn't go", func(t *testing.T) {
		cfg, j, k, _, _ := leftBehind()
		k.failDrop = errors.New("netlink is busy")
		if _, err := Recover(t.Context(), cfg); err == nil {
			t.Error("it went on although the address is still there")
		}
		if j.tenure == nil || len(j.released()) > 0 {
			t.Errorf("tenure %v, released %v: the next start must do it", j.tenure, j.released())
		}
	})
	t.Run("a process that doesn't die", func(t *testing.T) {
		cfg, j, k, _, _ := leftBehind()
		cfg.Kill = func(context.Context, hook.Running) (int, error) { return 0, hook.ErrStillRunning }
		if _, err := Recover(t.Context(), cfg); !errors.Is(err, hook.ErrStillRunning) {
			t.Errorf("Recover() = %v", err)
		}
		if j.tenure == nil || len(j.released()) > 0 {
			t.Error("it went on although a script of the earlier run can still act")
		}
		if k.holds() != 0 {
			t.Error("a script that can't be killed keeps the addresses up")
		}
	})
	t.Run("told to stop in a hook", func(t *testing.T) {
		cfg, j, _, h, _ := leftBehind()
		ctx, cancel := context.WithCancel(t.Context())
		h.do[hook.PreRel] = func(context.Context, hook.Run) ([]hook.Result, error) { cancel(); return nil, context.Canceled }
		if _, err := Recover(ctx, cfg); err == nil {
			t.Error("hooks that never ran count as run")
		}
		if j.tenure == nil || !j.tenure.Released {
			t.Errorf("tenure %+v: the next start must run the hooks, and not report again", j.tenure)
		}
	})
}
