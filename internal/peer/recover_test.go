package peer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recovered stops gamma and makes it the only member of the next generation.
func (o *office) recovered(h map[string]*host) Birth {
	o.t.Helper()
	h["gamma"].stop()
	if err := h["gamma"].id.MarkRaftStarted(); err != nil {
		o.t.Fatal(err)
	}
	s, err := OpenSurvivor(o.dirs["gamma"], "office", "gamma")
	if err != nil {
		o.t.Fatal(err)
	}
	var lost []BornMember
	for _, m := range s.Birth().Members {
		if m.Name != "gamma" {
			lost = append(lost, m)
		}
	}
	next := s.Next(o.members[2], lost, time.Now())
	if err := s.Adopt(next); err != nil {
		o.t.Fatal(err)
	}
	return next
}

// ended returns why a host can't go on; nil if it can.
func (h *host) ended() error {
	select {
	case err := <-h.Fatal():
		return err
	case <-time.After(patience):
		return nil
	}
}

// Two of three come back after the third was recovered without them: they are a
// majority of what was, and neither serves it once it has met the survivor.
func TestFormerMembersAreSentAwayForGood(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	before, _ := h["gamma"].id.Birth()
	next := o.recovered(h)
	gamma := o.start("gamma", with{}) // its had.hcl still lists what was lost
	if b, born := gamma.id.Birth(); !born || b.ID != next.ID || b.Generation() != 2 || b.Origin() != before.ID || b.RaftFolder() != "raft-2" {
		t.Fatalf("the recovered node is of %+v, born %v", b, born)
	}
	var refused *RefusedError
	if _, err := h["alpha"].DialRaft(t.Context(), "gamma"); !errors.As(err, &refused) || !refused.ForGood {
		t.Fatalf("alpha dials the recovered gamma: %v", err)
	}
	err := h["alpha"].ended()
	for _, want := range []string{`"alpha" belongs to the cluster "office" as it was before it was recovered on "gamma"`, "empty its data folder", "generation 2"} {
		if !errors.Is(err, ErrRefusedForGood) || !strings.Contains(err.Error(), want) {
			t.Fatalf("alpha ends with %v; want %s", err, want)
		}
	}
	eventually(t, gamma.Refusals, "this node refuses a stranger", "as it was before it was recovered")
	// Nobody has to tell it again.
	h["alpha"].stop()
	if _, err := OpenIdentity(o.dirs["alpha"], "office", "alpha", o.members); !errors.Is(err, ErrRefusedForGood) || !strings.Contains(err.Error(), "empty its data folder") {
		t.Errorf("alpha starts again: %v", err)
	}

	// A new node was given beta's name: the old one learns of it when it is called.
	gamma.stop()
	s, err := OpenSurvivor(o.dirs["gamma"], "office", "gamma")
	if err != nil {
		t.Fatal(err)
	}
	grown := s.Birth()
	grown.Members = append([]BornMember{{Member: o.members[1], NodeID: newNodeID()}}, grown.Members...)
	grown.ID = grown.digest()
	if err := s.Adopt(grown); err != nil {
		t.Fatal(err)
	}
	gamma = o.start("gamma", with{members: o.members[1:]})
	if _, err := gamma.DialRaft(t.Context(), "beta"); err == nil {
		t.Error("gamma speaks raft with the old beta")
	}
	if err := h["beta"].ended(); !errors.Is(err, ErrRefusedForGood) {
		t.Errorf("beta ends with %v", err)
	}
}

func TestNoTwoRecoveriesAreTheSame(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	first := o.recovered(o.bornTogether())
	s, err := OpenSurvivor(o.dirs["gamma"], "office", "gamma")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	one, other := s.Next(o.members[2], nil, at), s.Next(o.members[2], nil, at)
	if one.ID == other.ID || one.ID == first.ID || one.Generation() != 3 || one.Origin() != first.Origin() {
		t.Errorf("%+v, then %+v and %+v", first, one, other)
	}
	one.Recovered.Lost = first.Recovered.Lost
	if err := s.Adopt(one); err == nil {
		t.Error("a certificate that was changed after it was made is adopted")
	}
}

func TestSurvivorMustHaveBeenAMember(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := OpenSurvivor(dir, "office", "alpha"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := OpenIdentity(dir, "office", "alpha", three()); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSurvivor(dir, "office", "alpha"); err == nil || !strings.Contains(err.Error(), "never born") {
		t.Errorf("before the birth: %v", err)
	}
	if _, err := OpenSurvivor(dir, "office", "beta"); err == nil || !strings.Contains(err.Error(), `belongs to the node "alpha"`) {
		t.Errorf("as another node: %v", err)
	}
}
