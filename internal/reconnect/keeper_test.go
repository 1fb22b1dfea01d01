package reconnect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/policy"
	"had/internal/token"
	hadv1 "had/proto/had/v1"
)

// sharedLog is a log that several keepers see at once.
type sharedLog struct {
	mu      sync.Mutex
	state   *cluster.State
	index   uint64
	changed chan struct{}
	fail    error
}

func (l *sharedLog) View() (cluster.View, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.View(), l.changed
}

func (l *sharedLog) Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(ctx.Err(), l.fail); err != nil {
		return cluster.Verdict{}, err
	}
	l.index++
	v := l.state.Apply(cluster.Entry{Index: l.index, Term: 1}, cmd)
	close(l.changed)
	l.changed = make(chan struct{})
	if v.Refused != "" {
		return v, &cluster.RefusedError{Reason: v.Refused, Index: v.Index}
	}
	return v, nil
}

// office is a log, and hosts with a folder each.
type office struct {
	t   *testing.T
	log *sharedLog
	key string
}

// host is a node of an office. Its policy has the same token at a place of its
// own: on this machine all hosts have the same disk.
type host struct {
	*Keeper
	o        *office
	instance *hadv1.Instance
	policy   *policy.Policy
	token    policy.Token
	reloads  chan struct{}
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, log: &sharedLog{state: cluster.NewState(), changed: make(chan struct{})}, key: filepath.Join(t.TempDir(), "token.key")}
	_, err := token.MakeKey(o.key)
	must(t, err)
	birth := &hadv1.Birth{Cluster: "office", ClusterId: "c-1"}
	for _, name := range []string{"alpha", "beta"} {
		birth.Members = append(birth.Members, &hadv1.Member{Name: name, NodeId: "id-" + name})
	}
	o.propose(&hadv1.Command{Record: &hadv1.Command_Birth{Birth: birth}})
	o.propose(&hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{Text: "x"}}})
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (o *office) propose(cmd *hadv1.Command) uint64 {
	o.t.Helper()
	v, err := o.log.Propose(o.t.Context(), cmd)
	must(o.t, err)
	return v.Index
}

// host starts a keeper. t is its token, but for the place.
func (o *office) host(name string, t policy.Token) *host {
	o.t.Helper()
	dir := o.t.TempDir()
	t.Name, t.Location, t.Replicate, t.Owner, t.Mode = "tickets", filepath.Join(dir, "ticket.key"), true, "root", 0o600
	h := &host{
		o: o, token: t, policy: &policy.Policy{Tokens: []policy.Token{t}}, reloads: make(chan struct{}, 10),
		instance: &hadv1.Instance{Node: name, NodeId: "id-" + name, BootId: "boot", Nonce: "1"},
	}
	h.Keeper = New(Config{
		Cluster: "office", Instance: h.instance, KeyFile: o.key, Log: o.log, Logger: hclog.NewNullLogger(),
		Policy: func() (*policy.Policy, error) { return h.policy, nil },
		Reload: func(context.Context, []string) error { h.reloads <- struct{}{}; return nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	o.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			o.t.Error(err)
		}
	})
	return h
}

// acquire opens an epoch for a host and puts its tokens in place; the epoch ends
// with end, and is closed in the log by the next one's evidence.
func (h *host) acquire() (end context.CancelFunc, err error) {
	t := h.o.t
	t.Helper()
	view, _ := h.o.log.View()
	a := &hadv1.Acquire{
		Term: 1, Instance: h.instance, PolicyVersion: 1,
		Terms: &hadv1.Terms{TtlNs: int64(time.Second), AddressLifetimeNs: int64(time.Second)},
	}
	for _, c := range view.Open {
		h.o.propose(&hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: []*hadv1.Report{{
			NodeId: c.GetInstance().GetNodeId(), Node: c.GetInstance().GetNode(), Stream: fmt.Sprint(c.GetEpoch()), Seq: 1,
			Body: &hadv1.Report_Released{Released: &hadv1.Released{Epoch: c.GetEpoch(), Reporter: c.GetInstance(), Kind: hadv1.Evidence_KIND_RELEASED}},
		}}}}})
	}
	epoch := h.o.propose(&hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: a}})
	leased, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	return end, h.Place(t.Context(), leased, epoch, h.policy)
}

func (h *host) owns() context.CancelFunc {
	h.o.t.Helper()
	end, err := h.acquire()
	must(h.o.t, err)
	return end
}

// set is an operator's, on this host.
func (h *host) set(content string) {
	h.o.t.Helper()
	view, _ := h.o.log.View()
	r, err := h.Seal(h.token, view.Token("tickets").GetCurrent().GetVersion(), []byte(content))
	must(h.o.t, err)
	h.o.propose(&hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: r}})
}

// write is what the host's service does, or what somebody has left there.
func (h *host) write(content string) {
	h.o.t.Helper()
	must(h.o.t, os.WriteFile(h.token.Location, []byte(content), 0o600))
}

