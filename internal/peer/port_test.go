package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestThreeNodesMeetInAnyOrder(t *testing.T) {
	for _, order := range [][]string{{"alpha", "beta", "gamma"}, {"gamma", "alpha", "beta"}, {"beta", "gamma", "alpha"}} {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, "alpha", "beta", "gamma")
			last := o.members[2]
			for _, m := range o.members {
				if m.Name == order[2] {
					last = m
				}
			}
			hosts, meetings := make(map[string]*host), make(map[string]*meeting)
			for _, n := range order[:2] {
				hosts[n] = o.start(n, with{})
				meetings[n] = hosts[n].meet()
			}
			for _, n := range order[:2] {
				eventually(t, hosts[n].Waiting, fmt.Sprintf("waiting to meet %s (%s): connection refused", last.Name, last.Address))
				if _, born := hosts[n].id.Birth(); born {
					t.Fatalf("%s was born without %s", n, last.Name)
				}
			}
			hosts[last.Name] = o.start(last.Name, with{})
			meetings[last.Name] = hosts[last.Name].meet()
			b := o.agreed(meetings)
			for n, h := range hosts {
				m, ok := b.member(n)
				if !ok || m.NodeID != h.id.NodeID() {
					t.Errorf("%s is certified as %+v and has the ID %s", n, m, h.id.NodeID())
				}
				if w := h.Waiting(); len(w) > 0 {
					t.Errorf("%s is born and says %q", n, w)
				}
			}
		})
	}
}

func TestConnectionsAfterBirth(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	ctx := t.Context()
	c, err := h["alpha"].DialRaft(ctx, "beta")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, h["beta"].RaftListener(), "alpha", "beta")
	c, err = h["gamma"].DialRPC(ctx, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, h["alpha"].RPCListener(), "gamma", "alpha")
	for _, n := range []string{"alpha", "delta"} {
		if _, err := h["alpha"].DialRaft(ctx, n); err == nil || !strings.Contains(err.Error(), n) {
			t.Errorf("alpha dials %s: %v", n, err)
		}
	}
	h["beta"].stop()
	if _, err := h["beta"].RaftListener().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a stopped port: %v", err)
	}
	if _, err := h["alpha"].DialRaft(ctx, "beta"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial a stopped port: %v", err)
	}
}

