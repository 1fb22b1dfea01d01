package nettest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"had/internal/lab"
)

// bundled makes a support bundle on a host and returns what is printed and the folder
// into which it is unpacked.
func bundled(t *testing.T, h *lab.Host, args ...string) (said, dir string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	said, err := h.Exec(within(t), append([]string{hactlBinary, "support-bundle", "-o", file}, args...)...)
	must(t, err)
	dir = t.TempDir()
	out, err := exec.CommandContext(t.Context(), "tar", "-xzf", file, "-C", dir, "--strip-components=1").CombinedOutput()
	if err != nil {
		t.Fatalf("unpack a bundle: %v\n%s", err, out)
	}
	return said, dir
}

// holds expects words in files of a bundle.
func holds(t *testing.T, dir string, words map[string]string) {
	t.Helper()
	for name, want := range words {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s of the bundle doesn't say %q (%v):\n%.2000s", name, want, err, text)
		}
	}
}

// bundlesAfterACrash gathers on the node that crashed and on one that saw it.
func (s *site) bundlesAfterACrash(t *testing.T, crashed, owner string) {
	t.Helper()
	dead, alive := s.Host(crashed), s.Host(owner)
	said, dir := bundled(t, dead, "--socket", dead.Socket(), "--config", dead.Config())
	if !strings.Contains(said, "Its daemon could not be asked: nobody listens on ") || !strings.Contains(said, "cluster lab, node "+crashed) {
		t.Errorf("without a daemon the bundle says:\n%s", said)
	}
	holds(t, dir, map[string]string{
		"cluster/status.txt": "had isn't running here, and this host holds none of its addresses", "host/node.hcl": `cluster "lab"`,
		"host/addresses.txt": "eth0", "host/facts.txt": "Linux version", "manifest.json": "the rest of cluster/",
	})

	_, dir = bundled(t, alive, "--socket", alive.Socket(), "--config", alive.Config())
	holds(t, dir, map[string]string{
		"cluster/status.json": `"owner": "` + owner + `"`, "cluster/history.txt": "had died while it owned", "cluster/why.txt": "Nobody had the addresses for",
		"cluster/history.jsonl": `"hook":{`, "cluster/policy.hcl": "10.77.0.100", "cluster/timing.txt": "takeover wait", "cluster/nodes.json": crashed,
		"cluster/preflight.txt": crashed + ": NOT ready", "cluster/why-not-" + crashed + ".txt": crashed + " can't take over", "cluster/hooks.txt": "PostAcq",
		"host/addresses.txt": "10.77.0.100", "host/qdiscs.txt": "clsact", "host/filters.txt": "bpf", "host/mounts.txt": " / ", "README.txt": "cluster lab, node " + owner,
	})

	// A disk without room: an error, and nothing left behind.
	out, err := alive.Exec(within(t), "unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=8k none /mnt &&
		{ "$0" support-bundle --socket "$1" -o /mnt/b.tar.gz; code=$?; ls -A /mnt; exit $code; }`, hactlBinary, alive.Socket())
	exit, _ := errors.AsType[*exec.ExitError](err)
	if exit == nil || exit.ExitCode() != 1 || !strings.Contains(err.Error(), "no space left on device") || strings.Contains(out, "b.tar") {
		t.Errorf("on a full disk: %v, and there is %q", err, out)
	}
}
