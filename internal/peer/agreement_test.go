package peer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a set of hosts whose data folders can be emptied, with a network
// that delays, repeats and loses what they say. It checks the promise of the
// birth after every event.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	now     time.Time
	members []Member
	folders map[string]record     // what is on disk
	running map[string]*agreement // processes
	flying  []hello
	lockOf  map[string]string // node ID to the certificate it has ever locked
	ids     int
	births  int
	refused map[code]int
}

func newWorld(t *testing.T, seed uint64, n int) *world {
	t.Helper()
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(0, 0),
		folders: make(map[string]record), running: make(map[string]*agreement),
		lockOf: make(map[string]string), refused: make(map[code]int),
	}
	for i := range n {
		w.members = append(w.members, Member{Name: string(rune('a' + i)), Address: fmt.Sprintf("h%d:1", i), Witness: i == n-1})
	}
	for _, m := range w.members {
		w.empty(m.Name)
		w.start(m.Name)
	}
	return w
}

func (w *world) empty(name string) {
	w.ids++
	delete(w.running, name)
	w.folders[name] = record{Cluster: "c", Node: name, NodeID: fmt.Sprintf("%032x", w.ids), Phase: gathering}
}

func (w *world) start(name string) {
	w.running[name] = &agreement{rec: w.folders[name], members: w.members}
}

func (w *world) deliver(h hello) {
	to := w.running[h.To]
	if to == nil {
		return
	}
	if err := h.check(); err != nil {
		w.t.Fatalf("a node sent an improper hello: %v", err)
	}
	if no := to.judge(h); no != nil {
		if from := w.running[h.From]; from != nil && from.rec.NodeID == h.NodeID && !from.outdated(no) {
			w.refused[no.Code]++
		}
		return
	}
	to.hear(h, w.now)
}

// step lets name take its next durable step; it may crash on either side of
// the write.
func (w *world) step(name string, mayCrash bool) bool {
	a := w.running[name]
	if a == nil {
		return false
	}
	r, ok := a.next(w.now)
	if !ok {
		return false
	}
	crash := mayCrash && w.rng.IntN(4) == 0
	if crash && w.rng.IntN(2) == 0 {
		delete(w.running, name)
		return true
	}
	w.folders[name] = r
	w.wrote(r)
	if crash {
		delete(w.running, name)
	} else {
		a.adopt(r)
	}
	return true
}

func (w *world) wrote(r record) {
	if err := r.check(); err != nil {
		w.t.Fatalf("a node wrote an improper record: %v", err)
	}
	if was, ok := w.lockOf[r.NodeID]; ok && was != r.Birth.ID {
		w.t.Fatalf("%s locked %s and then %s", r.NodeID, was, r.Birth.ID)
	}
	w.lockOf[r.NodeID] = r.Birth.ID
	if r.Phase == born {
		w.births++
	}
}

func (w *world) check() {
	w.t.Helper()
	certificate := ""
	for _, r := range w.folders {
		if r.Phase != born {
			continue
		}
		for _, m := range r.Birth.Members {
			if w.lockOf[m.NodeID] != r.Birth.ID {
				w.t.Fatalf("%s is born with %s, which %s never locked", r.Node, r.Birth.ID, m.Name)
			}
		}
		if certificate != "" && certificate != r.Birth.ID {
			w.t.Fatalf("two data folders are born with different certificates at the same time")
		}
		certificate = r.Birth.ID
	}
	for _, x := range w.running {
		for _, y := range w.running {
			if x == y || x.judge(y.hello(kindRaft, x.rec.Node)) != nil || y.judge(x.hello(kindRaft, y.rec.Node)) != nil {
				continue
			}
			m, _ := x.rec.Birth.member(y.rec.Node)
			if x.rec.Birth.ID != y.rec.Birth.ID || m.NodeID != y.rec.NodeID {
				w.t.Fatalf("%s and %s speak raft with each other and weren't born together", x.rec.Node, y.rec.Node)
			}
		}
	}
}

func (w *world) event(mayEmpty bool) {
	name := w.members[w.rng.IntN(len(w.members))].Name
	switch k := w.rng.IntN(100); {
	case k < 45:
		to := w.members[w.rng.IntN(len(w.members))].Name
		if a := w.running[name]; a != nil && to != name {
			w.flying = append(w.flying, a.hello(kindMeet, to))
		}
	case k < 75:
		if n := len(w.flying); n > 0 {
			i := w.rng.IntN(n)
			w.deliver(w.flying[i])
			if w.rng.IntN(4) > 0 { // else it comes again, later
				w.flying = slices.Delete(w.flying, i, i+1)
			}
		}
	case k < 90:
		w.step(name, true)
	case k < 95:
		w.start(name)
	case k < 97 && mayEmpty:
		w.empty(name)
	case k < 98:
		w.now = w.now.Add(claimFresh / 2)
	}
}

// settle lets everybody run and talk until nothing moves any more.
func (w *world) settle() {
	for _, name := range slices.Sorted(maps.Keys(w.folders)) {
		w.start(name)
	}
	for moved := true; moved; {
		moved = false
		for _, x := range w.members {
			for _, y := range w.members {
				if x.Name != y.Name {
					w.deliver(w.running[x.Name].hello(kindMeet, y.Name))
				}
			}
		}
		for _, m := range w.members {
			moved = w.step(m.Name, false) || moved
			w.check()
		}
	}
}

