package nettest

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

const (
	examples = "../../scripts/examples"
	// exampleVIP is the address in the examples' files.
	exampleVIP = "192.0.2.10"
	// exampleDevice is the device there.
	exampleDevice = "UUID=2b228ffc-b727-2910-a3b9-917cbad7134f"
	// exampleWitness is the node that has no part in their policies.
	exampleWitness = "gamma"
)

// exampleSite is a cluster that carries out a folder of scripts/examples: its
// policy, hooks and files as they are, but for the address and the device.
type exampleSite struct {
	*volumeSite

	dir     string
	readme  string
	address netip.Addr
	edits   *strings.Replacer // what an admin has to change, to what it is here
	served  func(t *testing.T, owner string) error

	spoken, overtaken int // endings of which the owner or its guard has a word to say; those in which it was switched off nevertheless
}

// newExampleSite returns a cluster without a policy. Each server has its own
// /etc, with the example's hooks, its own logs and its own management board, of
// which the board's program is the only part.
func newExampleSite(t *testing.T, name string, volumes ...lab.Volume) *exampleSite {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(examples, name, "README.md"))
	must(t, err)
	cfg := lab.Config{
		Detect: volumeDetect, Witnesses: []string{exampleWitness}, Volumes: volumes,
		Web: func(*lab.Host) http.Handler { return nil }, // the example has one
	}
	e := &exampleSite{volumeSite: &volumeSite{site: newSilentSite(t, cfg), volumes: volumes}, dir: filepath.Join(examples, name), readme: string(readme)}
	e.exe, err = os.Executable()
	must(t, err)
	e.vips, e.noLedger = e.vips[:1], true
	e.address = e.vips[0]
	edits := []string{exampleVIP, e.address.String()}
	for _, v := range volumes {
		edits = append(edits, exampleDevice, v.Device())
	}
	e.edits = strings.NewReplacer(edits...)
	e.mounts = e.WatchMounts()
	t.Cleanup(e.mounts.Close)
	e.strip = plugIn(t, e.site)
	for _, h := range e.Servers() {
		e.outfit(t, h)
	}
	e.startAll(t)
	return e
}

// outfit gives a host what on a machine of its own would be its alone.
func (e *exampleSite) outfit(t *testing.T, h *lab.Host) {
	t.Helper()
	own := func(path string, copied bool) string {
		dir := filepath.Join(h.Dir(), "own", path)
		must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
		if copied {
			out, err := exec.CommandContext(t.Context(), "cp", "-a", path, dir).CombinedOutput()
			if err != nil {
				t.Fatalf("copy %s: %v\n%s", path, err, out)
			}
		} else {
			must(t, os.Mkdir(dir, 0o755))
		}
		e.run(t, h.Name, "mount --bind "+dir+" "+path)
		return dir
	}
	etc := own("/etc", true)
	own("/run", false)
	own("/var/log", false)
	for _, dir := range []string{"/var/lib/nginx", "/var/www", "/var/lib/samba", "/var/cache/samba"} { // the packages' own
		if _, err := os.Stat(dir); err == nil {
			own(dir, true)
		}
	}
	must(t, os.RemoveAll(filepath.Join(etc, "had")))
	secrets := filepath.Join(etc, "had", "secrets")
	must(t, os.MkdirAll(secrets, 0o700))
	must(t, os.WriteFile(filepath.Join(secrets, "ipmi"), []byte("secret\n"), 0o600))
	e.board(t, h)
}

