package cluster

import (
	"crypto/sha256"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// The keys with which the epochs of a cluster reserve disks (SCSI-3) tell whose a
// disk is and, as numbers, who is the later of two: "ha" in ASCII, 12 bits of the
// cluster, 35 of the epoch, and a bit for who seeks evidence about it.
// internal/fence/DESIGN.md says why.
const (
	keyPrefix    = 0x6861 << 48
	keyEpochBits = 35
	keyTurnBits  = keyEpochBits + 1
	keySeeks     = 1
)

// ReservationMark is the front part of all keys of a cluster, whose ID was drawn at
// its birth. It is what an Acquire has for its terms' reservation_key.
func ReservationMark(clusterID string) uint64 {
	sum := sha256.Sum256([]byte(clusterID))
	return keyPrefix | uint64(binary.BigEndian.Uint16(sum[:])>>4)<<keyTurnBits
}

// ReservationKey is the key of an epoch.
func ReservationKey(mark, epoch uint64) uint64 { return mark | epoch<<1 }

// SeekersKey is that of a node which drives out the owner of a claim; 0: the claim's
// disks aren't reserved.
func SeekersKey(c *hadv1.Claim) uint64 {
	key := c.GetTerms().GetReservationKey()
	if key == 0 {
		return 0
	}
	return key | keySeeks
}

// markWrong says why an Acquire's reservation_key can't become that of an epoch.
func markWrong(mark, epoch uint64) string {
	switch {
	case mark == 0:
		return ""
	case mark&(1<<keyTurnBits-1) != 0:
		return refuse("its reservation key %#x has an epoch already: %d bits of it must be free", mark, keyTurnBits)
	case epoch >= 1<<keyEpochBits:
		return refuse("no reservation key has room for epoch %d", epoch)
	}
	return ""
}

// withReservationKey returns an Acquire with the key of the epoch that it opens, if
// that reserves its disks: only now is the epoch known.
func withReservationKey(a *hadv1.Acquire, epoch uint64) *hadv1.Acquire {
	mark := a.GetTerms().GetReservationKey()
	if mark == 0 {
		return a
	}
	a = proto.CloneOf(a)
	a.Terms.ReservationKey = ReservationKey(mark, epoch)
	return a
}
