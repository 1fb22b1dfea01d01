package fence_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"had/internal/fence"
	"had/internal/fence/fencetest"
)

func keyOf(epoch uint64) fence.Key { return 0x6861abc<<36 | fence.Key(epoch)<<1 }

func TestTake(t *testing.T) {
	d := fencetest.NewDisk()
	take := func(nexus int, key fence.Key, want error) {
		t.Helper()
		if err := fence.Take(d.Path(nexus), key, fence.Abort); !errors.Is(err, want) {
			t.Fatalf("nexus %d takes it with %s: %v, want %v", nexus, key, err, want)
		}
		if d.Vacated {
			t.Fatal("it was without a reservation")
		}
	}
	alone := func(nexus int, key fence.Key) {
		t.Helper()
		if len(d.Keys) != 1 || d.Keys[nexus] != key || d.Holder != nexus {
			t.Fatalf("%v are registered, %d holds it; want %d alone with %s", d.Keys, d.Holder, nexus, key)
		}
	}
	take(1, keyOf(7), nil)
	take(1, keyOf(7), nil)
	alone(1, keyOf(7))
	take(2, keyOf(7)|1, nil) // a seeker
	take(3, keyOf(7)|1, nil) // and another one
	if !d.Accepts(3) || d.Accepts(1) {
		t.Error("the old owner may write, or the seeker may not")
	}
	take(1, keyOf(7), fence.ErrSuperseded)
	if d.Accepts(1) {
		t.Error("who gave way is registered")
	}
	take(3, keyOf(8), nil)
	alone(3, keyOf(8))
	take(4, keyOf(9), nil) // it has booted, and is another nexus
	alone(4, keyOf(9))
	take(4, keyOf(7), fence.ErrSuperseded) // it holds it, and keeps it
	alone(4, keyOf(9))
	take(4, keyOf(10), nil)
	alone(4, keyOf(10))
}

// After a failure at any step the disk has a reservation, and a second try has it
// all.
func TestTakeFails(t *testing.T) {
	for fails := range 9 {
		d := fencetest.NewDisk()
		if err := errors.Join(fence.Take(d.Path(1), keyOf(7), fence.Abort), d.Path(3).Register(keyOf(5))); err != nil {
			t.Fatal(err)
		}
		broken, n := d.Path(2), 0
		broken.Before = func(string) error {
			if n++; n > fails {
				return errors.New("the cable is out")
			}
			return nil
		}
		err := fence.Take(broken, keyOf(8), fence.Abort)
		if d.Vacated || fails < 6 && err == nil {
			t.Errorf("after %d commands: %v, without a reservation: %t", fails, err, d.Vacated)
		}
		if err := fence.Take(d.Path(2), keyOf(8), fence.Abort); err != nil || d.Accepts(1) || d.Accepts(3) {
			t.Errorf("again after %d commands: %v, %v are registered", fails, err, d.Keys)
		}
	}
}

// Hosts take turns at owning a disk, and one that seeks evidence may drive out an
// owner at any time. Each is stopped before any command for as long as it happens,
// and crashes now and then. Nothing that was mounted in an epoch is written to once
// there is evidence about it.
func TestNoWriteAfterTheEvidence(t *testing.T) {
	for seed := range uint64(100) {
		w := &world{disk: fencetest.NewDisk(), draw: rand.New(rand.NewPCG(seed, 1)), turns: 600}
		w.run(4)
		if w.broken != "" {
			t.Fatalf("seed %d: %s; what happened:\n%s", seed, w.broken, strings.Join(w.deeds, "\n"))
		}
	}
}

// world is hosts, of which one runs at a time, and their log.
type world struct {
	disk  *fencetest.Disk
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
		if w.disk.Vacated {
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

func (h *fakeHost) path() fencetest.Path {
	return fencetest.Path{Disk: h.disk, Nexus: h.nexus, Before: h.pause}
}

// own opens an epoch, takes the disk, and writes until it has had enough.
func (h *fakeHost) own() error {
	h.epoch++
	h.owner, h.over = h.number, false
	mine := h.epoch
	if err := fence.Take(h.path(), keyOf(mine), fence.Abort); err != nil {
		return err
	}
	for range h.draw.IntN(30) { // mounted
		if err := h.pause("writes"); err != nil {
			return err
		}
		if accepted := h.disk.Accepts(h.nexus); accepted && (h.epoch != mine || h.over) {
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
	if err := fence.Take(h.path(), keyOf(about)|1, fence.Abort); err != nil {
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
