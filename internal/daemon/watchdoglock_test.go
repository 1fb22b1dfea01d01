package daemon

import (
	"path/filepath"
	"strings"
	"testing"

	"had/internal/policy"
)

// One watchdog serves one cluster, by whichever of its names it is called.
func TestAWatchdogServesOneCluster(t *testing.T) {
	dir := t.TempDir()
	file := func(cluster, device string) *policy.NodeFile {
		return &policy.NodeFile{
			Cluster: cluster, Node: "alpha", Members: []policy.Member{{Name: "alpha"}},
			Socket: filepath.Join(dir, cluster+".sock"), Watchdog: policy.Watchdog{Device: device},
		}
	}
	if err := WatchdogTaken(file("shop", "/dev/watchdog0")); err != nil {
		t.Error(err)
	}
	release, err := takeWatchdog(file("office", "/dev/watchdog"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = takeWatchdog(file("shop", "/dev/watchdog0"))
	if err == nil || !strings.Contains(err.Error(), `the cluster "office" on this host has it`) {
		t.Errorf("two clusters have one watchdog: %v", err)
	}
	if err := WatchdogTaken(file("shop", "/dev/watchdog0")); err == nil {
		t.Error("had validate would say nothing")
	}
	if err := WatchdogTaken(file("office", "/dev/watchdog0")); err != nil {
		t.Errorf("a cluster's own: %v", err)
	}
	for _, f := range []*policy.NodeFile{file("shop", "/dev/watchdog1"), file("shop", "")} {
		free, err := takeWatchdog(f)
		if err != nil {
			t.Error(err)
		} else if err := free(); err != nil {
			t.Error(err)
		}
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	release, err = takeWatchdog(file("shop", "/dev/watchdog0"))
	if err != nil {
		t.Fatal(err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
