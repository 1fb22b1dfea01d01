package guard

import (
	"slices"
	"testing"

	"had/internal/peer"
)

// A guard tells those who are members by the latest list that it was given.
func TestAGuardLearnsTheMembers(t *testing.T) {
	id, err := peer.OpenIdentity(t.TempDir(), "office", "alpha", []peer.Member{{Name: "alpha", Address: "127.0.0.1:1"}, {Name: "beta", Address: "127.0.0.1:2"}})
	if err != nil {
		t.Fatal(err)
	}
	g := &process{identity: id}
	if err := g.enrol(&peer.Roster{Index: 9}); err == nil {
		t.Error("a guard of no cluster learns its members")
	}
	if got := id.Others(); !slices.Equal(got, []string{"beta"}) {
		t.Errorf("it would tell %v", got)
	}
	if (Request{Op: OpEnrol}).check() == nil || (Request{Op: OpEnrol, Members: &peer.Roster{}}).check() != nil || (Request{Op: OpDrop, Epoch: 1, Members: &peer.Roster{}}).check() == nil {
		t.Error("a request is checked wrongly")
	}
}
