package notify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// world is a cluster of three nodes without raft: one replicated state, which
// every node sees at once, and a leader that the test names.
type world struct {
	t      *testing.T
	mu     sync.Mutex
	state  *cluster.State
	index  uint64
	term   uint64
	leader string
	policy *policy.Policy

	changed, leadership chan struct{}
	seq                 map[string]uint64
	nodes               map[string]*node
	post                *post
	dead                map[string]bool
	silent              map[string]bool
	waiting             []Waiting
	troubles            map[string][]Trouble
	certificates        map[string][]*hadv1.Certificate
}

// node is one Notifier and the end of its life.
type node struct {
	w        *world
	name     string
	self     *hadv1.Instance
	notifier *Notifier
	end      context.CancelFunc
	done     chan struct{}
	unheard  bool // it can't have anything recorded
}

const opsPolicy = `
vip "web" { address = "192.0.2.10" }
notify "exec" "ops" { command = ["tell"] }
`

// newWorld is a born cluster that alpha leads.
func newWorld(t *testing.T) *world {
	w := &world{
		t: t, state: cluster.NewState(), term: 1, leader: "alpha", changed: make(chan struct{}), leadership: make(chan struct{}),
		seq: map[string]uint64{}, nodes: map[string]*node{}, dead: map[string]bool{}, silent: map[string]bool{},
		post: &post{hold: make(chan struct{})},
	}
	close(w.post.hold)
	birth := &hadv1.Birth{Cluster: "office", ClusterId: "c1"}
	for _, n := range []string{"alpha", "beta", "gamma"} {
		birth.Members = append(birth.Members, &hadv1.Member{Name: n, NodeId: "id-" + n, Witness: n == "gamma"})
	}
	w.must(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: birth}})
	return w
}

func instance(name string, run int) *hadv1.Instance {
	return &hadv1.Instance{Node: name, NodeId: "id-" + name, BootId: "b", Nonce: fmt.Sprint(run)}
}

func (w *world) must(cmd *hadv1.Command) uint64 {
	w.t.Helper()
	v := w.apply(cmd)
	if v.Refused != "" {
		w.t.Fatalf("refused: %s: %v", v.Refused, cmd)
	}
	return v.Index
}

func (w *world) apply(cmd *hadv1.Command) cluster.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	cmd = proto.CloneOf(cmd)
	cmd.At, cmd.Proposer = timestamppb.Now(), w.leader
	v := w.state.Apply(cluster.Entry{Index: w.index, Term: w.term}, cmd)
	close(w.changed)
	w.changed = make(chan struct{})
	return v
}

// apply puts a policy in force.
func (w *world) setPolicy(text string) {
	w.t.Helper()
	p, diags := policy.ParsePolicy("policy.hcl", []byte(text))
	if p == nil {
		w.t.Fatal(diags)
	}
	w.mu.Lock()
	version := w.state.View().Policy.GetVersion()
	w.policy = p
	w.mu.Unlock()
	w.must(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{ExpectedVersion: version, Text: text, By: "root on alpha"}}})
}

// report delivers a report of a node.
func (w *world) report(node string, r *hadv1.Report) uint64 {
	w.t.Helper()
	w.mu.Lock()
	w.seq[node]++
	r.Node, r.NodeId, r.Stream, r.Seq, r.At = node, "id-"+node, "s", w.seq[node], timestamppb.Now()
	w.mu.Unlock()
	return w.must(&hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: []*hadv1.Report{r}}}})
}

// own has a node acquire and serve, after the epoch before was released.
func (w *world) own(name, cause string) uint64 {
	w.t.Helper()
	w.mu.Lock()
	open := w.state.View().Newest()
	w.mu.Unlock()
	if open != nil {
		w.report(open.GetInstance().GetNode(), &hadv1.Report{Body: &hadv1.Report_Released{Released: &hadv1.Released{
			Epoch: open.GetEpoch(), Kind: hadv1.Evidence_KIND_RELEASED, Reporter: open.GetInstance(),
		}}})
	}
	addresses := []*hadv1.HeldAddress{{Vip: "web", Address: "192.0.2.10", Interface: "eth0"}}
	epoch := w.must(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: w.term, Instance: instance(name, 1), PolicyVersion: w.state.View().Policy.GetVersion(), Addresses: addresses, Cause: cause,
		Terms: &hadv1.Terms{TtlNs: int64(time.Second), AddressLifetimeNs: int64(time.Second), Layers: []string{cluster.LayerLifetime}},
	}}})
	w.report(name, &hadv1.Report{Body: &hadv1.Report_Progress{Progress: &hadv1.Progress{
		Epoch: epoch, Outcome: hadv1.Progress_OUTCOME_SERVING, Addresses: addresses,
	}}})
	return epoch
}

// elect makes a node the leader; "" for none.
func (w *world) elect(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader = name
	w.term++
	close(w.leadership)
	w.leadership = make(chan struct{})
}

// start runs a node's notifier, its run-th.
func (w *world) start(name string, run int) *node {
	n := &node{w: w, name: name, self: instance(name, run), done: make(chan struct{})}
	n.notifier = New(Config{
		Cluster: "office", Self: n.self, Log: n, Policy: n.policy, Record: n.record, Report: n.notice,
		Silent: n.silent, Waiting: n.waits, Runs: n.runs, Troubles: n.troubles, Certificates: n.certificates, Logger: hclog.NewNullLogger(),
	})
	n.notifier.transport = func(c policy.Channel) transport { return postman{w.post, n.name, c.ID()} }
	ctx, cancel := context.WithCancel(w.t.Context())
	n.end = cancel
	go func() {
		defer close(n.done)
		_ = n.notifier.Run(ctx, ctx)
	}()
	w.nodes[name] = n
	return n
}

