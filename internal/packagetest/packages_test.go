package packagetest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	repository = "../.."
	page       = repository + "/docs/install.md"
	dist       = repository + "/dist"
	again      = repository + "/build/packages/again" // the same commit, built elsewhere
	later      = repository + "/build/packages/later" // a later version
	vip        = "10.0.0.80"
)

// A fresh Debian on three hosts: what the page says is done as it says it, and
// after each part of it things are as it says.
func TestInstallPage(t *testing.T) {
	isolated(t)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := sections(string(text))
	if err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	o := &office{t: t, steps: steps, hosts: startHosts(t)}
	o.acquaint()

	copying, upgrade := steps["Build the package and copy it"], steps["Upgrade"]
	o.follow("Build the package and copy it")
	sameBytes(t)
	fresh := o.files()
	o.follow("Install")
	o.each(func(h *host) {
		expect(t, h.run(t, "man -P cat had; man -P cat hactl; man -P cat had.hcl"), "The high-availability daemon", "hactl - Show and steer", "data_dir")
		expect(t, h.run(t, "systemctl is-enabled had || true; systemctl is-active had || true"), "disabled", "inactive")
		h.run(t, "systemd-analyze verify --man=no had.service had@mail.service")
		expect(t, h.run(t, "systemctl start had 2>&1 || true"), "ssert") // there is no had.hcl
	})
	o.follow("Configure", "TLS", "Start")
	o.each(func(h *host) {
		// What it mounts must be the whole host's.
		h.run(t, `test "$(readlink /proc/$(systemctl show -P MainPID had)/ns/mnt)" = "$(readlink /proc/1/ns/mnt)"`)
		expect(t, h.run(t, "stat -c %a /var/lib/had /etc/had/tls/node-key.pem"), "700\n600\n")
	})
	o.follow("Say what the cluster owns")
	owner := o.owner()
	t.Logf("%s owns", owner.name)

	// systemd sees had die, and lets its guard finish.
	owner.run(t, "systemctl kill --kill-whom=main --signal=KILL had")
	o.hosts["gamma"].await(t, "hactl wait --for healthy && hactl history | grep 'its guard gave back'")
	owner = o.owner()

	local(t, "mount", "--bind", later, dist)
	for _, s := range copying {
		s.text = strings.ReplaceAll(s.text, "make packages\n", "") // it was made already
		o.do(s)
	}
	before := owner.run(t, "systemctl show -P MainPID had")
	o.do(upgrade[0])
	if after := owner.run(t, "systemctl show -P MainPID had"); after != before {
		t.Errorf("to install the later version has restarted the owner's had: %s, then %s", before, after)
	}
	o.do(upgrade[1])
	delete(o.steps, "Upgrade")
	o.owner()
	o.each(func(h *host) { expect(t, h.run(t, "hactl version"), "hactl  v99.0.0", "had    v99.0.0") })

	o.follow("Several clusters on one host")
	o.hosts["gamma"].await(t, "hactl --cluster mail status")
	o.each(func(h *host) { h.run(t, "hactl --cluster office status") })

	o.follow("Remove")
	o.each(func(h *host) {
		if got := h.run(t, "ip -o address; pgrep -l had || true; ls /run; find /sys/fs/cgroup -name 'had*'; tc filter show dev eth0 ingress"); strings.Contains(got, vip) || strings.Contains(got, "had") {
			t.Errorf("had has left something on %s:\n%s", h.name, got)
		}
	})
	for name, now := range o.files() {
		for _, f := range now {
			if !slices.Contains(fresh[name], f) {
				t.Errorf("purge has left %s on %s", f, name)
			}
		}
	}
	if len(o.steps) > 0 {
		t.Errorf("the page has parts that this test doesn't run: %v", o.steps)
	}
}

// office is the three hosts, and what is left of the page.
type office struct {
	t     *testing.T
	steps map[string][]step
	hosts map[string]*host
}

// follow does what the sections of the page say.
func (o *office) follow(headings ...string) {
	o.t.Helper()
	for _, heading := range headings {
		steps := o.steps[heading]
		if len(steps) == 0 {
			o.t.Fatalf("there is nothing to do below %q", heading)
		}
		for _, s := range steps {
			o.do(s)
		}
		delete(o.steps, heading)
	}
}

