package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBeatsFallTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock begins at a whole second
		for _, c := range []struct{ now, wait time.Duration }{
			{0, 2 * time.Second},
			{time.Millisecond, 1999 * time.Millisecond},
			{1750 * time.Millisecond, 250 * time.Millisecond},
			{1751 * time.Millisecond, 2249 * time.Millisecond},
			{1999 * time.Millisecond, 2001 * time.Millisecond},
			{2 * time.Second, 2 * time.Second},
		} {
			time.Sleep(time.Until(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(c.now)))
			if wait := UntilBeat(2 * time.Second); wait != c.wait {
				t.Errorf("after %v: %v, want %v", c.now, wait, c.wait)
			}
		}
	})
}
