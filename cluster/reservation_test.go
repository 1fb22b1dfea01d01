package cluster

import (
	"strings"
	"testing"

	"had/internal/fence"
	hadv1 "had/proto/had/v1"
)

// The disks, and who reads their keys, understand what the log says.
func TestReservationKeys(t *testing.T) {
	mark := ReservationMark("c7d2")
	if mark != ReservationMark("c7d2") || mark == ReservationMark("c7d3") {
		t.Errorf("mark %#x doesn't stand for its cluster", mark)
	}
	var last fence.Key
	for _, epoch := range []uint64{3, 4, 1200, 1<<keyEpochBits - 1} {
		c := &hadv1.Claim{Epoch: epoch, Terms: &hadv1.Terms{ReservationKey: ReservationKey(mark, epoch)}}
		for seeks, k := range map[bool]uint64{false: c.GetTerms().GetReservationKey(), true: SeekersKey(c)} {
			if e, s, ours := fence.Key(k).Epoch(); e != epoch || s != seeks || !ours {
				t.Errorf("key %#x reads epoch %d, seeker %t, ours %t", k, e, s, ours)
			}
		}
		if own := fence.Key(c.GetTerms().GetReservationKey()); own <= last || fence.Key(SeekersKey(c)) <= own {
			t.Errorf("the keys of epoch %d are not in order", epoch)
		}
		last = fence.Key(SeekersKey(c))
	}
	if key := SeekersKey(&hadv1.Claim{Epoch: 7}); key != 0 {
		t.Errorf("disks that aren't reserved have a seeker's key %#x", key)
	}
}

func TestAnEpochGetsItsKeyWithItsNumber(t *testing.T) {
	l, epoch, _ := mountedLog(t)
	mark := volumeTerms().GetReservationKey()
	if got := l.state.View().Claim(epoch).GetTerms().GetReservationKey(); got != ReservationKey(mark, epoch) {
		t.Errorf("the claim has key %#x", got)
	}
	cmd := mountsCmd(instance("alpha", 1), 1)
	cmd.GetAcquire().Terms.ReservationKey = ReservationKey(mark, 5)
	if why := bornLog(t).refused(1, cmd); !strings.Contains(why, "has an epoch already") {
		t.Errorf("refused with %q", why)
	}
	if why := markWrong(mark, 1<<keyEpochBits); !strings.Contains(why, "no reservation key has room") {
		t.Errorf("refused with %q", why)
	}
	none := mountsCmd(instance("alpha", 1), 1)
	none.GetAcquire().Terms.ReservationKey = 0
	l = bornLog(t)
	epoch = l.must(1, none)
	if got := l.state.View().Claim(epoch).GetTerms().GetReservationKey(); got != 0 {
		t.Errorf("an epoch that reserves nothing has key %#x", got)
	}
}
