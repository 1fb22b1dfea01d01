package nettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
)

// Exit codes of had.
const (
	exitFailed = 1
	exitUsage  = 2
)

// refused runs a command on a host that must fail with this code, say these
// words and show no stack trace.
func refused(t *testing.T, h *lab.Host, code int, words []string, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := h.Exec(ctx, argv...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Fatalf("%v ended with %v, want exit code %d", argv, err, code)
	}
	said := err.Error()
	noTrace(t, said)
	for _, word := range words {
		if !strings.Contains(said, word) {
			t.Errorf("it doesn't say %q:\n%s", word, said)
		}
	}
}

func noTrace(t *testing.T, said string) {
	t.Helper()
	for _, trace := range []string{"goroutine ", "panic:", "runtime error", "SIGSEGV", "SIGBUS"} {
		if strings.Contains(said, trace) {
			t.Errorf("a stack trace reached the user:\n%s", said)
		}
	}
}

// refusesToRun runs the daemon, which must end by itself.
func refusesToRun(t *testing.T, h *lab.Host, words ...string) {
	t.Helper()
	refused(t, h, exitFailed, words, hadBinary, "run", "--config", h.Config())
}

// raftLog is the log's first segment.
const raftLog = "raft/log/0000000000000001.wal"

func TestDataFolderThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})
	s.fullHistory(t)
	h := s.Host("gamma")
	s.stop(t, h.Name)
	whole := filepath.Join(t.TempDir(), "data")
	must(t, os.CopyFS(whole, os.DirFS(h.DataDir())))
	in := func(name string) string { return filepath.Join(h.DataDir(), name) }
	config, err := os.ReadFile(h.Config())
	must(t, err)
	restore := func(t *testing.T) {
		t.Helper()
		must(t, os.RemoveAll(h.DataDir()))
		must(t, os.CopyFS(h.DataDir(), os.DirFS(whole)))
		must(t, os.WriteFile(h.Config(), config, 0o600))
	}

	for _, c := range []struct {
		name  string
		harm  func(t *testing.T)
		words []string
	}{
		{"identity flipped", func(t *testing.T) { flip(t, in("identity.json"), "node_id") }, []string{in("identity.json")}},
		{"identity truncated", func(t *testing.T) { truncate(t, in("identity.json")) }, []string{in("identity.json")}},
		{"identity lost", func(t *testing.T) { must(t, os.Remove(in("identity.json"))) }, []string{h.DataDir(), "identity"}},
		{"journal flipped", func(t *testing.T) { flip(t, in("journal.db"), "") }, []string{in("journal.db"), "damaged"}},
		{"journal truncated", func(t *testing.T) { truncate(t, in("journal.db")) }, []string{in("journal.db"), "damaged"}},
		{"raft log flipped", func(t *testing.T) { flip(t, in(raftLog), "") }, []string{in(raftLog), "damaged"}},
		{"journal's pages too long", func(t *testing.T) { stretch(t, in("journal.db")) }, []string{in("journal.db"), "damaged"}},
		{"votes' pages too long", func(t *testing.T) { stretch(t, in("raft/raft-vote.db")) }, []string{in("raft/raft-vote.db"), "damaged"}},
		{"raft log's entry flipped", func(t *testing.T) { flip(t, in(raftLog), "10.77.0.100") }, []string{in(raftLog), "damaged"}},
		{"raft log truncated", func(t *testing.T) { truncate(t, in(raftLog)) }, []string{in(raftLog), "damaged"}},
		{"raft log lost", func(t *testing.T) { must(t, os.Remove(in(raftLog))) }, []string{in(raftLog), "damaged"}},
		{"votes flipped", func(t *testing.T) { flip(t, in("raft/raft-vote.db"), "") }, []string{in("raft/raft-vote.db"), "damaged"}},
		{"votes truncated", func(t *testing.T) { truncate(t, in("raft/raft-vote.db")) }, []string{in("raft/raft-vote.db"), "damaged"}},
		{"votes lost", func(t *testing.T) { must(t, os.Remove(in("raft/raft-vote.db"))) }, []string{in("raft/raft-vote.db")}},
		{"raft folder lost", func(t *testing.T) { must(t, os.RemoveAll(in("raft"))) }, []string{in("raft")}},
		{"another node's", func(t *testing.T) {
			must(t, os.RemoveAll(h.DataDir()))
			must(t, os.CopyFS(h.DataDir(), os.DirFS(s.Host("alpha").DataDir())))
		}, []string{h.DataDir(), `"alpha"`, `"gamma"`}},
		{"another cluster's", func(t *testing.T) { replace(t, h.Config(), `cluster "lab"`, `cluster "office"`) }, []string{h.DataDir(), `"lab"`, `"office"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer restore(t)
			c.harm(t)
			refusesToRun(t, h, c.words...)
		})
	}

	// Without anything it is a new node, which waits to be added.
	t.Run("emptied", func(t *testing.T) {
		defer restore(t)
		must(t, os.RemoveAll(h.DataDir()))
		must(t, h.StartDaemon())
		defer s.kill(t, h.Name)
		eventually(t, "it is told that it gets no vote", func() error { return has(h.Log(), "and it gets no vote") })
	})
	// The members are in the log: had.hcl may be wrong.
	t.Run("with other members", func(t *testing.T) {
		defer func() { must(t, os.WriteFile(h.Config(), config, 0o600)) }() // what it has acknowledged stays
		replace(t, h.Config(), `node "beta"`, `node "delta"`)
		must(t, h.StartDaemon())
		defer s.stop(t, h.Name)
		eventually(t, "it says that had.hcl differs", func() error {
			st, err := s.status(t, h.Name)
			if err == nil && !strings.Contains(strings.Join(st.GetWarnings(), "\n"), "had.hcl doesn't list the nodes as they are") {
				err = fmt.Errorf("its warnings: %q", st.GetWarnings())
			}
			return err
		})
	})
	// Refusing has lost nothing: with its own folder the node is back.
	s.mend(t)
	s.judge(t, time.Time{})
}

// A node that was born elsewhere, in a cluster of the same name with members
// of the same names, is a stranger.
func TestNodeOfAnotherBirth(t *testing.T) {
	t.Parallel()
	elsewhere := newIdleSite(t, lab.Config{Detect: steady})
	stranger := filepath.Join(t.TempDir(), "data")
	elsewhere.stop(t, "gamma")
	must(t, os.CopyFS(stranger, os.DirFS(elsewhere.Host("gamma").DataDir())))
	must(t, elsewhere.Close())

	s := newSite(t, lab.Config{Detect: steady})
	h := s.Host("gamma")
	s.stop(t, h.Name)
	own := filepath.Join(t.TempDir(), "data")
	must(t, os.Rename(h.DataDir(), own))
	must(t, os.Rename(stranger, h.DataDir()))
	refusesToRun(t, h, "refuses this node", "cluster")
	must(t, os.RemoveAll(h.DataDir()))
	must(t, os.Rename(own, h.DataDir()))
	s.mend(t)
	s.judge(t, time.Time{})
}

func TestHostThatCannotRunHad(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})
	h := s.Host(s.settled(t))

	t.Run("a second had on the same folder", func(t *testing.T) {
		refusesToRun(t, h, h.DataDir(), "another had is running")
	})
	t.Run("the port is in use", func(t *testing.T) {
		config := edited(t, h, h.DataDir(), filepath.Join(t.TempDir(), "data"))
		refused(t, h, exitFailed, []string{h.V4.String() + ":7400", "in use"}, hadBinary, "run", "--config", config)
	})
	t.Run("the file is wrong", func(t *testing.T) {
		config := edited(t, h, "data_dir", "data_dri")
		refused(t, h, exitUsage, []string{config + ":", "^^^", `"data_dir"`}, hadBinary, "run", "--config", config)
		refused(t, h, exitUsage, []string{"nowhere.hcl", "--config"}, hadBinary, "run", "--config", "nowhere.hcl")
	})
	t.Run("a privilege is missing", func(t *testing.T) {
		for _, c := range []string{"net_admin", "net_raw"} {
			config := edited(t, h, h.DataDir(), filepath.Join(t.TempDir(), "data"))
			refused(t, h, exitFailed, []string{"CAP_" + strings.ToUpper(c), "root"},
				"setpriv", "--bounding-set=-"+c, "--inh-caps=-"+c, hadBinary, "run", "--config", config)
		}
	})
	t.Run("release --local while it runs", func(t *testing.T) {
		refused(t, h, exitFailed, []string{"another had is running"}, hadBinary, "release", "--local", "--config", h.Config())
		s.settled(t)
	})
	t.Run("release --local after a crash", func(t *testing.T) {
		s.kill(t, h.Name)
		// Here, outside the host's namespace, nothing of it can be seen.
		out, err := exec.CommandContext(within(t), hadBinary, "release", "--local", "--config", h.Config()).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "network namespace") {
			t.Errorf("run in another network namespace it said %q (%v)", out, err)
		}
		_, err = h.Exec(within(t), hadBinary, "release", "--local", "--config", h.Config())
		must(t, err)
		for _, vip := range s.vips {
			history, err := s.Observer.History(within(t), vip)
			must(t, err)
			if slices.Contains(history.Holders(), h.Name) {
				t.Errorf("%s still has %s:\n%s", h.Name, vip, history)
			}
		}
		_, err = h.Exec(within(t), hadBinary, "release", "--local", "--config", h.Config())
		must(t, err)
	})
	s.mend(t)
	s.judge(t, time.Time{})
}

// edited returns a copy of a host's had.hcl with one text replaced.
func edited(t *testing.T, h *lab.Host, before, after string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "had.hcl")
	text, err := os.ReadFile(h.Config())
	must(t, err)
	must(t, os.WriteFile(config, text, 0o600))
	replace(t, config, before, after)
	return config
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{})
	h := s.Host("gamma")
	s.stop(t, h.Name)

	t.Run("of a new node", func(t *testing.T) {
		small := t.TempDir()
		exec := func(argv ...string) {
			_, err := h.Exec(within(t), argv...)
			must(t, err)
		}
		exec("mount", "-t", "tmpfs", "-o", "size=16k", "had-test", small)
		refused(t, h, exitFailed, []string{small, "no space left"}, hadBinary, "run", "--config", edited(t, h, h.DataDir(), small))
		exec("umount", small)
	})

	t.Run("of the owner, while it serves", func(t *testing.T) {
		// Only processes of the host see what is mounted there.
		_, err := h.Exec(within(t), "sh", "-ec", `
			cp -a "$1" "$1.whole"
			mount -t tmpfs -o size=6m had-test "$1"
			cp -a "$1.whole/." "$1"`, "sh", h.DataDir())
		must(t, err)
		must(t, h.StartDaemon())
		if owner := s.settled(t); owner != h.Name {
			s.moveTo(t, owner, h.Name)
			s.takenOver(t, owner)
		}
		_, err = h.Exec(within(t), "sh", "-c", `dd if=/dev/zero of="$1/filler" bs=4k status=none`, "sh", h.DataDir())
		if err == nil || !strings.Contains(err.Error(), "No space left") {
			t.Fatalf("the disk could not be filled: %v", err)
		}
		// The log has room of its own for some minutes of renewals, but not for
		// this.
		s.apply(t, "alpha", s.policy(s.vips...)+strings.Repeat("# in other words\n", 40_000))
		s.takenOver(t, h.Name)
		eventually(t, "status says that its disk is full", func() error {
			n, err := s.nodeStatus(t, "alpha", h.Name)
			if err == nil && !strings.Contains(strings.Join(n.GetProblems(), "\n"), "no space left") {
				err = fmt.Errorf("its problems: %q", n.GetProblems())
			}
			return err
		})
		log, err := os.ReadFile(h.Log())
		must(t, err)
		noTrace(t, string(log))
		_, err = h.Exec(within(t), "rm", filepath.Join(h.DataDir(), "filler"))
		must(t, err)
		s.judge(t, time.Time{})
	})
}

// flip damages every place in a file where the text is; with "" the start of
// each of its pages.
func flip(t *testing.T, path, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	if text != "" {
		if !bytes.Contains(data, []byte(text)) {
			t.Fatalf("%s doesn't contain %q", path, text)
		}
		data = bytes.ReplaceAll(data, []byte(text), bytes.ToUpper([]byte("~"+text[1:])))
	} else {
		for i := 0; i < len(data); i += os.Getpagesize() {
			for j := range 64 {
				data[i+j] ^= 0xff
			}
		}
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// stretch makes each page of a bbolt file, but for the two that lead to the
// others, say that billions of pages belong to it. bbolt, if it is let, counts
// them until memory is gone.
func stretch(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	for i := 2 * os.Getpagesize(); i < len(data); i += os.Getpagesize() {
		copy(data[i+12:], "\xff\xff\xff\xff")
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// truncate leaves the first quarter of a file. bbolt doubles its files ahead
// of need, so the second half of one may never have been used, and a file
// without it has lost nothing.
func truncate(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()/4))
}

// replace edits a file.
func replace(t *testing.T, path, before, after string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Contains(text, []byte(before)) {
		t.Fatalf("%s doesn't contain %q", path, before)
	}
	must(t, os.WriteFile(path, bytes.ReplaceAll(text, []byte(before), []byte(after)), 0o600))
}
