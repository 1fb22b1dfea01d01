package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
)

// copied is the report of a whole copy of an epoch's data.
func copied(node string, seq, epoch uint64) *hadv1.Report {
	return synced(node, seq, epoch, hadv1.SyncResult_OUTCOME_COPIED)
}

func synced(node string, seq, epoch uint64, outcome hadv1.SyncResult_Outcome) *hadv1.Report {
	r := report(node, seq)
	r.Body = &hadv1.Report_SyncResult{SyncResult: &hadv1.SyncResult{Name: "pages", Epoch: epoch, Outcome: outcome}}
	return r
}

func syncResumeCmd(name string, epoch uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_SyncResume{SyncResume: &hadv1.SyncResume{Name: name, Epoch: epoch, By: "root on alpha"}}}
}

// syncLog is a log in which nodes own one after another.
type syncLog struct {
	*log
	term uint64
	seqs map[string]uint64
}

func newSyncLog(t *testing.T) *syncLog { return &syncLog{log: bornLog(t), seqs: map[string]uint64{}} }

// owns has a node take over in order, and returns its epoch.
func (l *syncLog) owns(node string) uint64 {
	l.t.Helper()
	if c := l.state.View().Newest(); c != nil {
		l.reports(released(c.GetInstance().GetNode(), 0, c.GetEpoch()))
	}
	l.term++
	return l.must(l.term, acquireCmd(instance(node, 1), l.term))
}

func (l *syncLog) reports(r *hadv1.Report) {
	l.t.Helper()
	l.seqs[r.GetNode()]++
	r.Seq = l.seqs[r.GetNode()]
	l.must(l.term, deliverCmd(r))
}

func (l *syncLog) copies(node string, epoch uint64) { l.t.Helper(); l.reports(copied(node, 0, epoch)) }

func TestASyncIsHeldUnlessTheNewOwnerHasACopy(t *testing.T) {
	for _, c := range []struct {
		what string
		play func(l *syncLog)
		held string // what the sentence names; empty: it isn't held
	}{
		{"nobody has owned", func(*syncLog) {}, ""},
		{"the first owner", func(l *syncLog) { l.owns("alpha") }, ""},
		{"the same owner again", func(l *syncLog) { l.owns("alpha"); l.owns("alpha") }, ""},
		{"an owner without a copy", func(l *syncLog) { l.owns("alpha"); l.owns("beta") }, "beta took over from alpha"},
		{"an owner with a copy", func(l *syncLog) { l.copies("beta", l.owns("alpha")); l.owns("beta") }, ""},
		{"an owner with a copy of its predecessor's earlier epoch", func(l *syncLog) {
			l.copies("beta", l.owns("alpha"))
			l.owns("alpha")
			l.owns("beta")
		}, ""},
		{"an owner that failed in copying", func(l *syncLog) {
			l.reports(synced("beta", 0, l.owns("alpha"), hadv1.SyncResult_OUTCOME_FAILED))
			l.reports(synced("beta", 0, l.state.lastEpoch, hadv1.SyncResult_OUTCOME_STOPPED))
			l.owns("beta")
		}, "beta took over from alpha"},
		{"back to the first, which has no copy of the second's", func(l *syncLog) {
			l.copies("beta", l.owns("alpha"))
			l.owns("beta")
			l.owns("alpha")
		}, "alpha took over from beta"},
		{"back to the first, which has one", func(l *syncLog) {
			l.copies("beta", l.owns("alpha"))
			l.copies("alpha", l.owns("beta"))
			l.owns("alpha")
		}, ""},
		{"a copy from before the previous owner's turn", func(l *syncLog) {
			l.copies("beta", l.owns("alpha"))
			l.owns("beta")
			l.owns("alpha")
			l.owns("beta")
		}, "beta took over from alpha"},
		{"the report of the copy comes late", func(l *syncLog) {
			first := l.owns("alpha")
			l.owns("beta")
			l.copies("beta", first)
		}, ""},
		{"the same owner's next epoch, held before", func(l *syncLog) { l.owns("alpha"); l.owns("beta"); l.owns("beta") }, "beta took over from alpha"},
		{"resumed", func(l *syncLog) { l.owns("alpha"); l.must(l.term, syncResumeCmd("pages", l.owns("beta"))) }, ""},
		{"resumed, in the owner's next epoch", func(l *syncLog) {
			l.owns("alpha")
			l.must(l.term, syncResumeCmd("pages", l.owns("beta")))
			l.owns("beta")
		}, ""},
		{"resumed for an earlier owner", func(l *syncLog) {
			l.owns("alpha")
			l.must(l.term, syncResumeCmd("pages", l.owns("beta")))
			l.owns("alpha")
		}, "alpha took over from beta"},
		{"another sync is resumed", func(l *syncLog) { l.owns("alpha"); l.must(l.term, syncResumeCmd("mail", l.owns("beta"))) }, "beta took over from alpha"},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := newSyncLog(t)
			c.play(l)
			for _, s := range []*State{l.state, restored(t, l.state)} {
				held := s.View().SyncHeld("pages")
				if (held != "") != (c.held != "") || !strings.Contains(held, c.held) {
					t.Errorf("held: %q, want %q", held, c.held)
				}
			}
		})
	}
}

