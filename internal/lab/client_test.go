package lab

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The client must see the gap that was made, no shorter, and longer only by
// what the machine adds.
func TestClientMeasuresAGap(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	alpha, beta := l.Host("alpha"), l.Host("beta")
	for _, vip := range l.VIPs() {
		p := hostPrefix(vip)
		must(t, alpha.AddAddress(p, Forever))
		c, err := l.Client.Measure(ClientConfig{Target: vip})
		must(t, err)
		_, err = c.AwaitAnswer(ctx, time.Time{})
		must(t, err)

		const made = 100 * time.Millisecond
		from := time.Now()
		must(t, l.Cut("client", "alpha"))
		cutDone := time.Now()
		<-time.After(made)
		healing := time.Now()
		must(t, l.Heal())
		healed := time.Now()
		_, err = c.AwaitAnswer(ctx, healed)
		must(t, err)

		gap, ok := c.Report().LongestGap(from, time.Now())
		if !ok || gap.Start.Add(-gap.Unasked).After(cutDone.Add(2*time.Millisecond)) || gap.End.Before(healing) || gap.Start.After(cutDone.Add(20*time.Millisecond)) || gap.FromHost != "alpha" || gap.ToHost != "alpha" {
			t.Errorf("%s: made a gap of %v, measured %v", vip, made, gap)
		}
		if late := gap.End.Sub(healed); late > 200*time.Millisecond {
			t.Errorf("%s: the gap ended %v after the heal", vip, late)
		}

		// A takeover without an announcement: the client's neighbour entry
		// still names alpha, so it must not count as answered by beta until
		// it is refreshed.
		must(t, alpha.DelAddress(p))
		must(t, beta.AddAddress(p, Forever))
		_, err = l.Client.Exec(ctx, "ip", "neighbour", "flush", "dev", iface)
		must(t, err)
		_, err = c.AwaitAnswer(ctx, time.Time{}, "alpha")
		must(t, err)
		r := c.Stop()
		if r.Answers["alpha"] == 0 || r.Answers["beta"] == 0 || len(r.Answers) != 2 {
			t.Errorf("%s: answers by host = %v", vip, r.Answers)
		}
		if r.Answers["alpha"]+r.Answers["beta"] > r.Sent {
			t.Errorf("%s: more answers %v than %d requests", vip, r.Answers, r.Sent)
		}
		must(t, beta.DelAddress(p))
	}
}

func TestStoppedClientKeepsItsReport(t *testing.T) {
	t.Parallel()
	l := newLab(t, Config{})
	c, err := l.Client.Measure(ClientConfig{Target: l.Host("alpha").V4})
	must(t, err)
	first, second := c.Stop(), c.Stop()
	if first.End != second.End || first.Sent != second.Sent {
		t.Errorf("a stopped client went on: %+v, then %+v", first, second)
	}
}

// A busy machine lets nobody ask as often as it would: what counts is how often a
// bare timer wakes a thread meanwhile, in the best of some tries. Not parallel:
// other tests are busy, too.
func TestAClientAsksAsOftenAsItSays(t *testing.T) {
	l := newLab(t, Config{})
	const every, tries = 500 * time.Microsecond, 8
	var r Report
	var could int
	for range tries {
		ended := make(chan int)
		stop := make(chan struct{})
		go func() { ended <- wakes(t, every, stop) }()
		c, err := l.Client.Measure(ClientConfig{Target: l.Host("alpha").V4, Every: every})
		must(t, err)
		<-time.After(250 * time.Millisecond)
		r = c.Stop()
		close(stop)
		could = <-ended
		due := int(r.End.Sub(r.Start) / every)
		if r.Sent > due+1 {
			t.Fatalf("%d requests in %v, want %d", r.Sent, r.End.Sub(r.Start), due)
		}
		if r.Sent > min(could, due)*2/3 {
			return
		}
	}
	t.Errorf("%d requests in %v, one each %v expected; a bare timer woke a thread %d times", r.Sent, r.End.Sub(r.Start), every, could)
}

// wakes counts how often a thread that only waits for its timer is woken until
// stop is closed.
func wakes(t *testing.T, every time.Duration, stop <-chan struct{}) (n int) {
	t.Helper()
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer unix.Close(fd)
	interval := unix.NsecToTimespec(every.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: interval, Value: interval}, nil); err != nil {
		t.Error(err)
		return 0
	}
	for ticks := make([]byte, 8); ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		if _, err := unix.Read(fd, ticks); err != nil && !errors.Is(err, unix.EINTR) {
			t.Error(err)
			return n
		}
	}
}
