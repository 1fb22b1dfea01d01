package nettest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

const runbookFile = "../../docs/disaster.md"

// runbook runs what docs/disaster.md tells a person to type, on hosts of the lab.
type runbook struct {
	*site
	lines   map[string]bool   // commands of its sh blocks, and whether they were run
	replace *strings.Replacer // of the paths that are elsewhere in the lab
}

// openRunbook reads the commands of the sections with these titles.
func openRunbook(t *testing.T, s *site, sections ...string) *runbook {
	t.Helper()
	text, err := os.ReadFile(runbookFile)
	must(t, err)
	b := &runbook{site: s, lines: map[string]bool{}, replace: strings.NewReplacer("/var/backups", t.TempDir())}
	section, inside := "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "## "):
			section = strings.TrimPrefix(line, "## ")
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside && line != "" && slices.Contains(sections, section):
			b.lines[line] = false
		}
	}
	t.Cleanup(func() {
		for line, run := range b.lines {
			if !run {
				t.Errorf("%s has %q, and nothing has run it", runbookFile, line)
			}
		}
	})
	return b
}

// types carries out one line of the runbook on a host, as it stands there; edits
// are what the person has to fill in.
func (b *runbook) types(t *testing.T, host, line string, edits ...string) (out string, err error) {
	t.Helper()
	if _, ok := b.lines[line]; !ok {
		t.Fatalf("%s doesn't say %q", runbookFile, line)
	}
	b.lines[line] = true
	h := b.Host(host)
	line = strings.NewReplacer(edits...).Replace(b.replace.Replace(line))
	words := strings.Fields(line)
	command, to, redirected := strings.Cut(line, " > ")
	if redirected {
		words = strings.Fields(command)
	}
	for i, w := range words {
		words[i] = strings.Trim(w, `"`)
	}
	switch {
	case line == "systemctl start had" || line == "systemctl enable --now had":
		return "", h.StartDaemon()
	case line == "systemctl stop had" || line == "systemctl disable --now had":
		if h.Running() {
			b.stop(t, host)
		}
		return "", nil
	case line == "rm -r /var/lib/had":
		return "", os.RemoveAll(h.DataDir())
	case words[0] == "had":
		words = append([]string{hadBinary, words[1], "--config", h.Config()}, rejoin(line, words[2:])...)
	case words[0] == "hactl":
		words = append([]string{hactlBinary, "--socket", h.Socket()}, rejoin(command, words[1:])...)
	default:
		t.Fatalf("the test can't run %q", line)
	}
	for i, w := range words {
		if w == "policy.hcl" || w == "wrong.hcl" {
			words[i] = filepath.Join(h.Dir(), w)
		}
	}
	out, err = h.Exec(within(t), words...)
	if redirected && err == nil {
		err = os.WriteFile(filepath.Join(h.Dir(), to), []byte(out), 0o600)
	}
	return out, err
}

// rejoin puts words in quotes together again.
func rejoin(line string, words []string) []string {
	_, rest, quoted := strings.Cut(line, `"`)
	text, _, _ := strings.Cut(rest, `"`)
	if !quoted {
		return words
	}
	parts := strings.Fields(text)
	for i := range words {
		if words[i] == parts[0] {
			return append(append(append([]string{}, words[:i]...), text), words[i+len(parts):]...)
		}
	}
	return words
}

// must is types for what has to go well, and say these words.
func (b *runbook) must(t *testing.T, host, line string, words ...string) string {
	t.Helper()
	out, err := b.types(t, host, line)
	must(t, err)
	wantWords(t, line, out, words)
	return out
}

// fails is types for what has to be refused.
func (b *runbook) fails(t *testing.T, host, line string, code int, words ...string) {
	t.Helper()
	out, err := b.types(t, host, line)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != code {
		t.Fatalf("%s: %v, want exit code %d\n%s", line, err, code, out)
	}
	wantWords(t, line, out+err.Error(), words)
}

func wantWords(t *testing.T, line, out string, words []string) {
	t.Helper()
	flat := strings.Join(strings.Fields(out), " ")
	for _, w := range words {
		if !strings.Contains(flat, w) {
			t.Errorf("%s doesn't say %q:\n%s", line, w, out)
		}
	}
}

// serves waits until a node says, confirmed, that it owns, and the client is
// answered by it.
func (s *site) serves(t *testing.T, node string) {
	t.Helper()
	s.agrees(t, node, node)
	for _, vip := range s.vips {
		must(t, s.Observer.Await(within(t), vip, node))
	}
	must(t, s.answers(t, node))
}

