package cluster

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

func TestLease(t *testing.T) {
	var l Lease
	if _, _, ok := l.Held(); ok {
		t.Fatal("a new Lease holds something")
	}
	if !l.Grant(3, 100, 50) || !l.Grant(3, 90, 50) { // the second answer overtook the first
		t.Fatal("a grant was refused")
	}
	if epoch, until, ok := l.Held(); epoch != 3 || until != 150 || !ok {
		t.Fatalf("held %d until %d, want 3 until 150: a late answer shortened the lease", epoch, until)
	}
	l.End(2)
	if epoch, _, ok := l.Held(); epoch != 3 || !ok {
		t.Fatal("ending an older epoch ended this one")
	}
	l.End(3)
	if l.Grant(3, 200, 50) || l.Grant(2, 200, 50) {
		t.Fatal("an ended epoch was granted again")
	}
	if _, _, ok := l.Held(); ok {
		t.Fatal("an ended epoch is held")
	}
	if !l.Grant(7, 210, 50) || l.Grant(5, 300, 50) {
		t.Fatal("want the newer epoch granted and the older one refused")
	}
}

// A grace is its own epoch's: the next one, without any, gets none of it.
func TestGraceIsOfOneEpoch(t *testing.T) {
	var l Lease
	l.Allow(3, 1000)
	l.Grant(3, 100, 50)
	l.Allow(3, 7) // an epoch's terms don't change
	if epoch, at, ok := l.Over(); epoch != 3 || at != 1150 || !ok {
		t.Errorf("epoch %d must be gone at %d (%v), want 3 at 1150", epoch, at, ok)
	}
	if _, until, _ := l.Held(); until != 150 {
		t.Errorf("the lease lasts until %d, want 150: the grace takes nothing new", until)
	}
	l.End(3)
	if _, _, ok := l.Over(); ok {
		t.Error("an ended epoch may be held")
	}
	l.Grant(7, 200, 50)
	if epoch, at, _ := l.Over(); epoch != 7 || at != 250 {
		t.Errorf("epoch %d must be gone at %d, want 7 at 250", epoch, at)
	}
}

func TestLeaseNeverResurrectsAndNeverShortens(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 2))
		var (
			l     Lease
			ended uint64
		)
		for range 500 {
			epoch := uint64(r.IntN(20))
			wasEpoch, wasUntil, wasHeld := l.Held()
			if r.IntN(10) == 0 {
				l.End(epoch)
				ended = max(ended, epoch)
			} else {
				t0, ttl := clock.Instant(r.IntN(1000)), time.Duration(1+r.IntN(100))
				granted := l.Grant(epoch, t0, ttl)
				if want := epoch > ended && epoch >= wasEpoch; granted != want {
					t.Fatalf("seed %d: Grant(%d) = %v; ended up to %d, held %d", seed, epoch, granted, ended, wasEpoch)
				}
				if _, until, _ := l.Held(); granted && until.Before(t0.Add(ttl)) {
					t.Fatalf("seed %d: granted until %d and held until %d", seed, t0.Add(ttl), until)
				}
			}
			now, until, held := l.Held()
			if held && now <= ended {
				t.Fatalf("seed %d: epoch %d is held, and up to %d all have ended", seed, now, ended)
			}
			if held && wasHeld && now == wasEpoch && until < wasUntil || held && wasHeld && now < wasEpoch {
				t.Fatalf("seed %d: from epoch %d until %d back to %d until %d", seed, wasEpoch, wasUntil, now, until)
			}
		}
	}
}

func TestTimingFollowsFromDetect(t *testing.T) {
	for _, ms := range []int64{100, 200, 500, 1000, 5000} {
		detect := time.Duration(ms) * time.Millisecond
		d := TimingFor(detect)
		if d.TTL != 3*detect/2 || d.Renew != min(2*detect/3, (d.TTL-d.Margin)/2) || d.Heartbeat != d.TTL || d.Election != d.TTL || d.LeaderLease != d.TTL {
			t.Errorf("detect %v gives %+v", detect, d)
		}
		if d.Margin < 20*time.Millisecond || d.Margin < d.TTL/20 || d.Margin+2*d.Renew > d.TTL {
			t.Errorf("detect %v: margin %v leaves no two renewals of %v in a TTL of %v", detect, d.Margin, d.Renew, d.TTL)
		}
		if got := d.Terms(LayerLifetime); got.GetTtlNs() != int64(d.TTL) || got.GetAddressLifetimeNs() != int64(d.AddressLifetime) || len(got.GetLayers()) == 0 {
			t.Errorf("detect %v promises %v", detect, got)
		}
	}
}

// TestSuccessorStartsAfterTheHoldersEnd is the arithmetic of the proof in
// docs/protocol.md. A holder that read t0 may serve until t0+TTL. Without a
// gate the kernel may keep the address for its lifetime and the slack after
// that. All this is by the holder's clock. A successor counts TakeoverWait from
// an s that is no earlier than t0, by a clock that is up to ρ faster. Only the
// ratio of the clocks matters, so the holder's is taken as true; times are
// exact integers.
func TestSuccessorStartsAfterTheHoldersEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 100_000 {
		terms := &hadv1.Terms{
			TtlNs: 1 + r.Int64N(int64(10*time.Second)), AddressLifetimeNs: 1 + r.Int64N(int64(10*time.Second)),
			Layers: [][]string{nil, {LayerLifetime}, {LayerLifetime, LayerGuard}, {LayerLifetime, LayerGate}}[r.IntN(4)],
		}
		holds := terms.GetTtlNs()
		if !slices.Contains(terms.GetLayers(), LayerGate) {
			holds += terms.GetAddressLifetimeNs() + int64(KernelExpirySlack)
		}
		faster := r.Int64N(ClockRateError*1e6 + 1) // ppm
		t0 := r.Int64N(int64(time.Hour))
		s := t0 + r.Int64N(int64(time.Second))

		wait := int64(TakeoverWait(terms))
		// start = s + wait/(1+faster): multiplied out.
		if (s-t0-holds)*(1_000_000+faster)+wait*1_000_000 < 0 {
			t.Fatalf("%v, a clock %d ppm fast: the successor starts before the holder's end", terms, faster)
		}
		if most := holds*1002/1000 + 1; wait > most {
			t.Fatalf("%v: a wait of %v is longer than need be", terms, time.Duration(wait))
		}
	}
}

func TestTakeoverAtWaitsForEveryClaim(t *testing.T) {
	const s = clock.Instant(time.Hour)
	if at := TakeoverAt(s, nil); at != s {
		t.Errorf("nothing is open: wait until %v, want %v", at, s)
	}
	short, long := &hadv1.Claim{Terms: terms(time.Second)}, &hadv1.Claim{Terms: terms(time.Minute)}
	want := s.Add(TakeoverWait(terms(time.Minute)))
	for _, open := range [][]*hadv1.Claim{{long}, {short, long}, {long, short}} {
		if at := TakeoverAt(s, open); at != want {
			t.Errorf("wait until %v, want %v, the longest", at, want)
		}
	}
}
