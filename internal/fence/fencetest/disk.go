// Package fencetest has a disk with SCSI-3 persistent reservations, for tests.
package fencetest

import (
	"maps"
	"slices"

	"had/internal/fence"
)

// Disk does what SPC-4 says of a disk with type 5 (Write Exclusive, Registrants
// Only), for any number of nexuses, which are counted from 1. One caller at a time.
type Disk struct {
	Keys    map[int]fence.Key // by nexus
	Holder  int               // a nexus; 0: nobody
	Vacated bool              // it was reserved, and wasn't at some time after that

	generation uint32
}

// NewDisk returns one that nobody has registered at.
func NewDisk() *Disk { return &Disk{Keys: map[int]fence.Key{}} }

// Accepts reports whether the disk takes what comes from a nexus to be written.
func (d *Disk) Accepts(nexus int) bool { return d.Holder == 0 || d.Keys[nexus] != 0 }

// LosePower is what a loss of power does to a disk that doesn't keep its
// registrations over one. With APTPL it does nothing.
func (d *Disk) LosePower() {
	clear(d.Keys)
	d.Holder = 0
}

// gone is what happens when a registration is removed.
func (d *Disk) gone(nexus int) {
	delete(d.Keys, nexus)
	if d.Holder == nexus {
		d.Holder, d.Vacated = 0, true
	}
}

// Path is a host's way to a disk: a fence.Reservable.
type Path struct {
	*Disk
	Nexus int
	// Before is called before each command is carried out, and may have it fail.
	Before func(what string) error
}

// Path is a way to d on which nothing goes wrong.
func (d *Disk) Path(nexus int) Path { return Path{d, nexus, func(string) error { return nil }} }

// Read implements fence.Reservable.
func (p Path) Read() (r fence.Reservation, err error) {
	if err := p.Before("read"); err != nil {
		return r, err
	}
	r.Generation = p.generation
	r.Keys = slices.Sorted(maps.Values(p.Keys))
	if p.Holder != 0 {
		r.Holder, r.Type = p.Keys[p.Holder], fence.RegistrantsOnly
	}
	return r, nil
}

// Register implements fence.Reservable.
func (p Path) Register(key fence.Key) error {
	if err := p.Before("register"); err != nil {
		return err
	}
	p.generation++
	p.Keys[p.Nexus] = key
	return nil
}

// Unregister implements fence.Reservable.
func (p Path) Unregister(key fence.Key) error {
	if err := p.Before("unregister"); err != nil {
		return err
	}
	if p.Keys[p.Nexus] != key {
		return fence.ErrConflict
	}
	p.generation++
	p.gone(p.Nexus)
	return nil
}

// Reserve implements fence.Reservable.
func (p Path) Reserve(key fence.Key) error {
	if err := p.Before("reserve"); err != nil {
		return err
	}
	if p.Keys[p.Nexus] != key || p.Holder != 0 && p.Holder != p.Nexus {
		return fence.ErrConflict
	}
	p.Holder = p.Nexus
	return nil
}

// Preempt implements fence.Reservable.
func (p Path) Preempt(key, other fence.Key, _ fence.UnderWay) error {
	if err := p.Before("preempt"); err != nil {
		return err
	}
	held := p.Holder != 0 && p.Keys[p.Holder] == other
	found := false
	for nexus, k := range p.Keys {
		if p.Keys[p.Nexus] == key && k == other && nexus != p.Nexus {
			found = true
			delete(p.Keys, nexus)
		}
	}
	if !found {
		return fence.ErrConflict
	}
	p.generation++
	if held {
		p.Holder = p.Nexus
	}
	return nil
}
