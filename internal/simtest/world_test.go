package simtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	hadv1 "had/proto/had/v1"
)

// layout is what a world is made of.
type layout struct {
	seed    uint64
	data    int             // nodes that may own
	witness bool            // and one that may not
	detect  []time.Duration // of each node in turn; the last one's counts for the rest
	gates   int             // how many of the first nodes have a packet gate
	bare    bool            // no node has a guard
	steered bool            // the policy has checks and a failback, and people freeze and drain
	swift   bool            // scripts take no time, so that nothing delays a takeover
	volumes int             // that the policy has at first; there is shared storage if it isn't 0
	fence   string          // the policy's method beside "confirm", if there is one
	grace   time.Duration   // the policy's release_grace
	groups  int             // how many of the first hosts have control groups
	// operator is how long a person waits for other evidence; 0: there is none.
	operator time.Duration
	misled   bool   // an operator's wrong word is part of the play
	tamper   tamper // what is broken on purpose, to see the checker find it
}

// nodes is how many there are.
func (l layout) nodes() int {
	if l.witness {
		return l.data + 1
	}
	return l.data
}

func (l layout) gated(i int) bool { return i < l.gates }

func (l layout) detectOf(i int) time.Duration { return l.detect[min(i, len(l.detect)-1)] }

func (l layout) slowest() time.Duration {
	d := time.Duration(0)
	for i := range l.nodes() {
		d = max(d, l.detectOf(i))
	}
	return d
}

// world is a cluster with all that surrounds it. It lives inside a bubble.
type world struct {
	t       *testing.T
	layout  layout
	began   time.Time
	birth   *hadv1.Birth
	hosts   []*host
	network *network
	checker *checker
	diary   *diary
	pdu     *pdu
	carried int // volumes of the policy that was applied last

	ended chan struct{}  // closed when the test is over
	tasks sync.WaitGroup // every goroutine of the simulation
}

var names = []string{"alpha", "beta", "gamma", "delta", "epsilon", "zeta"}

// simulate runs play in a world of its own, in virtual time, and checks at the
// end what must hold at every end.
func simulate(t *testing.T, l layout, play func(w *world)) {
	t.Helper()
	var d *diary
	defer func() { d.save(t) }()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, l)
		d = w.diary
		defer w.close()
		for _, h := range w.hosts {
			h.start()
		}
		if l.operator > 0 {
			w.tasks.Go(w.operate)
		}
		play(w)
	})
}

func newWorld(t *testing.T, l layout) *world {
	w := &world{t: t, layout: l, began: time.Now(), ended: make(chan struct{}), diary: newDiary()}
	w.network = newNetwork(w, rng(l.seed, "network"))
	w.pdu, w.carried = newPDU(w), l.volumes
	w.checker = newChecker(w)
	w.birth = &hadv1.Birth{Cluster: "office", ClusterId: "c-1"}
	for i := range l.nodes() {
		m := &hadv1.Member{
			Name: names[i], NodeId: "id-" + names[i], Address: fmt.Sprintf("198.51.100.%d:7400", i+1),
			Witness: i >= l.data,
		}
		w.birth.Members = append(w.birth.Members, m)
		w.hosts = append(w.hosts, newHost(w, m, l.detectOf(i), rng(l.seed, m.GetName())))
	}
	return w
}

// close ends all daemons at once and waits for every goroutine, so that the
// bubble can end; then it tells what was found.
func (w *world) close() {
	// raft never answers what it has handed to its state machine when it is shut down
	// in that very moment.
	synctest.Wait()
	close(w.ended)
	for _, h := range w.hosts {
		h.kill()
		h.killGuard()
	}
	w.tasks.Wait()
	if w.t.Failed() {
		w.t.Logf("seed %d\n%s", w.layout.seed, w.diary)
	}
}

// rng is a generator of its own for each part of a world, so that none of
// them depends on how often another one draws.
func rng(seed uint64, part string) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, b := range []byte(part) {
		h = (h ^ uint64(b)) * 1099511628211 // FNV-1a
	}
	return rand.New(rand.NewPCG(seed, h))
}

// after runs f in d unless the world ends before.
func (w *world) after(d time.Duration, f func()) {
	w.tasks.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-w.ended:
		}
	})
}

// elapse lets virtual time pass.
func (w *world) elapse(d time.Duration) { time.Sleep(d) }

// until lets time pass until cond holds; it fails the test when that takes
// longer than limit. It returns how long it took.
func (w *world) until(limit time.Duration, what string, cond func() bool) time.Duration {
	w.t.Helper()
	from := time.Now()
	for !cond() {
		if w.checker.failed() {
			return time.Since(from)
		}
		if time.Since(from) > limit {
			w.checker.violation("after %v still not: %s\n%s", limit, what, w.situation())
			return time.Since(from)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(from)
}

// situation tells where everybody is.
func (w *world) situation() string {
	var b strings.Builder
	for _, h := range w.hosts {
		mounted, _ := w.checker.mountedOn(h.name)
		fmt.Fprintf(&b, "  %s: in its kernel %v, mounted %v", h.name, w.checker.heldBy(h.name), mounted)
		p := h.process()
		if p == nil || p.stopped() {
			b.WriteString("; no daemon, or a stopped one\n")
			continue
		}
		if c, _ := p.ready(); c == nil {
			b.WriteString("; the daemon starts\n")
			continue
		}
		s, v := p.controller.Status(), p.view()
		fmt.Fprintf(&b, "; %+v; holding %+v; %q; applied %d, epoch %d of %s, open %d, failures %v, pending %d\n",
			p.node.Leadership(), s.Holding, s.Why, v.Applied, v.LastEpoch, v.LastOwner, len(v.Open), v.Nodes, h.journal.count())
	}
	return b.String()
}
