package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unpacked returns the files of a bundle by their names in its folder.
func unpacked(t *testing.T, file string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "tar", "-xzf", file, "-C", dir, "--strip-components=1").CombinedOutput(); err != nil {
		t.Fatalf("unpack a bundle: %v\n%s", err, out)
	}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// answers is a script of a fake had that answers each method as often as it is asked.
func answers(of map[string]string) string {
	var b strings.Builder
	for method, answer := range of {
		for range 8 {
			fmt.Fprintf(&b, "%s %s\n", method, answer)
			if method == "History" {
				b.WriteString("+ end\n")
			}
		}
	}
	return b.String()
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bundleApp is an app with files of its own, by their paths below its configuration,
// and programs of the host that print what they are to.
func bundleApp(t *testing.T, socket string, files, commands map[string]string) (a app, out, errOut *syncBuffer) {
	t.Helper()
	a, out, errOut = testApp(socket)
	a.configDir = t.TempDir()
	a.addresses = func(context.Context) ([]byte, error) { return []byte("[]"), nil }
	for name, text := range files {
		path := filepath.Join(a.configDir, name)
		text = strings.ReplaceAll(text, "$ETC", a.configDir)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	a.command = func(_ context.Context, name string, _ ...string) ([]byte, error) {
		if text, ok := commands[name]; ok {
			return []byte(text), nil
		}
		return nil, fmt.Errorf("exec: %q: not found", name)
	}
	return a, out, errOut
}

// A secret in every place where the product accepts one, and where people put one all
// the same, is in no file of the bundle, nor in what is printed.
func TestSupportBundleHasNoSecrets(t *testing.T) {
	const (
		smtp, ipmi, chat = "MARK-smtp pass\"word", "MARK-ipmi", "https://chat.example.org/hook/MARK-T0/MARK-B0"
		key              = "-----BEGIN EC PRIVATE KEY-----\nMARKkeyMHcCAQEEIBxyzxyzxyz0123\nMARKkeyAwEHoUQDQgAE5678901234\n-----END EC PRIVATE KEY-----\n"
		leaks            = "smtp said 535 " + smtp + "; ipmi " + ipmi + "; POST " + chat + ": 500; MARKkeyAwEHoUQDQgAE5678901234; hex MARK-0123456789abcdef; AFP MARK-afp-content; HOOK_PASSWORD=MARK-env; https://u:MARK-url@h/; inline MARK-inline/path"
	)
	files := map[string]string{
		"had.hcl": `cluster "office" {
  node "alpha" { address = "127.0.0.1:7400" } # MARK-comment
}
node = "alpha"
token_key = "$ETC/token.key"
password = "MARK-stray"
tls {
  ca   = "$ETC/tls/ca.pem"
  cert = "$ETC/tls/node.pem"
  key  = "$ETC/tls/node-key.pem"
}
`,
		"token.key": "MARK-0123456789abcdef\n", "tls/node-key.pem": key, "tls/mail/node-key.pem": key, "secrets/smtp": smtp + "\n", "secrets/ipmi": ipmi, "secrets/chat-url": chat + "\n",
		"afp.conf": "MARK-afp-content\n",
	}
	a, out, errOut := bundleApp(t, "", files, map[string]string{
		"journalctl": "[WARN] " + leaks + "\n", "had": "valid, but: " + leaks + "\n", "ip": "3: eth0\n", "tc": "qdisc clsact\n", "systemctl": "Environment=X_TOKEN=MARK-unit\n", "lsblk": "sda\n",
	})
	policy := strings.ReplaceAll(`vip "web" { address = "192.0.2.10" } # MARK-comment
reconnect_token "afp" { location = "$ETC/afp.conf" }
notify "email" "ops" { password_file = "$ETC/secrets/smtp" }
notify "webhook" "chat" { url_file = "$ETC/secrets/chat-url" }
notify "webhook" "other" { url = "https://chat.example.org/MARK-inline/path" }
fence {
  agent "alpha" { options = { password_file = "$ETC/secrets/ipmi" } }
}
sync "pages" { command = ["rsync", "rsync://joe:MARK-sync@h/pages"] }
check "exec" "site" { command = ["curl", "-H", "Authorization: Bearer MARK-check", "-u", "joe:MARK-user"] }
`, "$ETC", a.configDir)
	ha := map[string]string{
		"Status":         asJSON(t, map[string]any{"cluster": "office", "answered_by": "alpha", "leader": "alpha", "nodes": []any{map[string]any{"name": "alpha", "problems": []string{leaks}}}, "warnings": []string{leaks}}),
		"Version":        `{"version": "v1", "node": "alpha"}`,
		"PolicyShow":     asJSON(t, map[string]any{"policy": map[string]any{"version": 3, "text": policy, "reason": leaks}}),
		"PolicyVersions": asJSON(t, map[string]any{"policies": []any{map[string]any{"version": 3, "reason": leaks, "text": policy}}}),
		"History": asJSON(t, map[string]any{"complete": true, "events": []any{
			map[string]any{"index": 5, "node": "alpha", "hook": map[string]any{"epoch": 5, "stage": "PostAcq", "script": "PostAcq10", "output_tail": []byte(leaks), "error": leaks}},
			map[string]any{"index": 6, "node": "alpha", "policy_applied": map[string]any{"text": policy, "reason": leaks}},
		}}),
		"Timing": `{}`, "NodeList": `{"cluster": "office"}`, "HookList": asJSON(t, map[string]any{}), "TokenShow": `{}`,
		"ShowLogLevel": `{"log": {"node": "alpha", "level": "info"}}`,
		"Preflight":    asJSON(t, map[string]any{"nodes": []any{map[string]any{"node": "alpha", "findings": []any{map[string]any{"check": "fence", "level": "LEVEL_FAIL", "detail": leaks}}}}}),
		"WhyNot":       asJSON(t, map[string]any{"node": "alpha", "findings": []any{map[string]any{"check": "itself", "level": "LEVEL_FAIL", "detail": leaks}}}),
	}
	_, socket := startFake(t, answers(ha))
	a.env = func(name string) string { return map[string]string{"HACTL_SOCKET": socket}[name] }
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if code := run(t.Context(), []string{"support-bundle", "-o", file}, a); code != exitDone {
		t.Fatalf("it ended with %d: %s", code, errOut)
	}
	bundle := unpacked(t, file)
	for name, text := range bundle {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "MARK") {
				t.Errorf("%s has a secret: %s", name, line)
			}
		}
		if strings.HasSuffix(name, ".json") && !json.Valid([]byte(text)) {
			t.Errorf("%s is no JSON any more: %s", name, text)
		}
	}
	if said := out.String() + errOut.String(); strings.Contains(said, "MARK") {
		t.Errorf("a secret is printed:\n%s", said)
	}
	for name, words := range map[string]string{
		"cluster/status.txt": "office", "cluster/status.json": `"answered_by": "alpha"`, "cluster/history.txt": "PostAcq10", "cluster/history.jsonl": `"script":"PostAcq10"`,
		"cluster/policy.hcl": `vip "web" { address = "192.0.2.10" }`, "cluster/policy-history.txt": "applied", "cluster/preflight.txt": "NOT ready", "cluster/why-not-alpha.txt": "alpha",
		"host/had.log": "[WARN] smtp said 535 (secret)", "host/node.hcl": `node "alpha"`, "host/mounts.txt": "/proc", "host/facts.txt": "Linux version",
		"host/files" + strings.ReplaceAll(a.configDir, "/", "-") + ".txt": "-rw-------", "README.txt": "cluster office, node alpha",
	} {
		if !strings.Contains(bundle[name], words) {
			t.Errorf("%s doesn't say %q:\n%s", name, words, bundle[name])
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v (%v)", info.Mode(), err)
	}
	// It replaces nothing.
	if code := run(t.Context(), []string{"support-bundle", "-o", file}, a); code != exitRefused {
		t.Errorf("over another it ended with %d", code)
	}
}

// Nothing is left of a bundle whose making was interrupted, nor of one that could not
// be written.
func TestSupportBundleLeavesNothingHalf(t *testing.T) {
	a, _, errOut := bundleApp(t, t.TempDir()+"/none.sock", nil, nil)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	a.command = func(context.Context, string, ...string) ([]byte, error) {
		cancel()
		return nil, context.Canceled
	}
	if code := run(ctx, []string{"support-bundle", "-o", filepath.Join(dir, "b.tar.gz")}, a); code != exitInterrupted {
		t.Errorf("interrupted, it ended with %d: %s", code, errOut)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("it left %v (%v)", left, err)
	}
	if code := run(t.Context(), []string{"support-bundle", "-o", filepath.Join(dir, "none", "b.tar.gz")}, a); code != exitUsage {
		t.Errorf("into no folder it ended with %d: %s", code, errOut)
	}
}

// A daemon that takes calls and answers none keeps the rest out for two answers' time.
func TestSupportBundleOfADaemonThatHangs(t *testing.T) {
	_, socket := startFake(t, "Status hold\nStatus hold\nPolicyShow hold\nPolicyShow hold\n")
	a, out, errOut := bundleApp(t, socket, map[string]string{"had.hcl": "cluster \"office\" {\n  node \"alpha\" { address = \"127.0.0.1:7400\" }\n}\nnode = \"alpha\"\n"}, map[string]string{"ip": "3: eth0\n"})
	began, file := time.Now(), filepath.Join(t.TempDir(), "b.tar.gz")
	if code := run(t.Context(), []string{"support-bundle", "-o", file, "--timeout", "100ms"}, a); code != exitDone {
		t.Fatalf("it ended with %d: %s", code, errOut)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(out.String(), "cluster office, node alpha") || !strings.Contains(out.String(), "no answer from had within 100ms") {
		t.Errorf("it says:\n%s", out)
	}
	if b := unpacked(t, file); !strings.Contains(b["host/addresses.txt"], "eth0") {
		t.Errorf("what needs no daemon isn't in it: %v", b)
	}
}

func TestBundleName(t *testing.T) {
	at := time.Date(2026, 11, 30, 20, 15, 7, 0, time.FixedZone("", 3600))
	for _, c := range []struct{ cluster, node, want string }{
		{"office", "alpha", "had-support-office-alpha-20261130T191507Z"},
		{"../../etc", "a/b c", "had-support-etc-a-b-c-20261130T191507Z"},
		{"", "..", "had-support-unknown-unknown-20261130T191507Z"},
	} {
		if got := bundleName(c.cluster, c.node, at); got != c.want {
			t.Errorf("%q of %q is %s, want %s", c.node, c.cluster, got, c.want)
		}
	}
}