// neverTwo checks what the observer has seen since the beginning.
func (s *site) neverTwo(t *testing.T) {
	t.Helper()
	for _, vip := range s.vips {
		h, err := s.Observer.History(t.Context(), vip)
		must(t, err)
		if o := h.Overlaps(); len(o) > 0 {
			t.Errorf("%s was on two hosts: %v", vip, o)
		}
	}
}

// endsSaying waits until a daemon that was started ends by itself.
func (s *site) endsSaying(t *testing.T, node string, words ...string) {
	t.Helper()
	h := s.Host(node)
	if err := h.Wait(within(t)); err == nil {
		t.Errorf("had on %s ended as if it had been asked to", node)
	}
	log, err := os.ReadFile(h.Log())
	must(t, err)
	wantWords(t, "had on "+node, string(log), words)
}

// TestMostNodesAreLost destroys two of three and goes through the runbook on the
// third: it owns again, those that were lost come back and are sent away, and at
// the end there are three nodes with the same policy.
func TestMostNodesAreLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: detect})
	b := openRunbook(t, s, "Before it happens", "Most nodes are lost", "Back to three nodes", "A node that was left behind")
	if owner := s.settled(t); owner != "alpha" {
		_, err := s.move(t, owner, "alpha")
		must(t, err)
		eventually(t, "alpha owns", func() error { return s.isOwner(t, "alpha") })
	}
	b.must(t, "beta", "hactl snapshot save /var/backups/had.snapshot --yes", "cluster lab as of entry", "policy version 1")
	b.must(t, "gamma", "hactl snapshot show /var/backups/had.snapshot", "whole: its checksum matches", "policy version 1 of", "alpha held epoch")

	// While a majority is there nothing of it is possible.
	refused(t, s.Host("gamma"), exitFailed, []string{"another"}, hadBinary, "recover", "--config", s.Host("gamma").Config(), "--dry-run")
	s.kill(t, "alpha")
	s.kill(t, "beta")
	s.vacant(t)
	s.says(t, "gamma", []string{"recover"}, exitUsage, "had recover --dry-run")
	b.must(t, "gamma", "systemctl stop had")
	b.must(t, "gamma", "had recover --dry-run", "without alpha, beta", "gamma alone (generation 2)", "policy version 1 of")
	b.fails(t, "gamma", "had recover", exitUsage, "nobody can be asked: give --lost alpha --lost beta --yes")
	b.must(t, "beta", "systemctl disable --now had") // as on another node that is left
	config := s.Host("gamma").Config()
	refused(t, s.Host("gamma"), exitUsage, []string{"--lost beta, too"}, hadBinary, "recover", "--config", config, "--lost", "alpha", "--yes")
	refused(t, s.Host("gamma"), exitUsage, []string{"the other members are alpha, beta"}, hadBinary, "recover", "--config", config, "--lost", "delta", "--yes")

	// One that runs isn't lost.
	must(t, s.Host("beta").StartDaemon())
	eventually(t, "beta listens", func() error {
		c, err := s.Host("gamma").DialContext(t.Context(), "tcp", s.Host("beta").ClusterPort())
		if err == nil {
			err = c.Close()
		}
		return err
	})
	line := `had recover --lost alpha --lost beta --reason "fire in room 2" --yes`
	b.fails(t, "gamma", line, exitFailed, "something answers there, so it isn't lost")
	s.kill(t, "beta")
	b.must(t, "gamma", line, "gamma is generation 2 of its cluster, alone")
	b.must(t, "gamma", "systemctl start had")
	b.must(t, "gamma", "hactl wait --for owner=gamma")
	s.serves(t, "gamma")
	b.must(t, "gamma", "hactl status", "gamma", "had.hcl doesn't list the nodes as they are")
	s.says(t, "gamma", []string{"history"}, 0, "RECOVERED on gamma alone, without alpha, beta: generation 2", "fire in room 2")
	b.must(t, "gamma", "hactl snapshot save /var/backups/had-recovered.snapshot")
	s.says(t, "gamma", []string{"snapshot", "restore", b.replace.Replace("/var/backups/had.snapshot")}, 0, "policy version 1 the same")

	// Both come back, a majority of what was.
	for _, node := range []string{"alpha", "beta"} {
		must(t, s.Host(node).StartDaemon())
	}
	for _, node := range []string{"alpha", "beta"} {
		s.endsSaying(t, node, `belongs to the cluster \"lab\" as it was before it was recovered on`, "empty its data folder")
		refusesToRun(t, s.Host(node), "refused for good by ", "Stop had on "+node+", empty its data folder")
	}
	s.serves(t, "gamma")
	s.neverTwo(t)

	// Back to three.
	since := time.Now()
	epoch := s.openEpoch(t, "gamma")
	for _, node := range []string{"alpha", "beta"} {
		b.must(t, node, "rm -r /var/lib/had")
		b.must(t, node, "systemctl enable --now had")
		s.says(t, node, []string{"status"}, 0, node+" isn't a member")
	}
	for _, add := range []struct{ node, line, address, words string }{
		{"alpha", "hactl node add alpha --address 10.0.0.11:7400", "10.0.0.11:7400", "together with a third node"},
		{"beta", "hactl node add beta --address 10.0.0.12:7400", "10.0.0.12:7400", "beta is a member and votes"},
	} {
		out, err := b.types(t, "gamma", add.line, add.address, s.Host(add.node).ClusterPort())
		must(t, err)
		wantWords(t, add.line, out, []string{add.words})
	}
	s.voters(t, "alpha", "alpha", "beta", "gamma")
	b.must(t, "gamma", "hactl wait --for healthy")
	b.must(t, "gamma", "hactl node list", "alpha", "beta")
	if owner := s.settled(t); owner != "gamma" || s.epoch(t) != epoch {
		t.Errorf("%s owns in epoch %d; gamma did in epoch %d", owner, s.epoch(t), epoch)
	}
	for _, vip := range s.vips {
		if h := s.neverTwoHolders(t, vip, since); !slices.Equal(h.Holders(), []string{"gamma"}) {
			t.Errorf("%s moved while alpha and beta came back: %v", vip, h)
		}
	}
	// They are of use: gamma dies, and one of them goes on.
	s.kill(t, "gamma")
	s.takenOver(t, "gamma")
	s.neverTwo(t)
}