// Once born, a quorum needs nobody else to start.
func TestRestartWithoutAThird(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	for _, h := range o.bornTogether() {
		h.stop()
	}
	alpha, beta := o.start("alpha", with{}), o.start("beta", with{})
	for _, h := range []*host{alpha, beta} {
		if _, err := h.meet().wait(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := alpha.DialRaft(t.Context(), "beta")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, beta.RaftListener(), "alpha", "beta")
}

// A node dies right before or right after each of its durable steps, starts
// again, and the cluster is born all the same.
func TestCrashAtEveryStep(t *testing.T) {
	errCrash := errors.New("crash")
	for step := 1; step <= 2; step++ {
		for _, written := range []bool{false, true} {
			t.Run(fmt.Sprintf("step %d written %v", step, written), func(t *testing.T) {
				t.Parallel()
				o := newOffice(t, "alpha", "beta", "gamma")
				meetings := make(map[string]*meeting)
				writes := 0
				beta := o.start("beta", with{write: func(path string, data []byte) error {
					if writes++; writes < step {
						return writeFileAtomic(path, data)
					}
					if written {
						return errors.Join(errCrash, writeFileAtomic(path, data))
					}
					return errCrash
				}})
				crashed := beta.meet()
				for _, n := range []string{"alpha", "gamma"} {
					meetings[n] = o.start(n, with{}).meet()
				}
				if _, err := crashed.wait(); !errors.Is(err, errCrash) {
					t.Fatalf("Meet: %v; want the crash", err)
				}
				beta.stop()
				meetings["beta"] = o.start("beta", with{}).meet()
				o.agreed(meetings)
			})
		}
	}
}

func TestDifferentListsAreRefusedOnBothSides(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	other := append([]Member(nil), o.members...)
	other[2].Name = "delta"
	alpha, beta := o.start("alpha", with{}), o.start("beta", with{members: other})
	alpha.meet()
	beta.meet()
	eventually(t, alpha.Refusals, "this node refuses beta", `"gamma" is in the list of alpha only`, `"delta" is in the list of beta only`)
	eventually(t, alpha.Refusals, "beta refuses this node", `"gamma"`, `"delta"`)
	eventually(t, beta.Refusals, "this node refuses alpha", `"gamma" is in the list of alpha only`)
	eventually(t, beta.Waiting, "waiting to meet alpha", "different member lists")
	eventually(t, beta.log.get, "warn this node refuses alpha")
}

func TestEmptiedNodeWaitsForAPerson(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	h["beta"].stop()
	o.empty("beta")
	beta := o.start("beta", with{})
	beta.meet()
	eventually(t, beta.Waiting, "its data folder was emptied or replaced", "it gets no vote", "hactl node remove", shortID(beta.id.NodeID()))
	if b, ok := beta.id.Birth(); ok {
		t.Errorf("the emptied node belongs to %+v", b)
	}
	if _, err := beta.DialRaft(t.Context(), "alpha"); err == nil {
		t.Error("the emptied node speaks raft")
	}
	var refused *RefusedError
	if _, err := h["alpha"].DialRaft(t.Context(), "beta"); !errors.As(err, &refused) || refused.ForGood {
		t.Errorf("alpha speaks raft with the emptied beta: %v", err)
	}
	eventually(t, h["alpha"].Refusals, "this node refuses beta", "emptied or replaced")
}

func TestOtherClusterIsRefused(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	h["beta"].stop()
	o.empty("beta")
	lab := o.start("beta", with{cluster: "lab"})
	_, err := lab.meet().wait()
	if !errors.Is(err, ErrRefusedForGood) || !strings.Contains(err.Error(), `"lab"`) || !strings.Contains(err.Error(), `"office"`) {
		t.Fatalf("Meet of a node of another cluster: %v", err)
	}
	either := func() []string { return append(h["alpha"].Refusals(), h["gamma"].Refusals()...) }
	eventually(t, either, "this node refuses beta", `of the cluster "lab"`)
}

// A folder of an earlier life of the cluster can be in no quorum of this one.
func TestFatalWhenAMajorityRefuses(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	for _, h := range o.bornTogether() {
		h.stop()
	}
	old := o.dirs["alpha"] + ".old"
	if err := os.Rename(o.dirs["alpha"], old); err != nil {
		t.Fatal(err)
	}
	o.empty("beta")
	o.empty("gamma")
	h := o.bornTogether()
	h["alpha"].stop()
	o.dirs["alpha"] = old
	alpha := o.start("alpha", with{})
	if _, err := alpha.DialRaft(t.Context(), "beta"); !errors.Is(err, ErrRefusedForGood) {
		t.Fatalf("dial beta: %v", err)
	}
	select {
	case err := <-alpha.Fatal():
		t.Fatalf("one refusal of three is fatal: %v", err)
	default:
	}
	if _, err := alpha.DialRPC(t.Context(), "gamma"); !errors.Is(err, ErrRefusedForGood) {
		t.Fatalf("dial gamma: %v", err)
	}
	select {
	case err := <-alpha.Fatal():
		if !errors.Is(err, ErrRefusedForGood) || !strings.Contains(err.Error(), "belongs to the cluster") {
			t.Errorf("fatal: %v", err)
		}
	default:
		t.Error("two refusals of three aren't fatal")
	}
}

func TestWrongAddresses(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	swapped := append([]Member(nil), o.members...)
	swapped[1].Address, swapped[2].Address = swapped[2].Address, swapped[0].Address
	alpha := o.start("alpha", with{members: swapped})
	gamma := o.start("gamma", with{})
	alpha.meet()
	gamma.meet()
	eventually(t, alpha.Waiting, "waiting to meet beta", `looks for "beta" at the address of gamma`)
	eventually(t, alpha.Refusals, `"gamma" answers at`, "the address of beta")
	eventually(t, alpha.Refusals, "this node itself answers at", "the address of gamma")
}

func TestTwoHostsWithOneName(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	beta := o.start("beta", with{})
	twin := newOffice(t, "beta")
	twin.members = append(twin.members, o.members[1])
	twin.members[1].Name = "alpha"
	o.dirs["twin"] = twin.dirs["beta"]
	twin.start("beta", with{}).meet()
	eventually(t, beta.Refusals, strangers, "another host also calls itself beta")
}

func TestPortInUse(t *testing.T) {
	o := newOffice(t, "alpha", "beta")
	alpha := o.start("alpha", with{})
	_, err := Listen(PortConfig{Identity: alpha.id, Listen: o.members[0].Address, Logger: &lines{}})
	if err == nil || !strings.Contains(err.Error(), o.members[0].Address+": the port is in use") {
		t.Errorf("listen twice: %v", err)
	}
	_, err = Listen(PortConfig{Identity: alpha.id, Listen: "203.0.113.1:7400", Logger: &lines{}})
	if err == nil || !strings.Contains(err.Error(), "doesn't have that address") {
		t.Errorf("listen on a foreign address: %v", err)
	}
}

func TestMeetEndsWithItsContext(t *testing.T) {
	o := newOffice(t, "alpha", "beta")
	alpha := o.start("alpha", with{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := alpha.Meet(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Meet: %v", err)
	}
	if _, err := alpha.DialRaft(t.Context(), "beta"); err == nil || !strings.Contains(err.Error(), "isn't born yet") {
		t.Errorf("DialRaft before birth: %v", err)
	}
}

// The first refusal, a new reason and then one a minute are logged.
func TestRefusalsAreLoggedSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		l := newLedger(log, func() int { return 3 }, nil)
		from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
		expect := func(n int, when string) {
			t.Helper()
			if got := len(log.get()); got != n {
				t.Fatalf("%d lines %s; want %d", got, when, n)
			}
		}
		for range 100 {
			l.note("beta", weRefuse, &refusal{Code: codeList, Sentence: "lists"}, from)
		}
		expect(1, "after 100 equal refusals")
		l.note("beta", weRefuse, &refusal{Code: codeNodeID, Sentence: "ID"}, from)
		expect(2, "after another reason")
		time.Sleep(logEvery) // virtual
		l.note("beta", weRefuse, &refusal{Code: codeNodeID, Sentence: "ID"}, from)
		expect(3, "a minute later")
		l.clear("beta", weRefuse)
		l.clear("beta", weRefuse)
		expect(4, "after it was cleared")
		if s := l.sentences(time.Now()); len(s) > 0 {
			t.Errorf("a cleared refusal is still shown: %q", s)
		}
		l.note("beta", weRefuse, &refusal{Code: codeNodeID, Sentence: "ID"}, from)
		expect(5, "when it comes back")
	})
}

