package fence

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// fakeDisk does what SPC-4 says of a disk with type 5, for any number of nexuses.
type fakeDisk struct {
	generation uint32
	keys       map[int]Key // by nexus
	holder     int         // a nexus; 0: nobody
	reserved   bool        // at any time
	vacated    bool        // it was reserved, and wasn't at some time after that
}

func (d *fakeDisk) accepts(nexus int) bool { return d.holder == 0 || d.keys[nexus] != 0 }

// gone is what happens when a registration is removed.
func (d *fakeDisk) gone(nexus int) {
	delete(d.keys, nexus)
	if d.holder == nexus {
		d.holder, d.vacated = 0, true
	}
}

// fakePath is a host's way to it. before is called before each command is carried
// out, and may have it fail.
type fakePath struct {
	*fakeDisk
	nexus  int
	before func(what string) error
}

func (p fakePath) Read() (r Reservation, err error) {
	if err := p.before("read"); err != nil {
		return r, err
	}
	r.Generation = p.generation
	r.Keys = slices.Sorted(maps.Values(p.keys))
	if p.holder != 0 {
		r.Holder, r.Type = p.keys[p.holder], registrantsOnly
	}
	return r, nil
}

func (p fakePath) Register(key Key) error {
	if err := p.before("register"); err != nil {
		return err
	}
	p.generation++
	p.keys[p.nexus] = key
	return nil
}

func (p fakePath) Unregister(key Key) error {
	if err := p.before("unregister"); err != nil {
		return err
	}
	if p.keys[p.nexus] != key {
		return ErrConflict
	}
	p.generation++
	p.gone(p.nexus)
	return nil
}

func (p fakePath) Reserve(key Key) error {
	if err := p.before("reserve"); err != nil {
		return err
	}
	if p.keys[p.nexus] != key || p.holder != 0 && p.holder != p.nexus {
		return ErrConflict
	}
	p.holder, p.reserved = p.nexus, true
	return nil
}

func (p fakePath) Preempt(key, other Key, _ UnderWay) error {
	if err := p.before("preempt"); err != nil {
		return err
	}
	held := p.holder != 0 && p.keys[p.holder] == other
	found := false
	for nexus, k := range p.keys {
		if p.keys[p.nexus] == key && k == other && nexus != p.nexus {
			found = true
			delete(p.keys, nexus)
		}
	}
	if !found {
		return ErrConflict
	}
	p.generation++
	if held {
		p.holder = p.nexus
	}
	return nil
}

func freshDisk() *fakeDisk { return &fakeDisk{keys: map[int]Key{}} }

func (d *fakeDisk) path(nexus int) fakePath {
	return fakePath{d, nexus, func(string) error { return nil }}
}

func TestTake(t *testing.T) {
	d := freshDisk()
	take := func(nexus int, key Key, want error) {
		t.Helper()
		if err := take(d.path(nexus), key, Abort); !errors.Is(err, want) {
			t.Fatalf("nexus %d takes it with %s: %v, want %v", nexus, key, err, want)
		}
		if d.vacated {
			t.Fatal("it was without a reservation")
		}
	}
	alone := func(nexus int, key Key) {
		t.Helper()
		if len(d.keys) != 1 || d.keys[nexus] != key || d.holder != nexus {
			t.Fatalf("%v are registered, %d holds it; want %d alone with %s", d.keys, d.holder, nexus, key)
		}
	}
	take(1, keyOf(7), nil)
	take(1, keyOf(7), nil)
	alone(1, keyOf(7))
	take(2, keyOf(7)|1, nil) // a seeker
	take(3, keyOf(7)|1, nil) // and another one
	if !d.accepts(3) || d.accepts(1) {
		t.Error("the old owner may write, or the seeker may not")
	}
	take(1, keyOf(7), ErrSuperseded)
	if d.accepts(1) {
		t.Error("who gave way is registered")
	}
	take(3, keyOf(8), nil)
	alone(3, keyOf(8))
	take(4, keyOf(9), nil) // it has booted, and is another nexus
	alone(4, keyOf(9))
	take(4, keyOf(7), ErrSuperseded) // it holds it, and keeps it
	alone(4, keyOf(9))
	take(4, keyOf(10), nil)
	alone(4, keyOf(10))
}

