package failover

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/hook"
	"had/internal/journal"
	"had/internal/steps"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// RecoverConfig is what Recover works on.
type RecoverConfig struct {
	Cluster   string
	Instance  *hadv1.Instance // of this run
	Namespace string          // of this run's network, as in /proc/PID/ns/net
	Journal   RecoverJournal
	Addresses Addresses
	Gate      RecoverGate     // nil: this host has none
	Volumes   RecoverVolumes  // nil: this host carries none
	Farewell  *hadv1.Farewell // what the earlier run's guard said; nil: nothing
	Hooks     HookRunners
	Kill      func(ctx context.Context, r hook.Running) (int, error) // what is left of a script
	Logger    hclog.Logger
}

// Recovered is what Recover gave back; the zero value is nothing.
type Recovered struct {
	Epoch     uint64 // 0: no epoch was held
	Addresses []vip.Address
	Rebooted  bool // the host has booted since
	Scripts   int  // scripts of the earlier run that had not ended
	// Unproven says why this host may still write to the volumes of Epoch: until
	// it can't, nothing is reported, this node must not own, and Recover is to be
	// called again. Empty: it can't.
	Unproven string
}

// RecoverVolumes are the volumes of an earlier run, whose guard is gone. A call
// returns when ctx ends, whatever the kernel does.
type RecoverVolumes interface {
	// Secure ends by force what can write to a volume, the services that scripts
	// of the epoch started included, and proves that nothing can.
	Secure(ctx context.Context, epoch uint64, volumes []storage.Volume) error
	// Unused proves that nothing on this host can write to a volume, and changes
	// nothing.
	Unused(ctx context.Context, volumes []storage.Volume) error
}

// RecoverJournal is the journal as Recover needs it.
type RecoverJournal interface {
	Journal
	Interrupted() []hook.Running
	ReportInterrupted(ctx context.Context, r hook.Running) error
}

// RecoverGate is the gate as Recover needs it.
type RecoverGate interface {
	Shut(epoch uint64)
	Guarded() ([]netip.Addr, error)
	Forget(epoch uint64, addrs []netip.Addr) error
}

// Recover gives back what an earlier run of had on this host took on and
// didn't finish with. It must run before this run meets anybody, with the
// data folder locked, which proves that the earlier run is dead.
//
// The order is the one that makes its report true: whatever could still act is
// killed (scripts of the earlier run), then the addresses are taken out of the
// kernel and seen to be gone, then the volumes, then the epoch is reported
// released, once, and then the hooks are told. The addresses are also taken out before all that: a
// script that can't be killed must not keep them up. After an error, and when
// ctx ends, the record stays, so that the next start does what is left.
func Recover(ctx context.Context, cfg RecoverConfig) (r Recovered, err error) {
	t, err := cfg.Journal.Tenure()
	if err != nil {
		return r, err
	}
	away := t != nil && Elsewhere(t, cfg.Instance, cfg.Namespace)
	if t != nil && !away {
		// At once, as well as it can be done; the proof comes below.
		if cfg.Gate != nil {
			cfg.Gate.Shut(t.Epoch)
		}
		if addrs, _, err := tenureAddresses(t); err == nil {
			_ = cfg.Addresses.Remove(ctx, addrs)
		}
	}
	if r.Scripts, err = recoverHooks(ctx, cfg); err != nil {
		return r, err
	}
	if t == nil {
		return r, reopen(cfg)
	}
	cause := "the earlier run of had ended without releasing"
	kind := hadv1.Evidence_KIND_RELEASED
	r.Rebooted = t.Instance.GetBootId() != cfg.Instance.GetBootId()
	if r.Rebooted {
		cause, kind = "the host was rebooted while it owned", hadv1.Evidence_KIND_REBOOTED
	}
	cfg.Logger.Warn("giving back what an earlier run held", "epoch", t.Epoch, "rebooted", r.Rebooted, "released", t.Released)

	addrs, vips, err := tenureAddresses(t)
	if err != nil {
		return r, err
	}
	r.Epoch, r.Addresses = t.Epoch, addrs
	if away {
		cfg.Logger.Warn("the earlier run was in another network namespace: nothing can be said about its addresses there, and the others wait until its lease and their lifetime are over", "epoch", t.Epoch, "namespace", t.Namespace)
		t.Forced = t.Forced || !t.Released
		if len(t.Volumes) > 0 && !t.Released {
			r.Unproven = fmt.Sprintf("the run of had that had mounted %s was in another network namespace (%s): start had there, or reboot this host", nameVolumes(t), t.Namespace)
			return r, nil
		}
	} else if err := takeDown(ctx, cfg, t, addrs, kind, cause); errors.Is(err, errStillMounted) {
		r.Unproven = err.Error()
		cfg.Logger.Error("this node can't own until that is put right", "epoch", t.Epoch, "error", err)
		return r, nil
	} else if err != nil {
		return r, err
	}
	if !r.Rebooted {
		if err := recoverStages(ctx, cfg, t, vips, cause); err != nil {
			return r, err
		}
	}
	return r, cfg.Journal.ClearTenure()
}