func (o *office) do(s step) {
	o.t.Helper()
	for _, name := range s.hosts {
		h := o.hosts[name]
		switch {
		case name == "here":
			o.t.Logf("line %d, here:\n%s", s.line, local(o.t, "bash", "-euo", "pipefail", "-c", "cd "+repository+"\n"+s.text))
		case h == nil:
			o.t.Fatalf("line %d: there is no host %q", s.line, name)
		case s.file != "":
			h.run(o.t, "cat >"+s.file+" <<'END OF FILE'\n"+s.text+"END OF FILE")
		default:
			o.t.Logf("line %d, on %s:\n%s", s.line, name, h.run(o.t, s.text))
		}
	}
}

func (o *office) each(f func(h *host)) {
	for _, h := range o.hosts {
		f(h)
	}
}

// owner is the one host that has the address, which answers.
func (o *office) owner() *host {
	o.t.Helper()
	var owners []*host
	o.each(func(h *host) {
		if strings.Contains(h.run(o.t, "ip -o address"), " "+vip+"/") {
			owners = append(owners, h)
		}
	})
	if len(owners) != 1 {
		o.t.Fatalf("%d hosts have %s, want one: %v", len(owners), vip, owners)
	}
	if got := strings.TrimSpace(local(o.t, "ssh", "root@"+vip, "hostname")); got != owners[0].name {
		o.t.Fatalf("%s is on %s, and %s answers there", vip, owners[0].name, got)
	}
	return owners[0]
}

// acquaint has the hosts and this test know each other as the page presupposes:
// by name, and by a key of root's. apt doesn't ask.
func (o *office) acquaint() {
	t, dir := o.t, o.t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	local(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "id_ed25519"))
	public, err := os.ReadFile(filepath.Join(dir, "id_ed25519.pub"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(filepath.Join(dir, "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	names := "127.0.0.1 localhost\n"
	for name, address := range addresses {
		names += address + " " + name + "\n"
	}
	write("config", "StrictHostKeyChecking accept-new\nLogLevel ERROR\n", 0o600)
	write("hosts", names, 0o644)
	o.each(func(h *host) {
		h.run(t, "install -d -m 0700 .ssh; cat >/etc/hosts <<'END'\n"+names+"END\n"+
			"cat >.ssh/config <<'END'\nStrictHostKeyChecking accept-new\nLogLevel ERROR\nEND\n"+
			"echo '"+string(public)+"' >.ssh/authorized_keys\n"+
			"(umask 077; cat >.ssh/id_ed25519 <<'END'\n"+string(private)+"END\n)\n"+
			"echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/yes")
	})
	// ssh(1) looks for a user's folder in passwd(5), not in HOME.
	if err := os.MkdirAll("/root/.ssh", 0o700); err != nil {
		t.Fatal(err)
	}
	local(t, "mount", "--bind", dir, "/root/.ssh")
	local(t, "mount", "--bind", filepath.Join(dir, "hosts"), "/etc/hosts")
	t.Cleanup(func() {
		for _, path := range []string{"/root/.ssh", "/etc/hosts"} {
			if err := unmount(path); err != nil {
				t.Error(err)
			}
		}
	})
}

// files lists what is on each host but for what the system notes by itself, and
// what the page has somebody put into root's home folder.
func (o *office) files() map[string][]string {
	all := map[string][]string{}
	o.each(func(h *host) {
		all[h.name] = strings.Fields(h.run(o.t, `find / -xdev \( -path /root -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache -o -path /var/lib/dpkg -o -path /var/lib/apt \) -prune -o -print`))
	})
	return all
}

// sameBytes compares the packages with those that were built elsewhere.
func sameBytes(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"*.deb", "*.rpm"} {
		names, err := filepath.Glob(filepath.Join(dist, pattern))
		if err != nil || len(names) != 1 {
			t.Fatalf("there should be one %s in %s: %v, %v", pattern, dist, names, err)
		}
		local(t, "cmp", names[0], filepath.Join(again, filepath.Base(names[0])))
	}
}

// expect fails the test unless a text has all of the parts.
func expect(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Fatalf("there is no %q in:\n%s", p, text)
		}
	}
}
