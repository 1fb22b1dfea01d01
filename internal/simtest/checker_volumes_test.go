package simtest

import (
	"slices"
	"time"

	"had/internal/clock"
	"had/internal/fence/fencetest"
	hadv1 "had/proto/had/v1"
)

// storageTable is the checker's part about volumes: what each host has mounted,
// or may find mounted when a call of its kernel ends, and who writes to it. It
// holds every change of a host and every change of the log against this:
//
//  1. no volume is mounted on two hosts, whoever mounted it and whoever lives;
//  2. a host mounts only for its own open epoch, while no other with volumes is
//     open;
//  3. no epoch is closed, or counts as secured, by whatever evidence, while
//     anything is mounted for it: nothing may be written then;
//  4. nothing is written after the lease and its grace, unless the guard was kept
//     from its work.
//
// What is mounted on a host to whose writes its disk says no is, for 1 to 3, not
// mounted, for as long as the disk says so.
type storageTable struct {
	mounts  map[string]map[string]mount         // of each host, by volume
	disks   map[string]*fencetest.Disk          // of each volume; nil: it has no reservations
	writing map[string]int                      // processes on each host that write to what is mounted
	until   map[string]map[uint64]clock.Instant // by each host's clock: what its gate and guard were told
}

type mount struct {
	epoch uint64
	there bool // the call that mounts it has ended
}

func newStorageTable() storageTable {
	t := storageTable{mounts: map[string]map[string]mount{}, writing: map[string]int{}, until: map[string]map[uint64]clock.Instant{}, disks: map[string]*fencetest.Disk{}}
	for _, name := range names {
		t.mounts[name], t.until[name] = map[string]mount{}, map[uint64]clock.Instant{}
	}
	return t
}

// mountBegins is a call that will mount a volume if it doesn't fail.
func (c *checker) mountBegins(name string, epoch uint64, v string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(nil)
	c.w.diary.logged("%s: mounts %s for epoch %d", name, v, epoch)
	c.mounts[name][v] = mount{epoch: epoch}
	if !c.mayWrite(name, v) {
		return
	}
	c.oneWriter(v)
	if c.newest.Applied < epoch {
		return
	}
	claim := c.newest.Claim(epoch)
	switch {
	case claim == nil || claim.GetInstance().GetNode() != name:
		c.violate("%s mounts %s for epoch %d, which is not open for it", name, v, epoch)
	case len(c.newest.VolumesBlockedBy(epoch)) > 0:
		c.violate("%s mounts %s for epoch %d while others with volumes are open: %v", name, v, epoch, c.newest.VolumesBlockedBy(epoch))
	}
}

// mounted is the end of that call.
func (c *checker) mounted(name, v string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.mounts[name][v]
	m.there = true
	c.mounts[name][v] = m
	c.w.diary.logged("%s: %s is mounted", name, v)
}

// notMounted is the end of one that has failed.
func (c *checker) notMounted(name, v string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.diary.logged("%s: %s could not be mounted", name, v)
	delete(c.mounts[name], v)
}

// unmounted is a volume that is not mounted any more. One that is about to be
// becomes so all the same.
func (c *checker) unmounted(name, v string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mounts[name][v].there {
		c.stillWrites(name)
		c.w.diary.logged("%s: %s is not mounted any more", name, v)
		delete(c.mounts[name], v)
	}
}

func (c *checker) unmountAll(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stillWrites(name)
	clear(c.mounts[name])
}

func (c *checker) mayBeMounted(name, v string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, there := c.mounts[name][v]
	return there
}

// mountedOn returns what is mounted on a host, in order, and whether a call is
// under way that mounts something.
func (c *checker) mountedOn(name string) (there []string, underWay bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for v, m := range c.mounts[name] {
		if m.there {
			there = append(there, v)
		} else {
			underWay = true
		}
	}
	slices.Sort(there)
	return there, underWay
}

// writers notes how many processes on a host write to what is mounted there.
func (c *checker) writers(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stillWrites(name)
	c.writing[name] = n
}

// extended notes until when a host may hold what it has of an epoch.
func (c *checker) extended(name string, epoch uint64, until clock.Instant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until[name][epoch] = max(c.until[name][epoch], until)
}

// stillWrites checks that a host may write up to this instant, if it does. It is
// called with mu held, before anything that ends that.
func (c *checker) stillWrites(name string) {
	h := c.w.host(name)
	if c.writing[name] == 0 || h == nil {
		return
	}
	for v, m := range c.mounts[name] {
		until, told := c.until[name][m.epoch]
		if !m.there || !told {
			continue
		}
		if now := h.now(); now > until && !h.disturbed(m.epoch) {
			c.violate("%s wrote to %s until %v after the lease of epoch %d, and nothing kept its guard from its work", name, v, now.Sub(until), m.epoch)
		}
	}
}

// storageHolds checks everything that is mounted against the newest state. It is
// called with mu held.
func (c *checker) storageHolds() {
	for _, h := range c.w.hosts {
		for v, m := range c.mounts[h.name] {
			if c.newest.Applied < m.epoch || !c.mayWrite(h.name, v) {
				continue
			}
			claim := c.newest.Claim(m.epoch)
			switch {
			case claim == nil:
				c.violate("epoch %d of %s is closed, and %s is mounted there, or about to be", m.epoch, h.name, v)
			case claim.GetSecured().GetKind() == hadv1.Secured_KIND_CONFIRMED && c.w.layout.misled:
			case claim.GetSecured() != nil:
				c.violate("epoch %d of %s counts as secured (%s by %s), and %s is mounted there, or about to be", m.epoch, h.name, claim.GetSecured().GetKind(), claim.GetSecured().GetBy(), v)
			}
		}
	}
}

// disturb notes that a host's guard is being kept from its work, or begins it
// again.
func (h *host) disturb() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disturbedAt = time.Now()
}

// recovery is how soon after a disturbance a guard has caught up.
const recovery = 3 * time.Second

// disturbed reports whether the guard of an epoch of this host is gone, or may be
// late with what it does.
func (h *host) disturbed(epoch uint64) bool {
	g := h.guardian()
	h.mu.Lock()
	at := h.disturbedAt
	h.mu.Unlock()
	return g == nil || g.epoch.Load() != epoch || g.stopped() || h.shelf.troubled.Load() || time.Since(at) < recovery
}
