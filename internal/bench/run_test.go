package bench

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
)

func TestConfigIsCheckedBeforeAnythingIsBuilt(t *testing.T) {
	t.Parallel()
	good := Config{Trials: 1, Keepalived: "/k", Progress: io.Discard}
	for _, c := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"no trials", func(c *Config) { c.Trials = 0 }, "at least 1"},
		{"unknown part", func(c *Config) { c.Only = []string{"crash", "earthquake"} }, "earthquake"},
		{"unknown subject", func(c *Config) { c.Subjects = []string{"had-9"} }, "had-9"},
		{"missing program", func(c *Config) { c.Keepalived, c.Subjects = "", []string{"keepalived-1"} }, "apt-get install keepalived"},
	} {
		cfg := good
		c.edit(&cfg)
		if _, err := newRunner(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
	r, err := newRunner(good)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.subjects) != len(subjects()) || r.trials() != len(subjects())*len(faults()) {
		t.Errorf("a run of everything has %d subjects and %d trials", len(r.subjects), r.trials())
	}
	cfg := good
	cfg.Keepalived = ""
	if r, err = newRunner(cfg); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.subjects {
		if s.Group == theirs {
			t.Errorf("%s is measured without its program", s.Key)
		}
	}
}

func TestManyAddressesDiffer(t *testing.T) {
	t.Parallel()
	for _, family := range []string{ipv4, ipv6} {
		for _, count := range counts() {
			seen := map[netip.Addr]bool{}
			for _, vip := range manyVIPs(family, count) {
				if seen[vip] || vip.Is4() != (family == ipv4) {
					t.Fatalf("%d %s: %s is twice in it or of the wrong family", count, family, vip)
				}
				seen[vip] = true
			}
			if len(seen) != count {
				t.Errorf("%d addresses, want %d", len(seen), count)
			}
		}
	}
}

func TestKeepalivedAdvertisesOneAddressAndHoldsAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		vips     []netip.Addr
		excluded bool
	}{
		{manyVIPs(ipv4, 1), false},
		{manyVIPs(ipv4, 3), true},
		{manyVIPs(ipv6, 1), true},
		{lab.DefaultVIPs(), true},
	} {
		text := keepalivedConfig("alpha", 150, 100*time.Millisecond, c.vips)
		for _, vip := range c.vips {
			if n := strings.Count(text, " "+netip.PrefixFrom(vip, vip.BitLen()).String()+"\n"); n != 1 {
				t.Errorf("%s is %d times in\n%s", vip, n, text)
			}
		}
		if !strings.Contains(text, "advert_int 0.1\n") || strings.Contains(text, "excluded") != c.excluded {
			t.Errorf("for %v:\n%s", c.vips, text)
		}
		if strings.Count(text, "{") != strings.Count(text, "}") {
			t.Errorf("a block isn't closed in\n%s", text)
		}
	}
}

func TestUsageOfAProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// A process that sleeps has used little and this one more, by the same
	// clock.
	theirs, err := cpuTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 20*time.Millisecond; {
		continue
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before || theirs < 0 {
		t.Errorf("CPU time %v, then %v, of a sleeping process %v: %v", before, after, theirs, err)
	}
	memory, err := fields("/proc/self/status", "VmRSS:", "VmSize:")
	if err != nil || memory[0] <= 0 || memory[1] < memory[0] {
		t.Errorf("VmRSS and VmSize = %v: %v", memory, err)
	}
	if _, err := fields("/proc/self/status", "VmNothing:"); err == nil {
		t.Error("a line that isn't there was found")
	}
	if kind, err := fileSystem("/proc"); kind != "proc" || err != nil {
		t.Errorf("/proc is of type %q: %v", kind, err)
	}
	if _, err := readUsage(nil); err == nil {
		t.Error("no process was measured")
	}
}

