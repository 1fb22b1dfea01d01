package nettest

import (
	"strings"
	"testing"

	"had/internal/lab"
)

// A policy that counts on reservations, where the disks have none: the nodes say so
// at once, before one has to own, and the owner, whose epoch counts on a person,
// goes on. (What reservations do is in internal/vmtest.)
func TestDisksWithoutReservations(t *testing.T) {
	t.Parallel()
	s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "confirm")
	owner := s.allSettled(t)
	s.methods = []string{"reservation", "confirm"}
	s.apply(t, owner, s.volumePolicy())
	for _, node := range s.others(owner) {
		s.saysWhyNot(t, node, `can't be fenced by "reservation" here`)
		if _, err := s.move(t, owner, node); err == nil || !strings.Contains(err.Error(), "it has no SCSI-3 persistent reservations") {
			t.Errorf("a move to %s: %v", node, err)
		}
	}
	s.mounted(t, owner)
	s.methods = []string{"confirm"}
	s.apply(t, owner, s.volumePolicy())
	next := s.others(owner)[0]
	s.moveTo(t, owner, next)
	s.mounted(t, next)
	s.areClean(t)
}