// kill ends a node as a crash does: what it was sending has arrived or not, and
// it can't say so.
func (w *world) kill(name string) {
	w.mu.Lock()
	w.dead[name] = true
	w.nodes[name].unheard = true
	w.mu.Unlock()
	w.nodes[name].end()
}

// stop ends all nodes.
func (w *world) stop() {
	for _, n := range w.nodes {
		n.end()
		<-n.done
	}
}

func (n *node) View() (cluster.View, <-chan struct{}) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.state.View(), n.w.changed
}

func (n *node) History(after uint64) ([]*hadv1.Event, uint64) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.state.History(after)
}

func (n *node) Leadership() cluster.Leadership {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	leads := n.w.leader == n.name
	return cluster.Leadership{Leading: leads, Ready: leads, Term: n.w.term, Leader: n.w.leader}
}

func (n *node) LeadershipChanged() <-chan struct{} {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.leadership
}

func (n *node) Propose(_ context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	if !n.Leadership().Leading {
		return cluster.Verdict{}, cluster.ErrNotLeader
	}
	return n.commit(cmd)
}

func (n *node) record(_ context.Context, cmd *hadv1.Command) error {
	if n.Leadership().Leader == "" {
		return errors.New("no leader is known")
	}
	_, err := n.commit(cmd)
	return err
}

func (n *node) commit(cmd *hadv1.Command) (cluster.Verdict, error) {
	n.w.mu.Lock()
	unheard := n.unheard
	n.w.mu.Unlock()
	if unheard {
		return cluster.Verdict{}, cluster.ErrOutcomeUnknown
	}
	v := n.w.apply(cmd)
	if v.Refused != "" {
		return v, &cluster.RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

func (n *node) policy() (*policy.Policy, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.policy, nil
}

func (n *node) notice(_ context.Context, r *hadv1.Notice) error {
	n.w.report(n.name, &hadv1.Report{Body: &hadv1.Report_Notice{Notice: r}})
	return nil
}

func (n *node) silent() map[string]bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out := map[string]bool{}
	for _, m := range []string{"alpha", "beta", "gamma"} {
		if m != n.name {
			out[m] = n.w.silent[m]
		}
	}
	return out
}

func (n *node) waits() []Waiting {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.waiting
}

func (n *node) troubles() map[string][]Trouble {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return maps.Clone(n.w.troubles)
}

func (n *node) certificates() map[string][]*hadv1.Certificate {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return maps.Clone(n.w.certificates)
}

func (n *node) runs(other *hadv1.Instance) Presence {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.dead[other.GetNode()] || other.GetNode() == n.name {
		return Gone
	}
	return There
}

// post is the receiver of all channels.
type post struct {
	mu   sync.Mutex
	down error         // what every try comes to; nil: it is taken
	hold chan struct{} // a message is taken once it is closed
	got  []delivery
}

type delivery struct {
	message
	by string
	at time.Time
}

type postman struct {
	post    *post
	by      string
	channel string
}

func (p postman) target() string { return "the post" }
func (p postman) check() error   { return nil }

func (p postman) send(ctx context.Context, m *message) error {
	p.post.mu.Lock()
	down, hold := p.post.down, p.post.hold
	p.post.mu.Unlock()
	if down != nil {
		return down
	}
	p.post.mu.Lock()
	p.post.got = append(p.post.got, delivery{*m, p.by, time.Now()})
	p.post.mu.Unlock()
	select { // it has arrived, and the answer is still to come
	case <-hold:
		return nil
	case <-ctx.Done():
		return &maybeSentError{ctx.Err()}
	}
}

func (p *post) break_(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = err
}

// slow makes messages arrive whose answers wait until the function is called.
func (p *post) slow() (answer func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = make(chan struct{})
	hold := p.hold
	return func() { close(hold) }
}

func (p *post) all() []delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]delivery(nil), p.got...)
}

// titles is what arrived, a message a line, without repeated ones.
func (p *post) titles() string {
	var b strings.Builder
	seen := map[string]bool{}
	for _, d := range p.all() {
		if seen[d.id] {
			continue
		}
		seen[d.id] = true
		var titles []string
		for _, it := range d.items {
			titles = append(titles, it.Title)
		}
		fmt.Fprintf(&b, "%s: %s\n", d.channel, strings.Join(titles, " | "))
	}
	return b.String()
}

// once fails the test unless every event arrived once, in order, by messages
// with different IDs, except those that are repeats and say so.
func (p *post) once(t *testing.T) {
	t.Helper()
	ids, last := map[string]bool{}, map[string]uint64{}
	for _, d := range p.all() {
		if ids[d.id] {
			if !d.repeat {
				t.Errorf("%s came twice and doesn't say so", d.id)
			}
			continue
		}
		ids[d.id] = true
		for _, it := range d.items {
			at := it.Index<<8 + uint64(it.Sub)
			if at <= last[d.channel] {
				t.Errorf("%s: event %d.%d came after %d", d.channel, it.Index, it.Sub, last[d.channel]>>8)
			}
			last[d.channel] = at
		}
	}
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
