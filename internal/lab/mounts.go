package lab

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// mountSampling is the time between two looks. Two hosts that have a volume at
// once for less may go unseen.
const mountSampling = 2 * time.Millisecond

// MountObserver sees which servers have which volume's file system in their
// kernel, by looking again and again. It asks the kernel alone.
type MountObserver struct {
	hosts []*Host
	quit  chan struct{}
	done  chan struct{}

	mu    sync.Mutex
	err   error
	turns map[string][]*MountTurn // by volume
	open  map[mountKey]*MountTurn
	blind time.Duration
}

type mountKey struct{ host, volume string }

// MountTurn is one time that a server had a volume: it certainly had it from
// First to Last, and certainly not before From and, unless it still has it, after
// To.
type MountTurn struct {
	Host              string
	From, First, Last time.Time
	To                time.Time // zero: it still has it
}

// WatchMounts begins to look. Close ends it.
func (l *Lab) WatchMounts() *MountObserver {
	o := &MountObserver{
		hosts: l.Servers(), quit: make(chan struct{}), done: make(chan struct{}),
		turns: map[string][]*MountTurn{}, open: map[mountKey]*MountTurn{},
	}
	go o.run()
	return o
}

// Close ends the observation.
func (o *MountObserver) Close() {
	close(o.quit)
	<-o.done
}

func (o *MountObserver) run() {
	defer close(o.done)
	tick := time.NewTicker(mountSampling)
	defer tick.Stop()
	last := time.Now()
	for {
		for _, h := range o.hosts {
			if err := o.look(h); err != nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
				return
			}
		}
		now := time.Now()
		o.mu.Lock()
		o.blind = max(o.blind, now.Sub(last))
		o.mu.Unlock()
		last = now
		select {
		case <-tick.C:
		case <-o.quit:
			return
		}
	}
}

func (o *MountObserver) look(h *Host) error {
	before := time.Now()
	mounts, err := h.mountinfo()
	if err != nil {
		return err
	}
	alive := make([]bool, len(h.plugs))
	for i, p := range h.plugs {
		alive[i] = p.alive(mounts)
	}
	after := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, p := range h.plugs {
		key := mountKey{h.Name, p.Name}
		t := o.open[key]
		switch {
		case alive[i] && t == nil:
			t = &MountTurn{Host: h.Name, From: before, First: after, Last: after}
			o.open[key] = t
			o.turns[p.Name] = append(o.turns[p.Name], t)
		case alive[i]:
			t.Last = before
		case t != nil:
			t.To = after
			delete(o.open, key)
		}
	}
	return nil
}

// Turns returns the turns of a volume so far, by their beginnings, and how long
// the longest time was in which nobody looked.
func (o *MountObserver) Turns(volume string) (turns []MountTurn, blind time.Duration, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.turns[volume] {
		turns = append(turns, *t)
	}
	slices.SortStableFunc(turns, func(a, b MountTurn) int { return a.First.Compare(b.First) })
	return turns, o.blind, o.err
}

// MountOverlap is a time in which two hosts certainly had one volume.
type MountOverlap struct {
	Hosts    [2]string
	From, To time.Time
}

// MountOverlaps finds them among the turns of one volume.
func MountOverlaps(turns []MountTurn) (out []MountOverlap) {
	for i, a := range turns {
		for _, b := range turns[:i] {
			from, to := latest(a.First, b.First), earliest(a.Last, b.Last)
			if a.Host != b.Host && !to.Before(from) {
				out = append(out, MountOverlap{[2]string{b.Host, a.Host}, from, to})
			}
		}
	}
	slices.SortFunc(out, func(a, b MountOverlap) int { return cmp.Compare(a.From.UnixNano(), b.From.UnixNano()) })
	return out
}

func (o MountOverlap) String() string {
	return fmt.Sprintf("%s and %s, for %v", o.Hosts[0], o.Hosts[1], o.To.Sub(o.From))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
