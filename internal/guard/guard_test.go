package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/gate"
	"had/internal/hook"
	"had/internal/peer"
	"had/vip"
)

// What a guard is for, with a real daemon, a real guard and a real kernel.
// How fast it was is logged; that it was in time is asserted.

func TestGuard(t *testing.T) {
	o := newOffice(t, nil) // takes a second or two, so it is one for all
	for _, test := range []struct {
		name string
		run  func(t *testing.T, o *office)
	}{
		{"death of the daemon", deathOfTheDaemon},
		{"deadline while the daemon is stopped", deadlineWhileTheDaemonIsStopped},
		{"signals don't end the guard", signalsDontEndTheGuard},
		{"death and sleep of the guard are noticed", deathAndSleepOfTheGuardAreNoticed},
		{"both stopped", bothStopped},
		{"settle kills a stopped guard", settleKillsAStoppedGuard},
		{"settle ends though the guard isn't found", settleEndsThoughTheGuardIsNotFound},
		{"what had said counts, though it died before it was heard", whatHadSaidCounts},
		{"one guard a folder", oneGuardAFolder},
		{"close ends the guard and nothing else", closeEndsTheGuardAndNothingElse},
		{"scripts end before the report", scriptsEndBeforeTheReport},
		{"the gate is shut, and opened when all is gone", theGateIsShut},
		{"a dead guard is replaced", aDeadGuardIsReplaced},
		{"the guard's process", theGuardsProcess},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, o.visit(t)) })
	}
}

func TestGuardWithTLS(t *testing.T) {
	ca := newAuthority(t)
	o := newOffice(t, ca.files)
	o.tls = ca.paths("alpha")
	deathOfTheDaemon(t, o)
}

func deathOfTheDaemon(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	addrs := virtual(1)
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: addrs})
	if n := present(t, addrs); n != 2 {
		t.Fatalf("%d addresses are up, want 2", n)
	}
	killed := clock.Now()
	d.signal(syscall.SIGKILL)
	gone(t, addrs)
	t.Logf("from SIGKILL to the last farewell %s; without: %q", o.farewells(7).Sub(killed), d.short)

	f, err := Settle(t.Context(), o.dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.GetReleased().GetEpoch() != 7 {
		t.Errorf("kept for the next start: %v", f)
	}
	if err := ForgetFarewell(o.dir); err != nil {
		t.Error(err)
	}
	if f, err := Settle(t.Context(), o.dir); f != nil || err != nil {
		t.Errorf("after it was forgotten: %v, %v", f, err)
	}
}

func deadlineWhileTheDaemonIsStopped(t *testing.T, o *office) {
	cfg := o.config()
	cfg.Margin = 200 * time.Millisecond // this host may be busy with other tests
	d := startDaemon(t, cfg)
	addrs := virtual(1)
	r := d.ask(order{Do: "hold", Epoch: 7, For: 500 * time.Millisecond, Addresses: addrs})
	d.signal(syscall.SIGSTOP)
	if seen := gone(t, addrs); r.Until.Before(seen) {
		t.Errorf("an address was there %s after the deadline", seen.Sub(r.Until))
	}
	d.signal(syscall.SIGCONT)
	if r := d.ask(order{Do: "extend", Epoch: 7, For: time.Second}); r.OK {
		t.Error("an epoch that the guard has ended was extended")
	}
	o.silent()
	d.ask(order{Do: "drop", Epoch: 7})
	d.ask(order{Do: "hold", Epoch: 8, For: 10 * time.Second, Addresses: addrs})
	d.signal(syscall.SIGKILL)
	gone(t, addrs)
	o.farewells(8)
}

// A guard that hears nothing but had's death and its Close: not the signals by
// which a service manager or a terminal ends everything, nor a closed socket.
func signalsDontEndTheGuard(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	addrs := virtual(1)
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: addrs})
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGPIPE} {
		d.signalGuard(s)
	}
	d.ask(order{Do: "alive"})
	d.signal(syscall.SIGTERM) // the test's daemon doesn't handle it
	gone(t, addrs)
	o.farewells(7)
}