// After a failure at any step the disk has a reservation, and a second try has it
// all.
func TestTakeFails(t *testing.T) {
	for fails := range 9 {
		d := freshDisk()
		if err := errors.Join(take(d.path(1), keyOf(7), Abort), d.path(3).Register(keyOf(5))); err != nil {
			t.Fatal(err)
		}
		broken, n := d.path(2), 0
		broken.before = func(string) error {
			if n++; n > fails {
				return errors.New("the cable is out")
			}
			return nil
		}
		err := take(broken, keyOf(8), Abort)
		if d.vacated || fails < 6 && err == nil {
			t.Errorf("after %d commands: %v, without a reservation: %t", fails, err, d.vacated)
		}
		if err := take(d.path(2), keyOf(8), Abort); err != nil || d.accepts(1) || d.accepts(3) {
			t.Errorf("again after %d commands: %v, %v are registered", fails, err, d.keys)
		}
	}
}

// Hosts take turns at owning a disk, and one that seeks evidence may drive out an
// owner at any time. Each is stopped before any command for as long as it happens,
// and crashes now and then. Nothing that was mounted in an epoch is written to once
// there is evidence about it.
func TestNoWriteAfterTheEvidence(t *testing.T) {
	for seed := range uint64(100) {
		w := &world{disk: freshDisk(), draw: rand.New(rand.NewPCG(seed, 1)), turns: 600}
		w.run(4)
		if w.broken != "" {
			t.Fatalf("seed %d: %s; what happened:\n%s", seed, w.broken, strings.Join(w.deeds, "\n"))
		}
	}
}

// world is hosts, of which one runs at a time, and their log.
type world struct {
	disk  *fakeDisk
	draw  *rand.Rand
	turns int

	epoch  uint64 // the newest
	owner  int    // of it
	over   bool   // there is evidence about it, or it was released
	broken string
	deeds  []string
}

type fakeHost struct {
	*world
	number, nexus int
	goOn          chan bool // false: the test is over
	stopped       chan struct{}
}

var (
	errCrash = errors.New("crash")
	errOver  = errors.New("the test is over")
)

func (w *world) run(count int) {
	var hosts []*fakeHost
	for i := range count {
		h := &fakeHost{w, i + 1, i + 1, make(chan bool), make(chan struct{})}
		hosts = append(hosts, h)
		go h.live()
		<-h.stopped
	}
	for range w.turns {
		h := hosts[w.draw.IntN(count)]
		for range 1 + w.draw.IntN(12) { // some run on while others stand still
			h.goOn <- true
			<-h.stopped
		}
		if w.disk.vacated {
			w.broken = "the disk is without a reservation"
		}
		if w.broken != "" {
			break
		}
	}
	for _, h := range hosts {
		h.goOn <- false
		<-h.stopped
	}
}

// pause lets others run.
func (h *fakeHost) pause(what string) error {
	h.stopped <- struct{}{}
	if !<-h.goOn {
		return errOver
	}
	h.deeds = append(h.deeds, fmt.Sprintf("host %d (nexus %d): %s", h.number, h.nexus, what))
	if h.draw.IntN(40) == 0 {
		return errCrash
	}
	return nil
}

func (h *fakeHost) live() {
	defer close(h.stopped)
	for {
		err := h.pause("looks at the log")
		if err == nil && h.over || h.epoch == 0 {
			err = h.own()
		} else if err == nil && h.owner != h.number {
			err = h.seek()
		}
		if errors.Is(err, errOver) {
			return
		}
		if errors.Is(err, errCrash) && h.draw.IntN(2) == 0 {
			h.nexus += 10 // it boots, with another ISID
		}
	}
}

func (h *fakeHost) path() fakePath { return fakePath{h.disk, h.nexus, h.pause} }

// own opens an epoch, takes the disk, and writes until it has had enough.
func (h *fakeHost) own() error {
	h.epoch++
	h.owner, h.over = h.number, false
	mine := h.epoch
	if err := take(h.path(), keyOf(mine), Abort); err != nil {
		return err
	}
	for range h.draw.IntN(30) { // mounted
		if err := h.pause("writes"); err != nil {
			return err
		}
		if accepted := h.disk.accepts(h.nexus); accepted && (h.epoch != mine || h.over) {
			h.broken = fmt.Sprintf("host %d writes for epoch %d, about which there was evidence", h.number, mine)
		} else if !accepted {
			break
		}
	}
	if h.epoch == mine {
		h.over = true // released
	}
	return nil
}

// seek drives the owner out, and tells the log.
func (h *fakeHost) seek() error {
	about := h.epoch
	if err := take(h.path(), keyOf(about)|keySeeks, Abort); err != nil {
		return err
	}
	if err := h.pause("tells"); err != nil {
		return err
	}
	if h.epoch == about {
		h.over = true
	}
	return nil
}
