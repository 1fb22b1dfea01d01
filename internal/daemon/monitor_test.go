package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheMonitorThreadGetsItsSlack(t *testing.T) {
	if err := calmMonitor(); err != nil {
		t.Fatal(err)
	}
	monitor, err := firstThread()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", monitor))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(b)), fmt.Sprint(monitorSlack.Nanoseconds()); got != want {
		t.Errorf("its slack is %s ns, want %s", got, want)
	}
	main, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if string(main) == string(b) {
		t.Error("the main thread got it, too: renewals would be late")
	}
}