// Elsewhere reports whether the addresses of an earlier run are, if anywhere,
// in a network namespace that this run, which is in namespace, can't look into.
// That they aren't here proves nothing then.
func Elsewhere(t *journal.Tenure, self *hadv1.Instance, namespace string) bool {
	return t.Namespace != "" && t.Namespace != namespace && t.Instance.GetBootId() == self.GetBootId()
}

// takeDown takes the addresses of an earlier run out of the kernel and reports
// its epoch released, unless its guard or that run itself has.
func takeDown(ctx context.Context, cfg RecoverConfig, t *journal.Tenure, addrs []vip.Address, kind hadv1.Evidence_Kind, cause string) error {
	tl := new(steps.Timeline)
	if err := tl.Run("addresses_down", func() error { return cfg.Addresses.Remove(ctx, addrs) }); err != nil {
		return fmt.Errorf("give back epoch %d: %w", t.Epoch, err)
	}
	if err := disarm(cfg.Gate, t.Epoch); err != nil {
		return err
	}
	if !t.Released && cfg.Farewell.GetReleased().GetEpoch() == t.Epoch {
		// The guard has said so already, and its word goes to the log by
		// itself: once is enough.
		t.Released, t.Forced = true, true
		if err := cfg.Journal.SetTenure(t); err != nil {
			return err
		}
	}
	if t.Released {
		return nil
	}
	if err := tl.Run("secure_volumes", func() error { return putAway(ctx, cfg, t, kind) }); err != nil {
		return err
	}
	t.Forced = true
	return cfg.Journal.Release(ctx, &hadv1.Report{
		Node: cfg.Instance.GetNode(), At: timestamppb.Now(),
		Body: &hadv1.Report_Released{Released: &hadv1.Released{
			Epoch: t.Epoch, Reporter: cfg.Instance, Kind: kind, Forced: true, Cause: cause, Steps: tl.List(),
		}},
	}, true)
}

// putAway proves that this host can't write to the volumes of an earlier run. A
// kernel that started anew has mounted none of them for it: there, somebody
// else's mount is left alone.
func putAway(ctx context.Context, cfg RecoverConfig, t *journal.Tenure, kind hadv1.Evidence_Kind) error {
	if len(t.Volumes) == 0 {
		return nil
	}
	if cfg.Volumes == nil {
		return fmt.Errorf("%w: this host's had can't look after %s of epoch %d", errStillMounted, nameVolumes(t), t.Epoch)
	}
	ctx, cancel := context.WithTimeout(ctx, secureLimit)
	defer cancel()
	volumes := asStorage(t.Volumes)
	var err error
	if kind == hadv1.Evidence_KIND_REBOOTED {
		err = cfg.Volumes.Unused(ctx, volumes)
	} else {
		err = cfg.Volumes.Secure(ctx, t.Epoch, volumes)
	}
	if err != nil {
		return fmt.Errorf("%w (%s of epoch %d, which an earlier run held): %w", errStillMounted, nameVolumes(t), t.Epoch, err)
	}
	return nil
}

func nameVolumes(t *journal.Tenure) string {
	var names []string
	for _, v := range t.Volumes {
		names = append(names, v.GetName())
	}
	return strings.Join(names, ", ")
}