// board puts the strip behind the program that talks to a management board.
func (e *exampleSite) board(t *testing.T, h *lab.Host) {
	t.Helper()
	program, err := exec.LookPath("fence_ipmilan")
	must(t, err)
	stub := filepath.Join(h.Dir(), "board")
	must(t, os.WriteFile(stub, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' board '%s'\n", e.exe, e.strip.Socket()), 0o755))
	e.run(t, h.Name, "mount --bind "+stub+" "+program)
}

// board is fence_ipmilan for hosts without boards: it speaks as that does, and
// asks the strip at the socket args[0].
func board(args []string) int {
	options := map[string]string{}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		name, value, _ := strings.Cut(in.Text(), "=")
		options[name] = value
	}
	node := map[string]string{"10.0.9.11": "alpha", "10.0.9.12": "beta"}[options["ip"]]
	switch options["action"] {
	case "metadata":
		fmt.Println(`<resource-agent name="board"><parameters>
<parameter name="ip"/><parameter name="username"/><parameter name="password"/><parameter name="lanplus"/>
</parameters><actions><action name="off"/><action name="status"/></actions></resource-agent>`)
		return 0
	case "off":
		return power([]string{args[0], "off", node})
	case "status":
		if power([]string{args[0], "is-off", node}) == 0 {
			fmt.Println("Status: OFF")
			return 2
		}
		fmt.Println("Status: ON")
		return 0
	}
	return 1
}

// run runs a command of a shell on a host and returns its output.
func (e *exampleSite) run(t *testing.T, host, command string) string {
	t.Helper()
	out, err := e.Host(host).Exec(within(t), "sh", "-c", command)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// does runs a command that the README tells to run.
func (e *exampleSite) does(t *testing.T, host, command string) string {
	t.Helper()
	if !strings.Contains(e.readme, command+"\n") {
		t.Fatalf("the README doesn't say: %s", command)
	}
	return e.run(t, host, "cd "+e.absolute(t)+" && "+e.edits.Replace(command))
}

// absolute is the example's folder.
func (e *exampleSite) absolute(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(e.dir)
	must(t, err)
	return dir
}

// owners are the nodes that may own.
func (e *exampleSite) owners() []string { return e.others(exampleWitness) }

// install has the README's command for hooks run on every node that may own.
func (e *exampleSite) install(t *testing.T) {
	t.Helper()
	for _, node := range e.owners() {
		e.does(t, node, "install -d /etc/had/hooks/"+exampleVIP)
		e.does(t, node, "install -m 0755 hooks/* /etc/had/hooks/"+exampleVIP+"/")
	}
}

// enact applies the example's policy.
func (e *exampleSite) enact(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(e.dir, "policy.hcl"))
	must(t, err)
	e.apply(t, e.owners()[0], e.edits.Replace(string(text)))
}

// ready returns who serves clients, once one does and the other node could take
// over. That can be before its hooks have ended.
func (e *exampleSite) ready(t *testing.T) string {
	t.Helper()
	var owner string
	eventually(t, "one node serves, and the other could", func() error {
		for _, h := range e.Servers() { // one may have been switched off meanwhile
			must(t, h.PowerOn())
			if !h.Running() {
				must(t, h.StartDaemon())
			}
		}
		h, err := e.Observer.History(t.Context(), e.address)
		if err != nil {
			return err
		}
		holders := h.Holders()
		if len(holders) != 1 {
			return fmt.Errorf("%s is on %v", e.address, holders)
		}
		owner = holders[0]
		if err := e.serves(t, owner); err != nil {
			return err
		}
		other, err := e.nodeStatus(t, owner, e.other(owner))
		if err == nil && !other.GetEligible() {
			err = fmt.Errorf("%s can't own: %q", other.GetName(), other.GetReasons())
		}
		return err
	})
	return owner
}

// serves says why a host has not all the volumes, alone, or doesn't serve clients.
func (e *exampleSite) serves(t *testing.T, host string) error {
	t.Helper()
	if err := e.mountedOn(host); err != nil {
		return err
	}
	return e.served(t, host)
}

// other is the other node that may own.
func (e *exampleSite) other(owner string) string { return e.others(owner, exampleWitness)[0] }

// trouble is one way to end an owner.
type trouble struct {
	name string
	make func(e *exampleSite, t *testing.T, owner string)
	off  bool // its board has to switch it off
}

func troubles() []trouble {
	return []trouble{
		{"moved", (*exampleSite).moveOn, false},
		{"SIGKILL of had", func(e *exampleSite, t *testing.T, owner string) { e.kill(t, owner) }, false},
		{"SIGKILL of had and guard", func(e *exampleSite, t *testing.T, owner string) { e.killBoth(t, owner) }, true},
		{"cut off", func(e *exampleSite, t *testing.T, owner string) { must(t, e.Isolate(owner)) }, true},
		{"SIGTERM of had", func(e *exampleSite, t *testing.T, owner string) { e.stop(t, owner) }, false},
		{"power fails", func(e *exampleSite, t *testing.T, owner string) { must(t, e.Host(owner).PowerOff(t.Context())) }, true},
		{"SIGSTOP of had", func(e *exampleSite, t *testing.T, owner string) { must(t, e.Host(owner).Pause()) }, false},
		{"SIGSTOP of had and guard", func(e *exampleSite, t *testing.T, owner string) { e.stopBoth(t, owner) }, true},
	}
}

// moveOn moves everything to the other node that may own.
func (e *exampleSite) moveOn(t *testing.T, owner string) {
	t.Helper()
	e.moveTo(t, owner, e.other(owner))
}

// suffer makes trouble for the owner, and returns who serves then: the other.
// Nothing is mended yet.
func (e *exampleSite) suffer(t *testing.T, tr trouble, owner string) (next string) {
	t.Helper()
	e.strip.Switched()
	since := time.Now()
	tr.make(e, t, owner)
	next = e.other(owner)
	eventually(t, next+" serves instead of "+owner, func() error { return e.serves(t, next) })
	if tr.off {
		e.wasSwitchedOff(t, owner)
	} else {
		e.wasSpared(t, since)
	}
	return next
}

// wasSpared checks that no host was switched off since an instant that had said by
// itself that it was done. A busy machine may need longer for that than a fence waits.
// When it had said so is in the history, once the host is back; and mostly it must be
// in time.
func (e *exampleSite) wasSpared(t *testing.T, since time.Time) {
	t.Helper()
	e.spoken++
	cuts := e.strip.Switched()
	if len(cuts) == 0 {
		return
	}
	e.overtaken++
	if e.overtaken > 1+e.spoken/4 {
		t.Errorf("%v were switched off; in %d of %d endings nobody had said in time that he was done", cuts, e.overtaken, e.spoken)
	}
	e.mendAll(t)
	events := e.fullHistory(t)
	for _, ev := range events {
		try := ev.GetFenceTry()
		if try == nil || ev.GetAt().AsTime().Before(since) {
			continue
		}
		began := ev.GetAt().AsTime().Add(-time.Duration(try.GetDurationNs()))
		switch word := wordOn(events, try.GetEpoch()); {
		case word.IsZero():
			t.Logf("%s was switched off, and hadn't said that it was done", try.GetNode())
		case began.Sub(word) > glance: // by then it is heard
			t.Errorf("%s was switched off %v after it had said that it was done", try.GetNode(), began.Sub(word))
		default:
			t.Logf("%s was switched off, and said that it was done %v after that had begun", try.GetNode(), word.Sub(began))
		}
	}
}

// wordOn is when an owner or its guard first said of an epoch that it was given back,
// or its volumes safe; zero: never.
func wordOn(events []*hadv1.Event, epoch uint64) (first time.Time) {
	for _, ev := range events {
		byItself := ev.GetReleased().GetKind() == hadv1.Evidence_KIND_RELEASED || ev.GetSecured().GetKind() == hadv1.Secured_KIND_GUARD
		if at := ev.GetAt().AsTime(); byItself && ev.GetEpoch() == epoch && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// judgeExample mends all and checks what must hold after every trouble.
func (e *exampleSite) judgeExample(t *testing.T, since time.Time) {
	t.Helper()
	e.mendAll(t)
	e.ready(t)
	e.judge(t, since)
	for _, v := range e.volumes {
		turns, _, err := e.mounts.Turns(v.Name)
		must(t, err)
		for _, o := range lab.MountOverlaps(turns) {
			t.Errorf("two hosts had volume %s at once: %s", v.Name, o)
		}
	}
}

// emptied takes the volumes out of the policy and checks their file systems.
func (e *exampleSite) emptied(t *testing.T) {
	t.Helper()
	e.mendAll(t)
	e.apply(t, e.settled(t), fmt.Sprintf("vip \"v\" {\n  address = %q\n}\n", e.address))
	e.mounted(t, "")
	e.check(t)
}

// needs skips nothing: what `make test` installs must be there.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatal(errors.Join(err, errors.New("make need-tools says what to install")))
	}
}