func (h *host) file(n int) string {
	text, _ := os.ReadFile(fileOf(h.token).Previous(n).Path)
	return string(text)
}

// logged is the content in the log and its version.
func (h *host) logged() string {
	view, _ := h.o.log.View()
	v := view.Token("tickets").GetCurrent().GetVersion()
	if v == 0 {
		return ""
	}
	content, err := h.Open("tickets")
	must(h.o.t, err)
	return fmt.Sprintf("%d: %s", v, content)
}

// comes waits until look returns want.
func comes(t *testing.T, want string, look func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); look() != want; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %q; it is %q", want, look())
		}
	}
}

// stays looks for a while whether look returns anything else.
func stays(t *testing.T, want string, look func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(400 * time.Millisecond); time.Now().Before(deadline); <-tick.C {
		if got := look(); got != want {
			t.Fatalf("%q became %q", want, got)
		}
	}
}

func TestTheFirstOwnerDrawsARandomContent(t *testing.T) {
	o := newOffice(t)
	alpha, beta := o.host("alpha", policy.Token{Bytes: 80, Keep: 1}), o.host("beta", policy.Token{Bytes: 80, Keep: 1})
	alpha.owns()
	if n := len(alpha.file(0)); n != 80 {
		t.Fatalf("%d bytes are in place", n)
	}
	if alpha.file(1) != alpha.file(0) {
		t.Error("the place of an earlier version holds something else while there is none")
	}
	comes(t, alpha.file(0), func() string { return beta.file(0) })
	beta.owns()
	if alpha.file(0) != beta.file(0) {
		t.Error("the next owner drew another one")
	}
}

func TestWhatIsThereAlreadyIsTheFirstVersion(t *testing.T) {
	o := newOffice(t)
	alpha, beta := o.host("alpha", policy.Token{Bytes: 80}), o.host("beta", policy.Token{})
	alpha.write("of an earlier life")
	beta.write("of another one")
	stays(t, "", alpha.logged) // who doesn't own says nothing
	alpha.owns()
	if got := alpha.logged(); got != "1: of an earlier life" {
		t.Error(got)
	}
	comes(t, "of an earlier life", func() string { return beta.file(0) })
}

func TestAServicesChangeReachesTheOthers(t *testing.T) {
	o := newOffice(t)
	alpha, beta := o.host("alpha", policy.Token{Keep: 2, Reload: []string{"/reload"}}), o.host("beta", policy.Token{Keep: 2})
	alpha.set("one")
	alpha.owns()
	alpha.write("two")
	comes(t, "2: two", alpha.logged)
	must(t, fileOf(alpha.token).Put([]byte("three"))) // as careful services do it
	comes(t, "3: three", alpha.logged)
	comes(t, "three two one", func() string { return beta.file(0) + " " + beta.file(1) + " " + beta.file(2) })
	comes(t, "three two one", func() string { return alpha.file(0) + " " + alpha.file(1) + " " + alpha.file(2) })
	must(t, os.WriteFile(alpha.token.Location, nil, 0o600)) // it is just being written
	stays(t, "3: three", alpha.logged)
	select {
	case <-alpha.reloads:
		t.Error("the service was told of what it had done itself")
	default:
	}
}

// What was changed on a host that doesn't own is undone, and never gets into the
// log, whether its epoch has ended or it never had one.
func TestOnlyAnOwnersServiceIsHeard(t *testing.T) {
	o := newOffice(t)
	alpha, beta := o.host("alpha", policy.Token{}), o.host("beta", policy.Token{})
	alpha.set("one")
	end := alpha.owns()
	comes(t, "one", func() string { return beta.file(0) })
	beta.write("a stranger's")
	comes(t, "one", func() string { return beta.file(0) })
	end()
	alpha.write("too late")
	comes(t, "one", func() string { return alpha.file(0) })
	beta.owns()
	beta.write("two")
	comes(t, "2: two", beta.logged)
	comes(t, "two", func() string { return alpha.file(0) })
}

// A node that was away has an old content and may have changed it: it gets the
// current one before it may own, and nothing of its own counts.
func TestWhoWasAwayGetsTheCurrentOneFirst(t *testing.T) {
	o := newOffice(t)
	alpha := o.host("alpha", policy.Token{Keep: 1})
	alpha.set("one")
	alpha.set("two")
	late := o.host("beta", policy.Token{Keep: 1})
	late.write("from before it was away")
	late.owns()
	if late.file(0) != "two" || late.file(1) != "one" || late.logged() != "2: two" {
		t.Errorf("in place are %q and %q, logged is %q", late.file(0), late.file(1), late.logged())
	}
	// The log takes nothing: changed meanwhile by the service, and owner again.
	o.log.mu.Lock()
	o.log.fail = errors.New("no quorum")
	o.log.mu.Unlock()
	late.write("never committed")
	comes(t, "true", func() string {
		h, problems := late.Health(late.policy)
		return fmt.Sprint(strings.Contains(strings.Join(problems, " "), "no quorum") && strings.Contains(h.GetPlaces()[0].GetWrong(), "no quorum"))
	})
	o.log.mu.Lock()
	o.log.fail = nil
	o.log.mu.Unlock()
	comes(t, "3: never committed", late.logged) // still the same epoch: it is tried again
	comes(t, "", func() string {
		h, _ := late.Health(late.policy)
		return h.GetPlaces()[0].GetWrong()
	})
}

