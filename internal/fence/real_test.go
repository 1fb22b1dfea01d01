package fence

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/program"
)

// These tests run agents of Debian's package fence-agents.

func installed(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s isn't installed: apt-get install --no-install-recommends %s", name, pkg)
	}
}

func TestFenceDummy(t *testing.T) {
	installed(t, "fence_dummy", "fence-agents")
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(state, []byte("on"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := Agent{Program: "fence_dummy", Options: map[string]string{"status_file": state}}
	if err := Check(t.Context(), Level{a}); err != nil {
		t.Error(err)
	}
	if err := a.IsOff(t.Context()); !errors.Is(err, ErrOn) {
		t.Errorf("IsOff of a host that is on: %v", err)
	}
	if err := Off(t.Context(), Level{a}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(state); err != nil || string(b) != "off" {
		t.Errorf("the host is %q, %v", b, err)
	}
	a.Options["random_sleep_range"] = "100"
	a.Timeout = time.Second
	if err := a.IsOff(t.Context()); !errors.Is(err, program.ErrTimeout) && err != nil {
		t.Errorf("IsOff of one that sleeps: %v", err)
	}
}

func TestCheckAnAgent(t *testing.T) {
	installed(t, "fence_ipmilan", "fence-agents")
	secret := secretFile(t, "s3cret\n")
	a := Agent{
		Program: "fence_ipmilan",
		Options: map[string]string{"ip": "192.0.2.1", "lanplus": "1", "plugg": "7"},
		Secrets: map[string]string{"password": secret, "passwort": "/nowhere"},
	}
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	err := a.Check(t.Context())
	for _, want := range []string{`no option "plugg"`, `no option "passwort"`, "/nowhere", "chmod 600", "fence_ipmilan ip=192.0.2.1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check: %v, want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), `"password"`) {
		t.Errorf("Check: %v", err)
	}
	if err := (Agent{Program: "fence_kdump"}).Check(t.Context()); err == nil || !strings.Contains(err.Error(), `no action "status"`) {
		t.Errorf("Check of an agent that can't tell the status: %v", err)
	}
}

// A hypervisor that can't be reached.
func TestFenceVirshFails(t *testing.T) {
	installed(t, "fence_virsh", "fence-agents")
	closed := freePort(t, "tcp")
	a := Agent{
		Program: "fence_virsh",
		Options: map[string]string{"ip": "127.0.0.1", "ipport": closed, "username": "root", "plug": "alpha"},
		Secrets: map[string]string{"password": secretFile(t, "s3cret")},
		Timeout: 20 * time.Second,
	}
	for doing, do := range map[string]error{"switch off": a.Off(t.Context()), "ask": a.IsOff(t.Context())} {
		if do == nil || errors.Is(do, ErrOn) || strings.Contains(do.Error(), "s3cret") || !strings.Contains(do.Error(), "Unable to connect/login to fencing device") {
			t.Errorf("%s: %v", doing, do)
		}
	}
}

func TestFenceIPMI(t *testing.T) {
	b := newBMC(t)
	a := b.agent("s3cret")
	if err := Check(t.Context(), Level{a}); err != nil {
		t.Error(err)
	}
	if err := a.IsOff(t.Context()); !errors.Is(err, ErrOn) {
		t.Errorf("IsOff of a host that is on: %v", err)
	}
	begin := time.Now()
	if err := Off(t.Context(), Level{a}); err != nil {
		t.Error(err)
	}
	t.Logf("switched off and seen off after %s", time.Since(begin))
	if got := b.read("power"); got != "0" {
		t.Errorf("the host's power is %q", got)
	}
	if err := a.IsOff(t.Context()); err != nil {
		t.Error(err)
	}

	// A wrong password, and a board that has lost its power.
	if err := b.agent("wr0ng").IsOff(t.Context()); err == nil || errors.Is(err, ErrOn) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("IsOff with a wrong password: %v", err)
	} else {
		t.Log(err)
	}
	b.stop()
	err := a.IsOff(t.Context())
	if err == nil || errors.Is(err, ErrOn) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("IsOff without a board: %v", err)
	}
	t.Log(err)
}

// A board that says "done" while the host runs on.
func TestFenceIPMIThatDoesNothing(t *testing.T) {
	b := newBMC(t)
	b.write("stuck", "")
	a := b.agent("s3cret")
	a.Options["power_timeout"] = "5" // for ipmitool, too
	err := Level{a}.off(t.Context())
	if !errors.Is(err, ErrOn) || !strings.Contains(err.Error(), "Timed out waiting to power OFF") {
		t.Errorf("off: %v", err)
	}
	t.Log(err)
}

// bmc is a board that OpenIPMI simulates. The host's power is a file.
type bmc struct {
	t         *testing.T
	dir, port string
	cmd       *exec.Cmd
}

func newBMC(t *testing.T) *bmc {
	t.Helper()
	installed(t, "fence_ipmilan", "fence-agents")
	installed(t, "ipmitool", "ipmitool")
	installed(t, "ipmi_sim", "openipmi")
	b := &bmc{t: t, dir: t.TempDir(), port: freePort(t, "udp")}
	b.write("power", "1")
	b.write("chassis", `#!/bin/sh
cd "${0%/*}"
case "$2 $3" in
"get power") echo "power:$(cat power)" ;;
"set power") [ -e stuck ] || printf %s "$4" > power ;;
esac
`)
	b.write("lan.conf", fmt.Sprintf(`name "alpha"
set_working_mc 0x20
startlan 1
addr 127.0.0.1 %s
priv_limit admin
allowed_auths_admin md5
guid a123456789abcdefa123456789abcdef
endlan
chassis_control "%s/chassis 0x20"
user 2 true "had" "s3cret" admin 10 md5
`, b.port, b.dir))
	b.write("commands", `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
mc_enable 0x20
`)
	if err := os.Mkdir(filepath.Join(b.dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.cmd = exec.Command("ipmi_sim", "-n", "-c", "lan.conf", "-f", "commands", "-s", "state")
	b.cmd.Dir = b.dir
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.stop)
	return b
}

func (b *bmc) stop() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait() // it was killed
		b.cmd = nil
	}
}

func (b *bmc) agent(password string) Agent {
	return Agent{
		Program: "fence_ipmilan",
		Options: map[string]string{"ip": "127.0.0.1", "ipport": b.port, "username": "had", "lanplus": "1", "cipher": "3", "power_timeout": "20", "ipmitool_timeout": "1"},
		Secrets: map[string]string{"password": secretFile(b.t, password+"\n")},
	}
}

func (b *bmc) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o700); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bmc) read(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// freePort returns a port of this host that nothing listens at.
func freePort(t *testing.T, network string) string {
	t.Helper()
	var addr net.Addr
	if network == "tcp" {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addr = l.Addr()
	} else {
		c, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		addr = c.LocalAddr()
	}
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
