package gate

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// maxGuarded is how many addresses a gate can hold back at once.
const maxGuarded = 16384

// guardedSpec is the map of held-back addresses: 16 bytes of the address (IPv4
// in its IPv6 form) to the epoch in which it was admitted, a native uint64.
// Replacing a value never leaves a moment without one (the kernel links the new
// element before it unlinks the old).
func guardedSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "had_guarded", Type: ebpf.Hash,
		KeySize: 16, ValueSize: 8, MaxEntries: maxGuarded,
		Flags: unix.BPF_F_NO_PREALLOC, // most gates hold a handful
	}
}

// leaseSpec is the map of one entry, leaseWords, which every process that has
// the gate open shares as memory.
func leaseSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "had_lease", Type: ebpf.Array,
		KeySize: 4, ValueSize: uint32(unsafe.Sizeof(leaseWords{})), MaxEntries: 1,
		Flags: unix.BPF_F_MMAPABLE,
	}
}

// leaseWords is what the lease's map holds: three words, each read and written
// whole. A key of epoch e is open while epoch == e > shut and CLOCK_BOOTTIME,
// in nanoseconds, is below deadline.
//
// Two words can't be written at once, so their order keeps a mixture from
// opening anything. Who opens an epoch writes deadline 0, then epoch, then the
// keys, and only later the deadline. The program reads key, deadline, epoch:
// an old epoch's key can't meet a new deadline, nor a new key an old one.
type leaseWords struct {
	epoch    atomic.Uint64 // only grows
	deadline atomic.Uint64 // only grows within an epoch
	shut     atomic.Uint64 // only grows: this epoch and all before are over
}

// Offsets of leaseWords' members.
const (
	wordEpoch    = int16(unsafe.Offsetof(leaseWords{}.epoch))
	wordDeadline = int16(unsafe.Offsetof(leaseWords{}.deadline))
	wordShut     = int16(unsafe.Offsetof(leaseWords{}.shut))
)

// raise sets a word to at least v, whatever others do to it meanwhile.
func raise(word *atomic.Uint64, v uint64) {
	for {
		now := word.Load()
		if now >= v || word.CompareAndSwap(now, v) {
			return
		}
	}
}

// maps are a gate's memory in the kernel. It lives as long as a filter's
// program refers to it or a process has it open.
type maps struct {
	guarded *ebpf.Map
	lease   *ebpf.Map
	words   *leaseWords // in mapped
	mapped  []byte
}

// newMaps makes empty maps: nothing is guarded.
func newMaps() (*maps, error) {
	guarded, err := ebpf.NewMap(guardedSpec())
	if err != nil {
		return nil, fmt.Errorf("create the map of guarded addresses: %w", err)
	}
	lease, err := ebpf.NewMap(leaseSpec())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the lease's map: %w", err), guarded.Close())
	}
	return share(guarded, lease)
}

// mapsOf returns the maps that a loaded program uses.
func mapsOf(id ebpf.ProgramID) (*maps, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, fmt.Errorf("open program %d: %w", id, err)
	}
	defer func() { _ = program.Close() }() // a descriptor
	info, err := program.Info()
	if err != nil {
		return nil, fmt.Errorf("describe program %d: %w", id, err)
	}
	ids, _ := info.MapIDs()
	byName := map[string]*ebpf.Map{}
	var errs []error
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			errs = append(errs, fmt.Errorf("open map %d: %w", id, err))
			continue
		}
		if info, err := m.Info(); err == nil {
			byName[info.Name] = m
		} else {
			errs = append(errs, fmt.Errorf("describe map %d: %w", id, err), m.Close())
		}
	}
	guarded, lease := byName[guardedSpec().Name], byName[leaseSpec().Name]
	if guarded != nil && lease != nil {
		errs = append(errs, guardedSpec().Compatible(guarded), leaseSpec().Compatible(lease))
	} else {
		errs = append(errs, fmt.Errorf("program %d doesn't use the maps of a gate", id))
	}
	if err := errors.Join(errs...); err != nil {
		for _, m := range byName {
			_ = m.Close() // only a descriptor
		}
		return nil, err
	}
	return share(guarded, lease)
}

// share maps the lease's words into this process. It takes over both maps,
// also when it fails.
func share(guarded, lease *ebpf.Map) (*maps, error) {
	mapped, err := unix.Mmap(lease.FD(), 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map the lease's words into memory: %w", err), guarded.Close(), lease.Close())
	}
	// The words begin the map's only page (bpf(2): BPF_F_MMAPABLE).
	return &maps{guarded: guarded, lease: lease, mapped: mapped, words: (*leaseWords)(unsafe.Pointer(&mapped[0]))}, nil
}

func (m *maps) close() {
	m.words = nil
	// Descriptors and a mapping: what the kernel keeps is not in doubt.
	_ = unix.Munmap(m.mapped)
	_ = m.guarded.Close()
	_ = m.lease.Close()
}

// list returns the guarded addresses with their epochs.
func (m *maps) list() (map[netip.Addr]uint64, error) {
	const attempts = 10 // another process may change it while this one reads
	var err error
	for range attempts {
		found := map[netip.Addr]uint64{}
		var key [16]byte
		var epoch uint64
		entries := m.guarded.Iterate()
		for entries.Next(&key, &epoch) {
			found[netip.AddrFrom16(key).Unmap()] = epoch
		}
		if err = entries.Err(); err == nil {
			return found, nil
		}
		if !errors.Is(err, ebpf.ErrIterationAborted) {
			break
		}
	}
	return nil, fmt.Errorf("read which addresses are guarded: %w", err)
}
