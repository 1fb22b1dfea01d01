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