func deathAndSleepOfTheGuardAreNoticed(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	d.ask(order{Do: "alive"})
	d.signalGuard(syscall.SIGSTOP)
	eventually(t, "the guard to count as stopped", func() bool { return d.try(order{Do: "alive"}).Err != "" })
	if r := d.try(order{Do: "hold", Epoch: 7, For: time.Second, Addresses: virtual(1)}); r.Err == "" {
		t.Error("a stopped guard held an epoch")
	}
	if n := present(t, virtual(1)); n > 0 {
		t.Errorf("%d addresses are up without a guard", n)
	}
	d.signalGuard(syscall.SIGCONT)
	eventually(t, "the guard to count as alive", func() bool { return d.try(order{Do: "alive"}).Err == "" })
	d.signalGuard(syscall.SIGKILL)
	d.ask(order{Do: "died", For: 5 * time.Second})
	if r := d.try(order{Do: "alive"}); !strings.Contains(r.Err, "killed") {
		t.Errorf("a killed guard is %q", r.Err)
	}
}

// Daemon and guard are stopped past the deadline, and the daemon is killed:
// when the guard wakes it does all of its work, late.
func bothStopped(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	addrs := virtual(1)
	r := d.ask(order{Do: "hold", Epoch: 7, For: 200 * time.Millisecond, Addresses: addrs})
	d.signalGuard(syscall.SIGSTOP)
	d.signal(syscall.SIGSTOP)
	eventually(t, "the lease to end", func() bool { return r.Until.Before(clock.Now()) })
	if n := present(t, addrs); n != 2 {
		t.Fatalf("%d addresses are up, want 2: nobody is awake to take them away but the kernel, after 2 s", n)
	}
	d.signal(syscall.SIGKILL)
	d.signalGuard(syscall.SIGCONT)
	gone(t, addrs)
	o.farewells(7)
}

// The next start waits for a guard that works, and kills one that doesn't.
func settleKillsAStoppedGuard(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: virtual(1)})
	d.signalGuard(syscall.SIGSTOP)
	d.signal(syscall.SIGKILL)
	f, err := settle(t.Context(), o.dir, 100*time.Millisecond)
	if f != nil || err != nil {
		t.Errorf("a killed guard left %v, %v", f, err)
	}
	eventually(t, "the stopped guard to be gone", d.guardEnded)
	gone(t, virtual(1)) // their lifetime, here: what else is left is for the caller
	o.silent()
}

// The lock may name no process, or one of another PID namespace.
func settleEndsThoughTheGuardIsNotFound(t *testing.T, o *office) {
	lock, err := openLock(o.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := errors.Join(lock.Truncate(0), writeAt(lock, "4194305 1\n")); err != nil { // beyond the largest process ID
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := settle(ctx, o.dir, 20*time.Millisecond); err == nil || ctx.Err() != nil {
		t.Errorf("settle: %v, want an error long before the caller gives up", err)
	}
}

// had released the epoch in order and died before its guard, which was stopped,
// had heard of it. When the guard wakes it must not say that had died as owner.
func whatHadSaidCounts(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: virtual(1)})
	d.signalGuard(syscall.SIGSTOP)
	if r := d.try(order{Do: "drop", Epoch: 7}); r.Err == "" {
		t.Fatal("a stopped guard answered")
	}
	d.signal(syscall.SIGKILL)
	d.signalGuard(syscall.SIGCONT)
	eventually(t, "the guard to end", d.guardEnded)
	o.silent()
	if f, err := Settle(t.Context(), o.dir); f != nil || err != nil {
		t.Errorf("it left %v, %v", f, err)
	}
	gone(t, virtual(1)) // their lifetime: here nobody took them away
}

