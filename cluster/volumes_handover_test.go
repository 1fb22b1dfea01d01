package cluster

import (
	"slices"
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
)

// handedVolumesLog is a log in which alpha's epoch, which has a volume, has been
// handed over to beta in term 2. lease is alpha's last.
func handedVolumesLog(t *testing.T) (l *log, from, lease, to uint64) {
	l, from, lease = mountedLog(t)
	l.must(1, moveCmd("op", from, "beta"))
	cmd := mountsCmd(instance("beta", 1), 2, &hadv1.Evidence{Epoch: from, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	cmd.GetAcquire().MoveOperation = "op"
	return l, from, lease, l.must(2, cmd)
}

// blockedBy are the epochs for whose volumes the owner of epoch has to wait.
func blockedBy(l *log, epoch uint64) (epochs []uint64) {
	for _, c := range l.state.View().VolumesBlockedBy(epoch) {
		epochs = append(epochs, c.GetEpoch())
	}
	return epochs
}

func TestTheNextOwnerMountsOnlyWhatTheOldOneCannotWrite(t *testing.T) {
	alpha := instance("alpha", 1)
	t.Run("an answer is not enough, a release in the log is", func(t *testing.T) {
		l, from, _, to := handedVolumesLog(t)
		if got := blockedBy(l, to); !slices.Equal(got, []uint64{from}) {
			t.Fatalf("blocked by %v, want %d", got, from)
		}
		l.must(2, deliverCmd(released("alpha", 1, from)))
		if got := blockedBy(l, to); len(got) != 0 {
			t.Errorf("blocked by %v after the release", got)
		}
	})
	for _, kind := range securedKinds {
		t.Run("alpha is lost after the hand-over, "+kind.String(), func(t *testing.T) {
			l, from, lease, to := handedVolumesLog(t)
			if why := l.refused(2, waitedCmd(2, waited(from, lease))); !strings.Contains(why, "hactl fence confirm alpha") {
				t.Errorf("a wait closed it, or said %q", why)
			}
			l.must(2, securedCmd("beta", secured(kind, alpha, 2, from, lease)))
			if got := blockedBy(l, to); !slices.Equal(got, []uint64{from}) {
				t.Errorf("blocked by %v, want %d until its lease is over: alpha may be at work after all", got, from)
			}
			l.must(2, waitedCmd(2, waited(from, lease)))
			if got := l.open(); !slices.Equal(got, []uint64{to}) || len(blockedBy(l, to)) != 0 {
				t.Errorf("open epochs %v, blocked by %v", got, blockedBy(l, to))
			}
		})
	}
	t.Run("an epoch without volumes is in nobody's way", func(t *testing.T) {
		l, _, to := handedLog(t)
		if got := blockedBy(l, to); len(got) != 0 {
			t.Errorf("blocked by %v", got)
		}
	})
	t.Run("the new one is not in the old one's way only when it has none", func(t *testing.T) {
		l, from, _, to := handedVolumesLog(t)
		if got := blockedBy(l, from); !slices.Equal(got, []uint64{to}) {
			t.Errorf("blocked by %v, want %d: alpha mounts nothing any more", got, to)
		}
	})
}

func TestAThirdOwnerAccountsForTheVolumesOfBoth(t *testing.T) {
	alpha, beta, third := instance("alpha", 1), instance("beta", 1), instance("alpha", 2)
	third.BootId = "a later boot"
	l, from, lease, to := handedVolumesLog(t)
	both := []*hadv1.Evidence{waited(from, lease), waited(to, to)}

	l.refused(3, mountsCmd(third, 3, both...))
	l.must(3, securedCmd("gamma", secured(hadv1.Secured_KIND_FENCED, beta, 3, to, to)))
	if why := l.refused(3, mountsCmd(third, 3, both...)); !strings.Contains(why, "alpha may still write") {
		t.Errorf("refused with %q, want what is missing about alpha", why)
	}
	l.must(3, securedCmd("gamma", secured(hadv1.Secured_KIND_CONFIRMED, alpha, 3, from, lease)))
	l.refused(3, mountsCmd(third, 3, both[1]))
	last := l.must(3, mountsCmd(third, 3, both...))
	if got := l.open(); !slices.Equal(got, []uint64{last}) || len(blockedBy(l, last)) != 0 {
		t.Errorf("open epochs %v, blocked by %v", got, blockedBy(l, last))
	}
}
