package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/clock"
	"had/internal/hook"
	"had/internal/journal"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/vip"
)

// diary is what the fakes write down, in the order in which it happened.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// memoryKernel is a host's addresses.
type memoryKernel struct {
	diary     *diary
	mu        sync.Mutex
	present   map[netip.Addr]bool
	told      map[netip.Addr]bool
	failSet   error
	failAfter int // addresses that Set still sets before failSet; -1: Set fails before it looks
	failDrop  error
}

func newMemoryKernel(d *diary) *memoryKernel {
	return &memoryKernel{diary: d, present: map[netip.Addr]bool{}, told: map[netip.Addr]bool{}}
}

func (k *memoryKernel) Set(_ context.Context, want []vip.Address, _ func() clock.Instant) (vip.Change, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failSet != nil && k.failAfter < 0 {
		return vip.Change{}, k.failSet
	}
	for i, a := range want {
		if k.failSet != nil && i == k.failAfter {
			return vip.Change{}, k.failSet
		}
		k.present[a.Addr], k.told[a.Addr] = true, true
	}
	for a := range k.told {
		if !slices.ContainsFunc(want, func(w vip.Address) bool { return w.Addr == a }) {
			delete(k.present, a)
		}
	}
	k.diary.add("set %d", len(want))
	return vip.Change{}, nil
}

func (k *memoryKernel) Remove(_ context.Context, gone []vip.Address) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.diary.add("remove %d", len(gone))
	if k.failDrop != nil {
		return k.failDrop
	}
	for _, a := range gone {
		delete(k.present, a.Addr)
	}
	return nil
}

func (k *memoryKernel) Presence(addrs []netip.Addr) (map[netip.Addr]vip.Presence, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := map[netip.Addr]vip.Presence{}
	for _, a := range addrs {
		at[a] = vip.Inactive
		if k.present[a] {
			at[a] = vip.Active
		}
	}
	return at, nil
}

func (k *memoryKernel) Announce(context.Context, []vip.Address) error { return nil }

func (k *memoryKernel) holds() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.present)
}

// oneLink is a network on which every address belongs to eth0.
type oneLink struct {
	mu      sync.Mutex
	missing error // of Resolve
	foreign bool  // somebody else answers for the addresses
	noLink  bool
	slow    time.Duration // how long a look at the link takes
}

func (n *oneLink) Resolve(want []vip.Wanted) []vip.Resolved {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]vip.Resolved, len(want))
	for i, w := range want {
		out[i] = vip.Resolved{Address: vip.Address{Addr: w.Addr, Interface: "eth0"}, Err: n.missing}
	}
	return out
}

func (n *oneLink) Carrier(string) (bool, error) {
	n.mu.Lock()
	slow := n.slow
	n.mu.Unlock()
	time.Sleep(slow)
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.noLink, nil
}

func (n *oneLink) takes(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = d
}

func (*oneLink) HardwareAddrs() ([]net.HardwareAddr, error) { return nil, nil }

func (n *oneLink) Conflicts(_ context.Context, want []vip.Address, _ time.Duration, _ []net.HardwareAddr) ([]vip.Conflict, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.foreign {
		return []vip.Conflict{{Address: want[0], MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}, nil
	}
	return nil, nil
}

func (n *oneLink) answering(foreign bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.foreign = foreign
}

func (n *oneLink) pull() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noLink = true
}

// memoryJournal is a journal whose disk fails when it is told to.
type memoryJournal struct {
	diary       *diary
	mu          sync.Mutex
	tenure      *journal.Tenure
	pending     []*hadv1.Report
	seq         uint64
	interrupted []hook.Running
	failTenure  error
	failAppend  error
	changed     chan struct{} // closed and replaced when there is more to deliver; nil: nobody waits
}

func (j *memoryJournal) Append(_ context.Context, r *hadv1.Report) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := proto.Marshal(r); err != nil {
		return 0, err
	}
	if j.failAppend != nil {
		return 0, j.failAppend
	}
	if j.changed != nil {
		close(j.changed)
		j.changed = make(chan struct{})
	}
	j.seq++
	r = proto.CloneOf(r)
	r.NodeId, r.Stream, r.Seq = "id", "stream", j.seq
	j.pending = append(j.pending, r)
	switch {
	case r.GetReleased() != nil:
		j.diary.add("report released %d", r.GetReleased().GetEpoch())
	case r.GetProgress() != nil:
		j.diary.add("report %s", r.GetProgress().GetOutcome())
	}
	return j.seq, nil
}

func (j *memoryJournal) Release(ctx context.Context, r *hadv1.Report, forced bool) error {
	if _, err := j.Append(ctx, r); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.tenure != nil {
		t := *j.tenure
		t.Released, t.Forced = true, forced
		j.tenure = &t
	}
	return nil
}

func (j *memoryJournal) Pending(limit int) []*hadv1.Report {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.pending[:min(limit, len(j.pending))])
}

func (j *memoryJournal) Ack(seq uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pending = slices.DeleteFunc(j.pending, func(r *hadv1.Report) bool { return r.GetSeq() <= seq })
	return nil
}

func (j *memoryJournal) PendingCount() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.pending)
}

func (j *memoryJournal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// fill makes the disk full; nil makes room again.
func (j *memoryJournal) fill(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failTenure, j.failAppend = err, err
}

func (j *memoryJournal) SetTenure(t *journal.Tenure) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failTenure != nil {
		return j.failTenure
	}
	j.tenure = t
	return nil
}

func (j *memoryJournal) Tenure() (*journal.Tenure, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tenure, nil
}