func TestAnEarlierEpochsChangeIsNotThisOnes(t *testing.T) {
	o := newOffice(t)
	alpha := o.host("alpha", policy.Token{})
	alpha.set("one")
	end := alpha.owns()
	o.log.mu.Lock()
	o.log.fail = errors.New("no quorum")
	o.log.mu.Unlock()
	alpha.write("while it was cut off")
	end()
	o.log.mu.Lock()
	o.log.fail = nil
	o.log.mu.Unlock()
	alpha.owns()
	if alpha.file(0) != "one" {
		t.Errorf("in place is %q", alpha.file(0))
	}
	stays(t, "1: one", alpha.logged)
}

func TestAnOperatorsChangeIsPutInPlaceAndTold(t *testing.T) {
	o := newOffice(t)
	alpha, beta := o.host("alpha", policy.Token{Keep: 1, Reload: []string{"/reload"}}), o.host("beta", policy.Token{Keep: 1, Reload: []string{"/reload"}})
	alpha.set("one")
	alpha.owns()
	beta.set("two")
	comes(t, "two one", func() string { return alpha.file(0) + " " + alpha.file(1) })
	comes(t, "two one", func() string { return beta.file(0) + " " + beta.file(1) })
	select {
	case <-alpha.reloads:
	case <-time.After(15 * time.Second):
		t.Error("the service wasn't told")
	}
	select {
	case <-beta.reloads:
		t.Error("a host was told whose service doesn't run")
	default:
	}
	stays(t, "2: two", alpha.logged) // what had has written is no change
}

// What a service changed last, before it was stopped, isn't lost with its epoch.
func TestFlushTakesTheLastChange(t *testing.T) {
	o := newOffice(t)
	alpha := o.host("alpha", policy.Token{})
	alpha.set("one")
	alpha.owns()
	alpha.write("two")
	epoch := alpha.held().epoch
	must(t, alpha.Flush(t.Context(), epoch))
	if got := alpha.logged(); got != "2: two" {
		t.Error(got)
	}
	alpha.write("three")
	must(t, alpha.Flush(t.Context(), epoch+1)) // another's
}

func TestWhoCantKeepATokenMustNotOwn(t *testing.T) {
	o := newOffice(t)
	alpha := o.host("alpha", policy.Token{})
	o.key = filepath.Join(t.TempDir(), "token.key")
	beta := o.host("beta", policy.Token{})
	expect := func(want string) {
		t.Helper()
		got := strings.Join(beta.Trouble(beta.policy), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	expect("hactl token key")
	_, err := token.MakeKey(beta.cfg.KeyFile)
	must(t, err)
	expect("")
	alpha.set("one")
	expect("sealed with another token key")
	if _, err := beta.acquire(); err == nil || !strings.Contains(err.Error(), "another token key") {
		t.Errorf("it owns with a content that it can't read: %v", err)
	}
	if _, err := beta.Seal(beta.token, 1, []byte("x")); err == nil {
		t.Error("it seals with a key that the others don't have")
	}
	must(t, os.RemoveAll(filepath.Dir(alpha.token.Location)))
	if got := strings.Join(alpha.Trouble(alpha.policy), "; "); !strings.Contains(got, "mkdir -p") {
		t.Error(got)
	}
}

// stuckLog stands for what hangs.
type stuckLog struct {
	*sharedLog
	looking chan<- struct{}
	mended  <-chan struct{}
}

func (l stuckLog) View() (cluster.View, <-chan struct{}) {
	l.looking <- struct{}{}
	<-l.mended
	return l.sharedLog.View()
}

// A look at a token that hangs in the kernel doesn't keep the daemon from ending.
func TestALookThatHangsEndsNoLater(t *testing.T) {
	o := newOffice(t)
	looking, mended := make(chan struct{}, 1), make(chan struct{})
	defer close(mended)
	k := New(Config{
		Cluster: "office", Instance: &hadv1.Instance{Node: "alpha"}, KeyFile: o.key, Log: stuckLog{o.log, looking, mended}, Logger: hclog.NewNullLogger(),
		Policy: func() (*policy.Policy, error) { return nil, nil },
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	<-looking
	stop()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(10 * endWait):
		t.Fatal("it waits for what hangs")
	}
}