// isOwner returns an error unless every node says that it owns.
func (s *site) isOwner(t *testing.T, node string) error {
	t.Helper()
	owner, err := s.agreed(t)
	if err == nil && owner != node {
		err = errors.New(owner + " owns")
	}
	return err
}

// savedID is the ID of a file's cluster, as a person would type it.
func savedID(t *testing.T, s *site, file string) string {
	t.Helper()
	out, code := s.hactl(t, s.Servers()[0].Name, "snapshot", "show", file)
	_, id, ok := strings.Cut(out, "ID ")
	if code != 0 || !ok {
		t.Fatalf("hactl snapshot show: %d\n%s", code, out)
	}
	return id[:8]
}

// TestAllNodesAreLost restores a saved state on a wholly new cluster.
func TestAllNodesAreLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Detect: steady})
	b := openRunbook(t, s, "All nodes are lost", "The policy is wrong")
	owner := s.settled(t)
	spare := s.others(owner)[0]
	s.says(t, spare, []string{"drain", spare}, 0)
	file := b.replace.Replace("/var/backups/had.snapshot")
	s.says(t, owner, []string{"snapshot", "save", file}, 0, "policy version 1")
	s.says(t, owner, []string{"snapshot", "save", file}, 3, "is there already: --yes replaces it")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info, err)
	}

	// The policy is wrong, and the saved one is put back.
	s.apply(t, owner, s.policy(s.vips...)+"# wrong\n")
	b.must(t, owner, "hactl policy show > wrong.hcl")
	b.must(t, owner, "hactl snapshot show /var/backups/had.snapshot --policy > policy.hcl")
	b.must(t, owner, `hactl policy apply policy.hcl --yes --reason "as it was yesterday"`, "policy version 3 is in force")
	epoch := s.epoch(t)
	s.apply(t, owner, s.policy(s.vips...)+"# wrong again\n")
	s.gap(t, "the restore of a snapshot", func() {
		s.says(t, spare, []string{"snapshot", "restore", file, "--yes"}, 0, "drain of "+spare+" the same", "policy version 1 restored: as version 5")
		s.settled(t)
	})
	if now := s.epoch(t); now != epoch {
		t.Errorf("the restore made epoch %d out of %d", now, epoch)
	}

	for _, h := range s.Servers() {
		s.kill(t, h.Name)
	}
	s.vacant(t)
	anew := time.Now()
	for _, h := range s.Servers() {
		must(t, os.RemoveAll(h.DataDir()))
		b.must(t, h.Name, "systemctl start had")
	}
	for _, h := range s.Servers() {
		eventually(t, h.Name+" is born anew", func() error {
			st, err := s.status(t, h.Name)
			if err == nil && st.GetOwnership().GetState() != hadv1.Ownership_STATE_NO_POLICY {
				err = describe(st)
			}
			return err
		})
	}
	b.must(t, owner, "hactl status", "no policy")
	b.must(t, owner, "hactl snapshot show /var/backups/had.snapshot", "cluster lab, ID ")
	b.fails(t, owner, "hactl snapshot restore /var/backups/had.snapshot --dry-run", 3, "If that one is gone")
	s.says(t, owner, []string{"snapshot", "restore", file, "--replaces", "00000000", "--yes"}, 3, "the snapshot is of the cluster with the ID")
	out, err := b.types(t, owner, "hactl snapshot restore /var/backups/had.snapshot --replaces OLD_ID --yes", "OLD_ID", savedID(t, s, file))
	must(t, err)
	wantWords(t, "restore", out, []string{"drain of " + spare + " restored", "policy version 1 restored: as version 1"})
	if got := s.settled(t); got == spare {
		t.Errorf("%s owns and was drained", spare)
	}
	s.says(t, owner, []string{"snapshot", "restore", file, "--yes", "--replaces", savedID(t, s, file)}, 0, "drain of "+spare+" the same", "policy version 1 the same")
	s.says(t, owner, []string{"undrain", spare}, 0)
	b.must(t, owner, "hactl wait --for healthy")
	b.must(t, owner, "hactl snapshot show /var/backups/had.snapshot --policy > policy.hcl")
	b.must(t, owner, "hactl policy apply policy.hcl", "is unchanged")
	s.says(t, owner, []string{"snapshot", "restore", file, "--yes", "--replaces", savedID(t, s, file)}, 0, "drain of "+spare+" not restored: it isn't drained here")
	events, err := s.history(t, owner)
	must(t, err)
	for _, e := range events {
		if e.GetEpoch() > 0 && e.GetAt().AsTime().Before(anew) {
			t.Errorf("an old event came back: %v", e)
		}
	}
	s.neverTwo(t)
}