func TestNoTwoBirths(t *testing.T) {
	births, refused := 0, make(map[code]int)
	for seed := range uint64(500) {
		w := newWorld(t, seed, 3+int(seed%2))
		for range 250 {
			w.event(true)
			w.check()
		}
		w.settle()
		births += w.births
		for c, n := range w.refused {
			refused[c] += n
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	// The schedules must be hard enough to meet what they are about.
	for _, c := range []code{codeNodeID, codeBirth} {
		if refused[c] == 0 {
			t.Errorf("nobody was ever refused for %q", c)
		}
	}
	if refused[codeRolledBack] > 0 {
		t.Error("a node was taken for rolled back; none was")
	}
	if births < 500 {
		t.Errorf("only %d births in 500 schedules", births)
	}
}

// Without an emptied folder every crash and restart ends in one birth.
func TestBirthSurvivesCrashes(t *testing.T) {
	for seed := range uint64(300) {
		w := newWorld(t, seed, 1+int(seed%5))
		for range 100 {
			w.event(false)
			w.check()
		}
		w.settle()
		for name, r := range w.folders {
			if r.Phase != born {
				t.Fatalf("seed %d: %s is %s in the end", seed, name, r.Phase)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// The step between lock and birth is the one where an emptied folder stops
// everything; a person must be told that starting over costs nothing.
func TestEmptiedBetweenLockAndBirth(t *testing.T) {
	w := newWorld(t, 1, 3)
	for _, x := range w.members {
		for _, y := range w.members {
			if x.Name != y.Name {
				w.deliver(w.running[x.Name].hello(kindMeet, y.Name))
			}
		}
	}
	w.step("a", false)
	w.step("c", false)
	w.empty("b")
	w.start("b")
	no := w.running["a"].judge(w.running["b"].hello(kindMeet, "a"))
	if no == nil || !no.ForGood || no.Code != codeNodeID || !strings.Contains(no.Sentence, "empty every node's data folder") {
		t.Fatalf("a judges the emptied b: %+v", no)
	}
	w.settle()
	for name, r := range w.folders {
		if r.Phase == born {
			t.Errorf("%s was born without b's lock", name)
		}
	}
	for _, m := range w.members { // as the sentence says
		w.empty(m.Name)
	}
	w.settle()
	for name, r := range w.folders {
		if r.Phase != born {
			t.Errorf("%s is %s after all folders were emptied", name, r.Phase)
		}
	}
}

// A member that was away while the others completed the birth may find one of
// them gone: the word of a born member is enough.
func TestLateMemberBelievesABornOne(t *testing.T) {
	w := newWorld(t, 1, 3)
	w.settle()
	r := w.folders["c"]
	r.Phase = locked
	w.folders["c"] = r
	w.start("c")
	w.deliver(w.running["a"].hello(kindMeet, "c"))
	if !w.step("c", false) || w.folders["c"].Phase != born {
		t.Fatal("c isn't born after hearing from a, which is")
	}
}

// A folder put back from before the lock has forgotten votes as surely as an
// emptied one.
func TestRolledBackFolderIsRefused(t *testing.T) {
	w := newWorld(t, 1, 3)
	old := w.folders["b"]
	w.settle()
	w.folders["b"] = old
	w.start("b")
	no := w.running["a"].judge(w.running["b"].hello(kindMeet, "a"))
	if no == nil || !no.ForGood || no.Code != codeRolledBack {
		t.Fatalf("a judges the rolled back b: %+v", no)
	}
	if no := w.running["a"].judge(w.running["b"].hello(kindRaft, "a")); no == nil {
		t.Fatal("a speaks raft with the rolled back b")
	}
}

func TestClusterIDDependsOnEverything(t *testing.T) {
	base := func() []BornMember {
		return []BornMember{
			{Member: Member{Name: "b", Address: "h:2"}, NodeID: strings.Repeat("2", 32)},
			{Member: Member{Name: "a", Address: "h:1", Witness: true}, NodeID: strings.Repeat("1", 32)},
		}
	}
	seen := map[string]string{newBirth("c", base()).ID: "base"}
	reversed := base()
	slices.Reverse(reversed)
	if newBirth("c", reversed).ID != newBirth("c", base()).ID {
		t.Error("the order of the list changes the cluster ID")
	}
	for name, change := range map[string]func([]BornMember){
		"name":    func(m []BornMember) { m[0].Name = "z" },
		"address": func(m []BornMember) { m[0].Address = "h:3" },
		"role":    func(m []BornMember) { m[0].Witness = true },
		"node ID": func(m []BornMember) { m[0].NodeID = strings.Repeat("3", 32) },
		"border":  func(m []BornMember) { m[0].Name, m[0].Address = "bh", ":2" },
	} {
		m := base()
		change(m)
		id := newBirth("c", m).ID
		if other, ok := seen[id]; ok {
			t.Errorf("changing %s gives the ID of %s", name, other)
		}
		seen[id] = name
	}
	if _, ok := seen[newBirth("d", base()).ID]; ok {
		t.Error("the cluster's name doesn't change the ID")
	}
}