// A process beside the daemon reaches the others as this node, from what the
// data folder holds.
func TestDialerWithoutPort(t *testing.T) {
	o := newOffice(t, "alpha", "beta")
	if _, err := ReadIdentity(o.dirs["alpha"], "office", "alpha", o.members); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder without an identity was read: %v", err)
	}
	if _, err := os.Stat(o.dirs["alpha"]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadIdentity made the folder: %v", err)
	}
	hosts := o.bornTogether()
	hosts["alpha"].stop()
	id, err := ReadIdentity(o.dirs["alpha"], "office", "alpha", o.members)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewDialer(DialerConfig{Identity: id, Logger: &lines{}, Version: "test"}).DialRPC(t.Context(), "beta")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at, err := hosts["beta"].RPCListener().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if name, ok := PeerName(at); !ok || name != "alpha" {
		t.Errorf("beta took the caller for %q", name)
	}
}

// A connection that arrives while the port is told to end doesn't keep it from
// being closed.
func TestAnEndedPortIsFree(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	for range 200 {
		h := o.start("alpha", with{})
		dialed := make(chan struct{})
		go func() {
			defer close(dialed)
			for range 20 {
				c, err := net.Dial("tcp", o.members[0].Address)
				if err != nil {
					return
				}
				_ = c.Close() // its only purpose was to arrive
			}
		}()
		h.stop()
		<-dialed
	}
}