func (j *memoryJournal) ClearTenure() error {
	j.diary.add("clear tenure")
	return j.SetTenure(nil)
}

func (j *memoryJournal) Interrupted() []hook.Running { return j.interrupted }

func (j *memoryJournal) ReportInterrupted(context.Context, hook.Running) error {
	j.diary.add("report interrupted")
	return nil
}

func (j *memoryJournal) released() (epochs []uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.pending {
		if rel := r.GetReleased(); rel != nil {
			epochs = append(epochs, rel.GetEpoch())
		}
	}
	return epochs
}

// scriptedHooks runs no scripts: it writes down what would run, and does what
// the test says for a stage.
type scriptedHooks struct {
	diary *diary
	do    map[hook.Stage]func(ctx context.Context, run hook.Run) ([]hook.Result, error)
}

func (h *scriptedHooks) Stage(ctx context.Context, run hook.Run) ([]hook.Result, error) {
	h.diary.add("%s %s", run.Stage, run.VIP)
	if do := h.do[run.Stage]; do != nil {
		return do(ctx, run)
	}
	return nil, nil
}

func (h *scriptedHooks) runner(string, time.Duration) (Hooks, error) { return h, nil }

func fails(_ context.Context, run hook.Run) ([]hook.Result, error) {
	return []hook.Result{{Stage: run.Stage, Script: string(run.Stage), Outcome: hook.Exited, ExitCode: 1}}, nil
}

// lonelyLog is the log of a one-node cluster: every entry commits at once.
type lonelyLog struct {
	mu       sync.Mutex
	state    *cluster.State
	index    uint64
	self     string
	refusing error // of Propose
}

func newLonelyLog(i *hadv1.Instance) *lonelyLog {
	l := &lonelyLog{state: cluster.NewState(), self: i.GetNode()}
	l.must(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: &hadv1.Birth{
		Cluster: "test", Members: []*hadv1.Member{{Name: i.GetNode(), NodeId: i.GetNodeId()}},
	}}})
	return l
}

func (l *lonelyLog) must(cmd *hadv1.Command) uint64 {
	v, err := l.Propose(context.Background(), cmd)
	if err != nil {
		panic(err)
	}
	return v.Index
}

func (l *lonelyLog) Propose(_ context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusing != nil {
		return cluster.Verdict{}, l.refusing
	}
	l.index++
	v := l.state.Apply(cluster.Entry{Index: l.index, Term: 1}, cmd)
	if v.Refused != "" {
		return v, &cluster.RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

func (*lonelyLog) Transfer(context.Context, string) error { return errors.New("there is nobody else") }

func (l *lonelyLog) Leadership() cluster.Leadership {
	return cluster.Leadership{Leading: true, Ready: true, Term: 1, Leader: l.self}
}
func (*lonelyLog) LeadershipChanged() <-chan struct{} { return nil }

func (l *lonelyLog) View() (cluster.View, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.View(), nil
}

func (*lonelyLog) Confirm(context.Context) error { return nil }

func (*lonelyLog) LastLease() clock.Instant { return 0 }

// bench is an executor among fakes.
type bench struct {
	diary   *diary
	kernel  *memoryKernel
	network *oneLink
	journal *memoryJournal
	hooks   *scriptedHooks
	log     *lonelyLog
	x       *executor
}

func newBench(life context.Context, logger logger) *bench {
	d := &diary{}
	i := &hadv1.Instance{Node: "alpha", NodeId: "id", BootId: "boot", Nonce: "1"}
	b := &bench{
		diary: d, kernel: newMemoryKernel(d), network: &oneLink{}, journal: &memoryJournal{diary: d},
		hooks: &scriptedHooks{diary: d, do: map[hook.Stage]func(context.Context, hook.Run) ([]hook.Result, error){}},
		log:   newLonelyLog(i),
	}
	timing := cluster.TimingFor(500 * time.Millisecond)
	lease := new(cluster.Lease)
	m := new(mounts)
	h := &holder{kernel: b.kernel, mounts: m, lease: lease, now: clock.Now, pace: pace{lifetime: timing.AddressLifetime}}
	k := &keeper{
		log: b.log, lease: lease, holder: h, instance: i, timing: timing, now: clock.Now, logger: logger,
		wake: func() {}, nudged: make(chan struct{}, 1), returned: make(chan struct{}, 1), begun: make(chan struct{}, 1), awake: make(chan struct{}, 1),
	}
	b.x = &executor{
		cluster: "test", instance: i, timing: timing, log: b.log, journal: b.journal, network: b.network,
		hooks: b.hooks.runner, keeper: k, holder: h, mounts: m, now: clock.Now, logger: logger, life: life,
		courier: &courier{journal: b.journal, log: b.log, logger: logger, busy: make(chan struct{}, 1)},
	}
	return b
}

// inputs are what the ring would gather for a policy of these addresses.
func (b *bench) inputs(addrs ...string) Inputs {
	p := &policy.Policy{Hooks: policy.Hooks{Dir: "/hooks", Timeout: time.Second}}
	for _, a := range addrs {
		p.VIPs = append(p.VIPs, policy.VIP{Name: "v", Address: netip.MustParseAddr(a)})
	}
	v, _ := b.log.View()
	b.log.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{ExpectedVersion: v.Policy.GetVersion()}}})
	v, _ = b.log.View()
	return Inputs{Instance: b.x.instance, Leadership: b.log.Leadership(), View: v, Policy: p}
}

func (*lonelyLog) LeaderGone(string, bool) {}