func TestResumingASync(t *testing.T) {
	l := newSyncLog(t)
	first := l.owns("alpha")
	if why := l.refused(l.term, syncResumeCmd("pages", first)); why != "sync pages is not held" {
		t.Error(why)
	}
	second := l.owns("beta")
	if why := l.refused(l.term, syncResumeCmd("pages", first)); !strings.Contains(why, "the owner has changed") {
		t.Error(why)
	}
	l.must(l.term, syncResumeCmd("pages", second))
	before := encodeAt(t, l.state, 0)
	l.must(l.term, syncResumeCmd("pages", second)) // a retry
	if string(before) != string(encodeAt(t, l.state, 0)) {
		t.Error("the retry changed the state")
	}
	events, _ := l.state.History(second)
	if len(events) != 1 || events[0].GetSyncResumed().GetBy() != "root on alpha" || events[0].GetEpoch() != second {
		t.Errorf("history: %v", events)
	}
}

// A log that an older version has begun knows who owns, not since when.
func TestAnOlderVersionsStateGoesOn(t *testing.T) {
	l := newSyncLog(t)
	l.owns("alpha")
	l.state.syncs = nil
	if l.state.View().SyncHeld("pages") != "" {
		t.Error("held, and nobody knows why")
	}
	l.owns("alpha")
	l.owns("beta")
	if !strings.Contains(l.state.View().SyncHeld("pages"), "beta took over from alpha") {
		t.Error("the change of the owner went unnoticed")
	}
	l.state.syncs = nil
	l.owns("alpha")
	if !strings.Contains(l.state.View().SyncHeld("pages"), "alpha took over from beta") {
		t.Error("the change of the owner went unnoticed")
	}
}

// Random turns, copies and resumes, judged by one who remembers all of them.
func TestHoldsFollowFromTheWholeHistory(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 5))
		l := newSyncLog(t)
		var epochs []uint64
		var owners []string
		copies, resumed, held := map[string]bool{}, map[string]bool{}, 0
		for range 200 {
			node := []string{"alpha", "beta"}[r.IntN(2)]
			switch what := r.IntN(10); {
			case what < 3 || len(epochs) == 0:
				epochs, owners = append(epochs, l.owns(node)), append(owners, node)
			case what < 9:
				epoch := epochs[max(0, len(epochs)-1-r.IntN(4))]
				l.copies(node, epoch)
				copies[fmt.Sprint(node, epoch)] = true
			case l.state.View().SyncHeld("pages") != "":
				epoch := epochs[len(epochs)-1]
				l.must(l.term, syncResumeCmd("pages", epoch))
				resumed[fmt.Sprint(epoch)] = true
			}
			// The present owner's turn begins after the last epoch of another.
			begin := len(owners)
			for begin > 0 && owners[begin-1] == owners[len(owners)-1] {
				begin--
			}
			before := begin
			for before > 0 && owners[before-1] == owners[begin-1] {
				before--
			}
			want := begin > 0 && !slices.ContainsFunc(epochs[begin:], func(e uint64) bool { return resumed[fmt.Sprint(e)] }) &&
				!slices.ContainsFunc(epochs[before:begin], func(e uint64) bool { return copies[fmt.Sprint(owners[len(owners)-1], e)] })
			if got := l.state.View().SyncHeld("pages"); (got != "") != want {
				t.Fatalf("seed %d: held: %q, want %v; owners %v of epochs %v, copies %v", seed, got, want, owners, epochs, copies)
			}
			if want {
				held++
			}
			if n := len(l.state.syncs.GetCopies()); n > 2 {
				t.Fatalf("%d copies are kept", n)
			}
		}
		if held < 10 || held > 190 {
			t.Errorf("seed %d: held %d times of 200: the mix tests too little", seed, held)
		}
	}
}
