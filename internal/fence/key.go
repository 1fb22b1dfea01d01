package fence

import "fmt"

// Key is what a host registers at a disk. The zero Key is none. Those of had's,
// which package cluster makes, are from the front: "ha" in ASCII, 12 bits of the
// cluster, 35 of the epoch, and a bit that is set for who seeks evidence about it.
// Those of one cluster are in the order in which their owners may have the disk.
type Key uint64

const (
	keyMark      = 0x6861
	keyMarkShift = 48
	keyTurnBits  = 36 // epoch and seeker's bit
	keySeeks     = 1
)

// ours reports whether a key is one of had's, of any cluster.
func (k Key) ours() bool { return k>>keyMarkShift == keyMark }

// kin reports whether both are of the same cluster of had's.
func (k Key) kin(o Key) bool { return k.ours() && k>>keyTurnBits == o>>keyTurnBits }

// Epoch returns whose epoch a key of had's is about, and whether it is that of one
// who seeks evidence about it.
func (k Key) Epoch() (epoch uint64, seeks, ours bool) {
	return uint64(k&(1<<keyTurnBits-1)) >> 1, k&keySeeks != 0, k.ours()
}

// String returns the key as sg_persist(8) prints it, and what it means.
func (k Key) String() string {
	switch epoch, seeks, ours := k.Epoch(); {
	case !ours:
		return fmt.Sprintf("0x%x", uint64(k))
	case seeks:
		return fmt.Sprintf("0x%x (taken from epoch %d)", uint64(k), epoch)
	default:
		return fmt.Sprintf("0x%x (epoch %d)", uint64(k), epoch)
	}
}
