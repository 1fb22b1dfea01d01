package lab

import (
	"slices"
	"testing"
	"time"

	"net/netip"
)

// answered polls the prober's record until ok says so.
func answered(t *testing.T, p *Prober, vip netip.Addr, ok func(History) bool) History {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		h, err := p.History(vip)
		must(t, err)
		if ok(h) {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatalf("the prober never saw it for %s:\n%s", vip, h)
		}
		<-time.After(time.Millisecond)
	}
}

func lastAnswerer(h History) string {
	if len(h.Transitions) == 0 {
		return ""
	}
	return h.Transitions[len(h.Transitions)-1].Host
}

func TestProberSeesWhoCanAnswer(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	p, err := l.Probe(time.Millisecond)
	must(t, err)
	defer p.Close()
	alpha, beta := l.Host("alpha"), l.Host("beta")
	for _, vip := range l.VIPs() {
		prefix := hostPrefix(vip)
		must(t, alpha.AddAddress(prefix, Forever))
		answered(t, p, vip, func(h History) bool { return lastAnswerer(h) == "alpha" })
		must(t, alpha.DelAddress(prefix))
		must(t, beta.AddAddress(prefix, Forever))
		h := answered(t, p, vip, func(h History) bool { return lastAnswerer(h) == "beta" })
		if o := h.Overlaps(); len(o) != 0 {
			t.Errorf("%s: overlaps %v in a clean move\n%s", vip, o, h)
		}
		if got := slices.Compact(h.Owners()); !slices.Equal(got, []string{"alpha", "beta"}) {
			t.Errorf("%s: answered by %v, want alpha, then beta", vip, got)
		}

		// Nobody else can reach beta; it would answer all the same.
		must(t, l.Isolate("beta"))
		must(t, alpha.AddAddress(prefix, Forever))
		answered(t, p, vip, func(h History) bool { return len(h.Overlaps()) > 0 })
		must(t, beta.DelAddress(prefix))
		must(t, l.Heal())
	}
}

func TestProberIsSilentOverADeadLink(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	p, err := l.Probe(time.Millisecond)
	must(t, err)
	defer p.Close()
	vip := l.VIPs()[0]
	must(t, l.Host("alpha").AddAddress(hostPrefix(vip), Forever))
	answered(t, p, vip, func(h History) bool { return lastAnswerer(h) == "alpha" })
	must(t, l.LinkDown("alpha"))
	must(t, l.Host("beta").AddAddress(hostPrefix(vip), Forever))
	h := answered(t, p, vip, func(h History) bool { return lastAnswerer(h) == "beta" })
	if o := h.Overlaps(); len(o) != 0 {
		t.Errorf("overlaps %v with a host that can't be reached\n%s", o, h)
	}
	must(t, l.LinkUp("alpha"))
	answered(t, p, vip, func(h History) bool { return len(h.Overlaps()) > 0 })
}

func TestAnswersEndAtARequestLeftWithout(t *testing.T) {
	t.Parallel()
	at := func(ms int) time.Time { return time.Unix(0, 0).Add(time.Duration(ms) * time.Millisecond) }
	var spans []answers
	for _, a := range []struct {
		host string
		seq  uint64
		ms   int
	}{
		{"alpha", 1, 10}, {"alpha", 2, 20}, {"beta", 3, 31}, // alpha left 3 and 4 without an answer
		{"alpha", 5, 50}, {"beta", 6, 61}, {"alpha", 6, 62}, {"alpha", 7, 70},
	} {
		spans = noteAnswer(spans, a.host, a.seq, at(a.ms))
	}
	p := &Prober{start: at(0), spans: map[netip.Addr][]answers{netip.IPv4Unspecified(): spans}}
	h, err := p.History(netip.IPv4Unspecified())
	must(t, err)
	o := h.Overlaps()
	if len(o) != 1 || !o[0].From.Equal(at(61)) || !o[0].To.Equal(at(61)) {
		t.Errorf("overlaps %v, want one of no length at 61 ms\n%s", o, h)
	}
}