func oneGuardAFolder(t *testing.T, o *office) {
	startDaemon(t, o.config())
	_, err := Start(t.Context(), o.guard())
	if err == nil || !strings.Contains(err.Error(), errLocked.Error()) {
		t.Errorf("a second guard of the folder: %v", err)
	}
}

func closeEndsTheGuardAndNothingElse(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	addrs := virtual(1)
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: addrs})
	if r := d.try(order{Do: "close"}); r.Err == "" {
		t.Error("the guard left an epoch alone")
	}
	d.ask(order{Do: "drop", Epoch: 7})
	d.ask(order{Do: "close"})
	if n := present(t, addrs); n != 2 {
		t.Errorf("%d addresses are up, want 2: the guard was to leave them", n)
	}
	gone(t, addrs)
	o.silent()
}

// A script that runs when had dies is ended before anybody hears of anything;
// so is what it has started.
func scriptsEndBeforeTheReport(t *testing.T, o *office) {
	d := startDaemon(t, o.config())
	d.ask(order{Do: "hold", Epoch: 7, For: 20 * time.Second, Addresses: virtual(1)})
	const id = "GUARDTESTRUN"
	script := exec.CommandContext(t.Context(), "sleep", "60")
	script.Env = []string{"HAD_RUN=" + id}
	script.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	d.ask(order{Do: "script", Script: hook.Running{ID: id, Script: "PreRel", VIP: netip.MustParseAddr("192.0.2.0")}})
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	d.signal(syscall.SIGKILL)
	o.farewells(7)
	ended := make(chan error, 1)
	go func() { ended <- script.Wait() }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the others were told while a script lives")
	}
}

func theGateIsShut(t *testing.T, o *office) {
	g, err := gate.Open(gate.Config{Name: "guard-test", Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cfg := o.config()
	cfg.Gate = "guard-test"
	d := startDaemon(t, cfg)
	addrs := virtual(1)
	if err := g.Admit(7, vip.Addrs(addrs)); err != nil {
		t.Fatal(err)
	}
	if err := g.Extend(7, clock.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	d.ask(order{Do: "hold", Epoch: 7, For: 200 * time.Millisecond, Addresses: addrs})
	d.signal(syscall.SIGSTOP)
	gone(t, addrs)
	if l := g.Lease(); l.Shut != 7 || l.Open(clock.Now()) {
		t.Errorf("after the deadline the gate is %+v", l)
	}
	if kept, err := g.Guarded(); err != nil || len(kept) != len(addrs) {
		t.Errorf("had lives, and the gate guards %v (%v)", kept, err)
	}
	d.signal(syscall.SIGKILL)
	o.farewells(7)
	if kept, err := g.Guarded(); err != nil || len(kept) > 0 {
		t.Errorf("the addresses are proven gone, and the gate guards %v (%v)", kept, err)
	}
	if err := gate.Uninstall(gate.Config{Name: "guard-test", Logger: hclog.NewNullLogger()}); err != nil {
		t.Error(err)
	}
	cfg.Nonce = "fedcba9876543210"
	if _, err := Settle(t.Context(), cfg.guard().DataDir); err != nil { // as every run of had begins
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg.guard()); err == nil || !strings.Contains(err.Error(), gate.ErrNotInstalled.Error()) {
		t.Errorf("a guard without the gate it was promised: %v", err)
	}
}

// authority is a CA in a folder of its own.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue writes name.pem and name-key.pem.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return cert, key
}

func (a *authority) paths(node string) *TLSPaths {
	return &TLSPaths{CA: filepath.Join(a.dir, "ca.pem"), Cert: filepath.Join(a.dir, node+".pem"), Key: filepath.Join(a.dir, node+"-key.pem")}
}

// files issues and loads a node's certificate.
func (a *authority) files(node string) *peer.TLSFiles {
	a.t.Helper()
	a.issue(node, &x509.Certificate{
		DNSNames: []string{node}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	p := a.paths(node)
	f, err := peer.LoadTLS(p.CA, p.Cert, p.Key, node)
	if err != nil {
		a.t.Fatal(err)
	}
	return f
}
