package peer

import (
	"errors"
	"strings"
	"testing"
)

// with4 is the office's list with delta, which the others don't have in theirs.
func (o *office) with4() []Member {
	last := o.members[len(o.members)-1]
	o.dirs["delta"] = o.t.TempDir()
	return append(append([]Member(nil), o.members...), Member{Name: "delta", Address: strings.Replace(last.Address, ":7400", ":7404", 1)})
}

// after is the birth's list with a node more, in place of one of its name.
func after(b Birth, m BornMember) []BornMember {
	var list []BornMember
	for _, o := range b.Members {
		if o.Name != m.Name {
			list = append(list, o)
		}
	}
	return append(list, m)
}

func TestNewNodeWaitsUntilItIsAdded(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	list := o.with4()
	delta := o.start("delta", with{members: list})
	joined := delta.meet()
	eventually(t, delta.Waiting, "waiting to meet alpha", "hactl node add delta")
	if _, ok := delta.id.Birth(); ok {
		t.Fatal("it belongs to a cluster that hasn't added it")
	}
	n, err := h["alpha"].Newcomer(t.Context(), "delta", list[3].Address)
	if err != nil || n.NodeID != delta.id.NodeID() || n.Witness {
		t.Fatalf("asked who it is, it says %+v, %v; want %s", n, err, delta.id.NodeID())
	}

	b, _ := h["alpha"].id.Birth()
	m := BornMember{Member: list[3], NodeID: n.NodeID, Joining: true}
	if err := h["alpha"].id.Follow(50, after(b, m)); err != nil {
		t.Fatal(err)
	}
	got, err := joined.wait()
	if err != nil || got.ID != b.ID {
		t.Fatalf("it joined %+v, %v; want %s", got, err, b.ID)
	}
	if said := delta.Refusals(); len(said) > 0 {
		t.Errorf("it is a member and still says %q", said)
	}
	c, err := h["alpha"].DialRaft(t.Context(), "delta")
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, delta.RaftListener(), "alpha", "delta")
	// beta hasn't read the log yet; delta knows better.
	if c, err = delta.DialRPC(t.Context(), "beta"); err != nil {
		t.Fatal(err)
	}
	talk(t, c, h["beta"].RPCListener(), "delta", "beta")

	delta.stop()
	again, err := OpenIdentity(o.dirs["delta"], "office", "delta", list)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := again.Roster(); !ok || r.Index != 50 || len(r.Members) != 4 {
		t.Errorf("it comes back with %+v", r)
	}
}

func TestReplacedNode(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	b, _ := h["alpha"].id.Birth()
	h["beta"].stop()
	old := o.dirs["beta"]
	o.dirs["beta"] = t.TempDir()
	beta := o.start("beta", with{})
	joined := beta.meet()
	moved := BornMember{Member: o.members[1], NodeID: beta.id.NodeID(), Joining: true}
	if err := h["alpha"].id.Follow(70, after(b, moved)); err != nil {
		t.Fatal(err)
	}
	if _, err := joined.wait(); err != nil {
		t.Fatal(err)
	}
	// gamma knows the old one only: its answers must not count as that one's.
	if _, err := h["gamma"].DialRaft(t.Context(), "beta"); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("gamma dials beta, which it doesn't know: %v", err)
	}
	if c, err := beta.DialRaft(t.Context(), "gamma"); err != nil {
		t.Errorf("the new beta can't bring gamma up to date: %v", err)
	} else {
		talk(t, c, h["gamma"].RaftListener(), "beta", "gamma")
	}
	if err := h["gamma"].id.Follow(70, after(b, moved)); err != nil {
		t.Fatal(err)
	}
	beta.stop()

	o.dirs["beta"] = old
	back := o.start("beta", with{})
	for _, to := range []string{"alpha", "gamma"} {
		var refused *RefusedError
		if _, err := back.DialRaft(t.Context(), to); !errors.As(err, &refused) || !refused.ForGood {
			t.Errorf("the old beta dials %s: %v; want a refusal for good", to, err)
		}
	}
	if err := <-back.Fatal(); !errors.Is(err, ErrRefusedForGood) {
		t.Errorf("the old beta goes on: %v", err)
	}
}

// A node whose own had.hcl gives it another role than it was added with stays out.
func TestRoleMustBeTheSame(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	b, _ := h["alpha"].id.Birth()
	list := o.with4()
	delta := o.start("delta", with{members: list})
	delta.meet()
	m := BornMember{Member: list[3], NodeID: delta.id.NodeID(), Joining: true}
	m.Witness = true
	if err := h["alpha"].id.Follow(50, after(b, m)); err != nil {
		t.Fatal(err)
	}
	eventually(t, delta.Waiting, "delta was added as a witness, and its own had.hcl makes it a data node")
}

func TestNewcomerThatCantBeAdded(t *testing.T) {
	o := newOffice(t, "alpha", "beta", "gamma")
	h := o.bornTogether()
	list := o.with4()
	for name, c := range map[string]struct {
		w    with
		want string
	}{
		"another cluster": {with{cluster: "lab", members: list}, `its had.hcl is for the cluster "lab"`},
		"knows nobody":    {with{members: []Member{list[3], {Name: "epsilon", Address: "127.0.0.1:1"}}}, "lists none of this cluster's nodes"},
		"its own cluster": {with{members: list[3:]}, "belongs to another cluster of that name"},
	} {
		o.dirs["delta"] = t.TempDir()
		delta := o.start("delta", c.w)
		if name == "its own cluster" {
			if _, err := delta.meet().wait(); err != nil {
				t.Fatal(err)
			}
		}
		_, err := h["alpha"].Newcomer(t.Context(), "delta", list[3].Address)
		if !errors.Is(err, ErrNotNewcomer) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", name, err, c.want)
		}
		delta.stop()
	}
}