func TestEventuallyEndsWithTheLatestReason(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	ended, missing := errors.New("it took too long"), errors.New("the owner is missing")
	err := eventually(ctx, func() error {
		cancel(ended)
		return missing
	})
	if !errors.Is(err, ended) || !errors.Is(err, missing) {
		t.Errorf("got %v, want both %v and %v", err, ended, missing)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	last := errors.New("cut short")
	tries := 0
	err = eventually(ctx, func() error {
		if tries++; tries == 1 {
			return missing
		}
		cancel(ended)
		return last
	})
	if !errors.Is(err, missing) || errors.Is(err, last) {
		t.Errorf("got %v, want the reason from before the end", err)
	}
	tries = 0
	err = eventually(t.Context(), func() error {
		if tries++; tries < 2 {
			return missing
		}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

func TestResultsAreReplacedAsAWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"long before", "new"} {
		if err := writeFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("it has %q: %v", got, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left: %v", len(entries), err)
	}
}

func TestARunGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	cfg := Config{Trials: 4, Keepalived: "/k", Progress: io.Discard, Dir: t.TempDir(), Resume: true}
	start := func(m Machine) (*runner, error) {
		r, err := newRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.report.Machine = m
		return r, r.resume()
	}
	if _, err := start(Machine{}); err == nil || !strings.Contains(err.Error(), "measure first") {
		t.Errorf("without a run before: %v", err)
	}
	old := Report{Trials: 4, Machine: Machine{Had: "had 1", Load: "0.01"}}
	s, f := subjects()[0], faults()[0]
	for range 3 {
		old.Faults = append(old.Faults, Trial{Subject: s.Key, Fault: f.key})
	}
	for _, s := range subjects() {
		old.Idle = append(old.Idle, Cost{Subject: s.Key})
		if s.Scaled {
			for range 3 * len(triggers()) {
				old.Scale = append(old.Scale, Many{Subject: s.Key, Family: ipv4, Count: 1})
			}
		}
	}
	old.Scale = append(old.Scale, Many{Subject: s.Key, Family: ipv6, Count: 1})
	old.Steady = []Renewal{{Family: ipv4, Count: 1}, {Family: ipv6, Count: 1}}
	crash := VolumeTrial{Trial: Trial{Fault: "crash"}, FSType: "xfs", Dirty: true}
	old.Volumes = []VolumeTrial{crash, crash}
	if err := old.Write(filepath.Join(cfg.Dir, ResultsFile)); err != nil {
		t.Fatal(err)
	}
	r, err := start(Machine{Had: "had 1", Load: "3.00"})
	if err != nil {
		t.Fatal(err)
	}
	if all := len(subjects()) * len(faults()) * 4; r.trials() != all-3 || !r.idled(s.Key) {
		t.Errorf("%d of %d trials are left after 3; idled: %t", r.trials(), all, r.idled(s.Key))
	}
	if !r.scaled(ipv4, 1) || r.scaled(ipv6, 1) || r.scaled(ipv4, 100) {
		t.Error("what is measured of many addresses isn't what the results say")
	}
	if all := r.takeovers() * len(volumeCases()); r.volumesLeft() != all-2 {
		t.Errorf("%d of %d trials of volumes are left after 2", r.volumesLeft(), all)
	}
	if len(r.report.Steady) != 1 || r.report.Scale[len(r.report.Scale)-1].Family != ipv4 {
		t.Error("half a measurement is kept")
	}
	if _, err := start(Machine{Had: "had 2"}); err == nil || !strings.Contains(err.Error(), "had 2") {
		t.Errorf("of another program: %v", err)
	}
}

// What is measured once more takes the place of what there was of it, and says with
// which program it was.
func TestPartsAreMeasuredAnew(t *testing.T) {
	t.Parallel()
	cfg := Config{Trials: 4, Keepalived: "/k", Progress: io.Discard, Dir: t.TempDir(), Anew: []string{partScale, "crash"}}
	old := Report{
		Trials: 4, Complete: true, Machine: Machine{Had: "had 1", Load: "0.01"}, Later: map[string]string{partIdle: "had 0", "crash": "had 0"},
		Faults: []Trial{{Fault: "crash"}, {Fault: "stop"}}, Idle: []Cost{{}}, Scale: []Many{{}}, Steady: []Renewal{{}}, Volumes: []VolumeTrial{{}},
		Missing: []Missing{{partScale, "1000 IPv6"}, {partVolumes, "xfs"}},
	}
	if err := old.Write(filepath.Join(cfg.Dir, ResultsFile)); err != nil {
		t.Fatal(err)
	}
	start := func(m Machine) (*runner, bool, error) {
		r, err := newRunner(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.report.Machine = m
		complete, err := r.anew()
		return r, complete, err
	}
	r, complete, err := start(Machine{Had: "had 2", Load: "3.00"})
	if err != nil || !complete {
		t.Fatal(complete, err)
	}
	got := r.report
	if len(got.Faults) != 1 || got.Faults[0].Fault != "stop" || len(got.Scale)+len(got.Steady) != 0 || len(got.Idle) != 1 || len(got.Volumes) != 1 {
		t.Errorf("kept: %+v", got)
	}
	if got.Machine != old.Machine || !maps.Equal(got.Later, map[string]string{partIdle: "had 0", partScale: "had 2", "crash": "had 2"}) {
		t.Errorf("made with %+v, later %v", got.Machine, got.Later)
	}
	if len(got.Missing) != 1 || got.Missing[0].Part != partVolumes {
		t.Errorf("missing: %v", got.Missing)
	}
	if !r.wants("crash") || !r.wants(partScale) || r.wants("stop") || r.wants(partIdle) {
		t.Error("other parts are measured than those asked for")
	}
	if page := machineTable(got); !strings.Contains(page, "| had, for many addresses | had 2 |") || !strings.Contains(page, "| had, for SIGKILL | had 2 |") {
		t.Error(page)
	}
	if _, _, err := start(Machine{Had: "had 2", CPU: "another"}); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("on another machine: %v", err)
	}
	cfg.Resume = true
	if _, err := newRunner(cfg); err == nil {
		t.Error("anew and resume")
	}
}
