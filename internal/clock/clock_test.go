package clock

import (
	"strings"
	"testing"
)

func TestNowAdvances(t *testing.T) {
	a := Now()
	b := Now()
	if b.Before(a) {
		t.Fatalf("CLOCK_BOOTTIME went back from %v to %v", a, b)
	}
	if a.Add(b.Sub(a)) != b {
		t.Fatal("Add and Sub disagree")
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Fatalf("BootID() = %q, %v; want a UUID", id, err)
	}
}

func TestOffsetsOfATimeNamespace(t *testing.T) {
	if err := checkOffsets("monotonic           0         0\nboottime            0         0\n"); err != nil {
		t.Errorf("no offset was refused: %v", err)
	}
	err := checkOffsets("monotonic           0         0\nboottime      3600         5\n")
	if err == nil || !strings.Contains(err.Error(), "time namespace") {
		t.Errorf("an offset of an hour was accepted: %v", err)
	}
}

func TestSlewOfATimeDaemon(t *testing.T) {
	for _, c := range []struct {
		tick, freq int64
		want       float64
	}{
		{10_000, 0, 0},
		{10_000, 500 << 16, 5e-4}, // the most that freq can say
		{10_833, 0, 0.0833},       // chrony's default maxslewrate
		{9_167, 0, -0.0833},
	} {
		if got := slew(c.tick, c.freq); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("slew(%d, %d) = %g, want %g", c.tick, c.freq, got, c.want)
		}
	}
	if s, err := Slew(); err != nil || s < -0.1 || s > 0.1 {
		t.Errorf("Slew() = %g, %v: not what a kernel accepts", s, err)
	}
}