// TestVolumesOfALostOwner gives up an owner with volumes whose host is off: the
// person's word is in the log as evidence about its epoch, the survivor mounts, and
// what the owner had synced is there.
func TestVolumesOfALostOwner(t *testing.T) {
	t.Parallel()
	s := newVolumeSite(t, lab.Config{Detect: volumeDetect}, "confirm")
	owner := s.allSettled(t)
	survivor, other := s.others(owner)[0], s.others(owner)[1]
	for _, node := range []string{owner, other} {
		must(t, s.Host(node).PowerOff(within(t)))
	}
	epoch := s.openEpoch(t, survivor)
	s.stop(t, survivor)
	h := s.Host(survivor)
	out, err := h.Exec(within(t), hadBinary, "recover", "--config", h.Config(), "--lost", owner, "--lost", other, "--yes")
	must(t, err)
	wantWords(t, "had recover", out, []string{"of " + owner + " since", "data (", "more ("})
	must(t, h.StartDaemon())
	s.serves(t, survivor)
	s.mounted(t, survivor)
	s.nobodyMountsBut(t, survivor)
	events, err := s.history(t, survivor)
	must(t, err)
	if !slices.ContainsFunc(events, func(e *hadv1.Event) bool {
		return e.GetEpoch() == epoch && e.GetSecured().GetKind() == hadv1.Secured_KIND_CONFIRMED && e.GetNode() == owner
	}) {
		t.Errorf("nobody has confirmed epoch %d of %s", epoch, owner)
	}
	s.neverTwo(t)
	for _, v := range s.volumes {
		turns, _, err := s.mounts.Turns(v.Name)
		must(t, err)
		for _, o := range lab.MountOverlaps(turns) {
			t.Errorf("two hosts had volume %s at once: %s", v.Name, o)
		}
		notes := s.notes(t, v.Name)
		text, err := h.Exec(t.Context(), "cat", filepath.Join(v.Path(), "stamps"))
		must(t, err)
		for _, wrong := range judgeStamps(text, notes) {
			t.Errorf("volume %s: %s", v.Name, wrong)
		}
	}
}

// openEpoch is the latest epoch that a node knows of.
func (s *site) openEpoch(t *testing.T, node string) uint64 {
	t.Helper()
	events, err := s.history(t, node)
	must(t, err)
	for _, e := range slices.Backward(events) {
		if e.GetAcquired() != nil {
			return e.GetEpoch()
		}
	}
	t.Fatalf("nobody has ever owned, says %s", node)
	return 0
}
