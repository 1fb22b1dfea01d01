package nettest

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// stormVariable lengthens the storm, in seconds.
const stormVariable = "HAD_TEST_STORM"

// TestStorm lets faults strike at random, one on top of the other and without
// waiting for the cluster to recover. What must hold in every scenario must
// hold after it, too.
func TestStorm(t *testing.T) {
	t.Parallel()
	length := 8 * time.Second
	if text := os.Getenv(stormVariable); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		length = time.Duration(n) * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("the faults' seed is %d; the machine's timing can't be repeated", seed)
	s := newSite(t, lab.Config{})
	since := time.Now()
	w := &weather{site: s, rand: rand.New(rand.NewPCG(seed, 0))}
	for time.Since(since) < length {
		w.strike(t)
		w.pause(t)
	}
	w.calm(t)
	s.judge(t, since)
}

// weather strikes a site with random faults.
type weather struct {
	*site
	rand    *rand.Rand
	stopped []*lab.Process // daemons told to end, which may take a while
}

// calm ends the storm: every fault is mended and every daemon runs, also those
// that were still about to end.
func (w *weather) calm(t *testing.T) {
	t.Helper()
	w.mend(t)
	for _, p := range w.stopped {
		<-p.Done()
	}
	w.mend(t)
}

// pause waits for a time in which a lease or an election may or may not end.
func (w *weather) pause(t *testing.T) {
	timer := time.NewTimer(time.Duration(w.rand.Int64N(int64(3 * detect))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// strike makes one fault or ends some. What can't be done just now, such as a
// signal to a daemon that has ended, is no fault.
func (w *weather) strike(t *testing.T) {
	t.Helper()
	servers := w.Servers()
	a := servers[w.rand.IntN(len(servers))]
	b := servers[w.rand.IntN(len(servers))]
	switch w.rand.IntN(14) {
	case 0:
		must(t, w.Isolate(a.Name))
	case 1:
		must(t, w.SplitServers())
	case 2:
		must(t, w.Cut(a.Name, b.Name))
	case 3:
		must(t, w.Loss(a.Name, b.Name, 30))
	case 4:
		must(t, w.LinkDown(a.Name))
	case 5:
		_ = a.Pause()
	case 6:
		_ = a.Kill(syscall.SIGKILL)
	case 7:
		_ = a.Kill(syscall.SIGTERM)
		w.stopped = append(w.stopped, a.Daemon())
	case 8:
		vip := w.vips[w.rand.IntN(len(w.vips))]
		_ = a.DelAddress(netip.PrefixFrom(vip, vip.BitLen()))
	case 9:
		must(t, w.Heal())
		_ = a.Resume()
		w.moveSomehow(t, a.Name, b.Name)
	default: // as often as all faults together, or nobody would ever own
		w.mend(t)
	}
}

// moveSomehow asks for a move and doesn't wait for long: most are refused.
func (w *weather) moveSomehow(t *testing.T, asked, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), detect)
	defer cancel()
	_ = w.askUntil(ctx, t, asked, func(ctx context.Context, ha hadv1.HAClient) error {
		_, err := ha.Move(ctx, &hadv1.MoveRequest{Target: target, By: "the test", Operation: strconv.FormatUint(w.rand.Uint64(), 16)})
		return err
	})
}
