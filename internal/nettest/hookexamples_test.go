package nettest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"had/internal/lab"
)

// TestMigrationFromKeepalived imports the keepalived.conf of the example, for
// the lab's addresses, and runs what comes of it: the node file, the policy and
// the hook folder, which calls keepalived's old script.
func TestMigrationFromKeepalived(t *testing.T) {
	t.Parallel()
	s := &site{
		Lab:  newLab(t, lab.Config{Witnesses: []string{"gamma"}}),
		vips: lab.DefaultVIPs(), clients: map[netip.Addr]*lab.Client{},
	}
	dir := t.TempDir()
	ledger, script := filepath.Join(dir, "failover.log"), filepath.Join(dir, "notify.sh")
	here := strings.NewReplacer(
		"10.0.0.100/24", s.vips[0].String()+"/24", "2001:db8::100/64", s.vips[1].String()+"/64",
		"10.0.0.11", s.Host("alpha").V4.String(), "10.0.0.12", s.Host("beta").V4.String(),
		"/etc/keepalived/notify.sh", script, "/var/log/failover.log", ledger,
	)
	conf := filepath.Join(dir, "keepalived.conf")
	copyExample(t, filepath.Join(examples, "keepalived", "keepalived.conf"), conf, here, 0o644)
	copyExample(t, filepath.Join(examples, "keepalived", "notify.sh"), script, here, 0o755)

	out := filepath.Join(dir, "had")
	runOrFail(t, hactlBinary, "import", "keepalived", conf, "--cluster", "web", "--out", out,
		"--hooks", filepath.Join(out, "hooks"), "--witness", "gamma="+s.Host("gamma").V4.String())
	nodeFile, err := os.ReadFile(filepath.Join(out, "had.hcl"))
	must(t, err)
	// The example's owner must not change by itself on a machine that stalls.
	text := strings.Replace(string(nodeFile), `"500ms"`, fmt.Sprintf("%q", steady), 1)
	for _, h := range s.Servers() {
		own := fmt.Sprintf("node = %q\ndata_dir = %q\nsocket = %q\ntls {\n  insecure = true\n}\n", h.Name, h.DataDir(), h.Socket())
		must(t, os.WriteFile(h.Config(), []byte(text+own), 0o600))
		runOrFail(t, hadBinary, "validate", "--config", h.Config(), "--policy", filepath.Join(out, "policy.hcl"))
	}
	for _, vip := range s.vips {
		s.clients[vip], err = s.Client.Measure(lab.ClientConfig{Target: vip})
		must(t, err)
	}
	for _, h := range s.Servers() {
		must(t, h.StartDaemon())
	}
	policy, err := os.ReadFile(filepath.Join(out, "policy.hcl"))
	must(t, err)
	s.apply(t, "alpha", string(policy))

	first := s.settled(t) // alpha, unless it wasn't ready yet
	second := map[string]string{"alpha": "beta", "beta": "alpha"}[first]
	told := func(node, state string) string {
		return fmt.Sprintf("%s: INSTANCE web %s %d", node, state, map[string]int{"alpha": 150, "beta": 100}[node])
	}
	serves := func(node string) []string { return []string{node + ": start", told(node, "MASTER")} }
	s.wrote(t, ledger, first, serves(first)...)
	s.moveTo(t, first, second)
	s.takenOver(t, first)
	s.wrote(t, ledger, first, append(serves(first), first+": stop", told(first, "BACKUP"))...)
	s.wrote(t, ledger, second, serves(second)...)

	// A daemon that dies is keepalived's fault: seen when it is back.
	s.kill(t, second)
	s.takenOver(t, second)
	must(t, s.Host(second).StartDaemon())
	s.wrote(t, ledger, second, append(serves(second), second+": fault", told(second, "FAULT"), second+": stop", told(second, "BACKUP"))...)
}

// TestMailAndLogHooks runs the example's scripts against a mail server and a
// log server.
func TestMailAndLogHooks(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{Detect: steady})
	vip := s.vips[0]
	s.vips = s.vips[:1]
	exe, err := os.Executable()
	must(t, err)
	got := filepath.Join(t.TempDir(), "got")
	_, err = s.Client.Start(got, exe, "mailroom", s.Client.V4.String())
	must(t, err)
	eventually(t, "the servers listen", func() error { return has(got, "ready") })

	folder := filepath.Join(s.hooks.dir, vip.String())
	must(t, os.RemoveAll(folder))
	must(t, os.Mkdir(folder, 0o755))
	scripts, err := os.ReadDir(filepath.Join(examples, "mail-and-log", "192.0.2.10"))
	must(t, err)
	here := strings.NewReplacer("mail.example.org", s.Client.V4.String(), "LOG_SERVER=", "LOG_SERVER="+s.Client.V4.String())
	for _, e := range scripts {
		info, err := e.Info()
		must(t, err)
		replace := here
		if e.Name() != "settings" {
			replace = strings.NewReplacer() // the scripts are run as they are
		}
		copyExample(t, filepath.Join(examples, "mail-and-log", "192.0.2.10", e.Name()), filepath.Join(folder, e.Name()), replace, info.Mode().Perm())
	}
	s.apply(t, "alpha", s.policy(vip))
	first := s.settled(t)
	second := s.others(first)[0]
	s.moveTo(t, first, second)
	s.takenOver(t, first)
	s.ran(t, first, "PostAcq90-log", "PostAcq95-mail", "PostRel90-log")
	for _, text := range []string{
		"RCPT TO:<admin@example.org>", "had-hooks",
		fmt.Sprintf("Subject: lab: %s serves %s", first, vip),
		fmt.Sprintf("%s serves %s in place of nobody, because: the first owner", first, vip),
		fmt.Sprintf("Subject: lab: %s serves %s", second, vip),
		fmt.Sprintf("%s serves %s in place of %s", second, vip, first),
		fmt.Sprintf("] %s serves %s on eth0, epoch", first, vip),
		fmt.Sprintf("] %s no longer serves %s, epoch", first, vip),
	} {
		eventually(t, "the servers got "+text, func() error { return has(got, text) })
	}
}

// copyExample copies a file of an example with what has to differ here.
func copyExample(t *testing.T, from, to string, here *strings.Replacer, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, []byte(here.Replace(string(text))), mode))
}

func runOrFail(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("run %v: %v\n%s", argv, err, out)
	}
}

// wrote waits until a node's lines of a log are these.
func (s *site) wrote(t *testing.T, log, node string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s wrote %q", node, want), func() error {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, node+":") {
				lines = append(lines, line)
			}
		}
		if !slices.Equal(lines, want) {
			return fmt.Errorf("it wrote %q", lines)
		}
		return nil
	})
}

// has looks for text in a file.
func has(path, text string) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Contains(got, []byte(text)) {
		err = fmt.Errorf("there is only %q", got)
	}
	return err
}