// disarm opens the gate around what an epoch held, which is proven gone.
func disarm(gate RecoverGate, epoch uint64) error {
	if gate == nil {
		return nil
	}
	addrs, err := gate.Guarded()
	if err != nil {
		return err
	}
	return gate.Forget(epoch, addrs)
}

// reopen opens a gate that an earlier run, which held nothing any more, left
// closed around addresses that are not on this host.
func reopen(cfg RecoverConfig) error {
	if cfg.Gate == nil {
		return nil
	}
	addrs, err := cfg.Gate.Guarded()
	if err != nil || len(addrs) == 0 {
		return err
	}
	at, err := cfg.Addresses.Presence(addrs)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(addrs, func(a netip.Addr) bool { return at[a] != vip.Inactive })
	return cfg.Gate.Forget(math.MaxUint64, gone) // of whatever epoch: no run is there that could have one
}

// recoverStages runs the release hooks that the earlier run didn't get to. A
// failing script stops no release and has a result of its own; only a runner
// that can't be had, a script that can't be ended, or the end of ctx, is an
// error.
func recoverStages(ctx context.Context, cfg RecoverConfig, t *journal.Tenure, vips []recovered, cause string) error {
	hooks, err := cfg.Hooks(t.HooksDir, t.HookTimeout)
	if err != nil {
		return err
	}
	stages := []hook.Stage{hook.PostRel}
	if t.Forced {
		stages = []hook.Stage{hook.PreRel, hook.PostRel}
	}
	for _, s := range stages {
		err := recoverStage(ctx, cfg, hooks, t, vips, s, cause)
		if errors.Is(err, hook.ErrStillRunning) {
			return err // it may still act on what this run would take on
		}
		if err != nil {
			cfg.Logger.Warn("a release script failed; the release goes on", "epoch", t.Epoch, "error", err)
		}
	}
	return context.Cause(ctx)
}

// recoverHooks ends what is left of interrupted scripts and reports them; it
// returns how many there were.
func recoverHooks(ctx context.Context, cfg RecoverConfig) (int, error) {
	running := cfg.Journal.Interrupted()
	for _, r := range running {
		if n, err := cfg.Kill(ctx, r); err != nil {
			return 0, fmt.Errorf("kill what is left of %s: %w", r.Script, err)
		} else if n > 0 {
			cfg.Logger.Warn("killed a script that an earlier run had left running", "script", r.Script, "processes", n)
		}
		if err := cfg.Journal.ReportInterrupted(ctx, r); err != nil {
			return 0, err
		}
	}
	return len(running), nil
}

func recoverStage(ctx context.Context, cfg RecoverConfig, hooks Hooks, t *journal.Tenure, vips []recovered, s hook.Stage, cause string) error {
	var first error
	for i := range vips {
		v := vips[len(vips)-1-i]
		_, err := hooks.Stage(ctx, hook.Run{Stage: s, Event: hook.Release, VIP: v.addr, Env: hook.Env{
			Cluster: cfg.Cluster, Reason: cause, Interface: v.iface, Node: cfg.Instance.GetNode(), Epoch: t.Epoch, Forced: t.Forced,
			Volumes: tenureMountPoints(t), Tokens: tenureTokens(t),
		}})
		if err != nil && first == nil {
			first = err
		}
	}
	return first
}

func tenureMountPoints(t *journal.Tenure) map[string]string {
	out := map[string]string{}
	for _, v := range t.Volumes {
		out[v.GetName()] = v.GetPath()
	}
	return out
}

func tenureTokens(t *journal.Tenure) map[string]string {
	out := map[string]string{}
	for _, k := range t.Tokens {
		out[k.GetName()] = k.GetLocation()
	}
	return out
}

type recovered struct {
	addr  netip.Addr
	iface string
}

func tenureAddresses(t *journal.Tenure) (addrs []vip.Address, vips []recovered, err error) {
	for _, a := range t.Addresses {
		addr, err := netip.ParseAddr(a.GetAddress())
		if err != nil {
			return nil, nil, fmt.Errorf("read the journal's record of epoch %d: %w", t.Epoch, err)
		}
		addrs = append(addrs, vip.Address{Addr: addr, Interface: a.GetInterface()})
		vips = append(vips, recovered{addr, a.GetInterface()})
	}
	return addrs, vips, nil
}
