package nettest

import (
	"fmt"
	"os"
	"testing"

	"had/internal/lab"
)

// plugIn plugs all servers into a power strip.
func plugIn(t *testing.T, s *site) *lab.Strip {
	t.Helper()
	strip, err := s.PowerStrip()
	must(t, err)
	t.Cleanup(func() {
		if err := strip.Close(); err != nil {
			t.Error(err)
		}
	})
	return strip
}

// power is a program that switches hosts off: see lab.AskStrip.
func power(args []string) int {
	if err := lab.AskStrip(args[0], args[1], args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
