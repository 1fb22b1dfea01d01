package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
	"had/storage"
)

// leftMounts are the volumes that a dead run left behind.
type leftMounts struct {
	diary *diary
	err   error
}

func (l *leftMounts) Secure(_ context.Context, epoch uint64, volumes []storage.Volume) error {
	l.diary.add("secure %d: %s", epoch, volumes[0].Device)
	return l.err
}

func (l *leftMounts) Unused(_ context.Context, volumes []storage.Volume) error {
	l.diary.add("look for %s", volumes[0].Device)
	return l.err
}

func leftMounted() (RecoverConfig, *memoryJournal, *leftMounts, *diary) {
	cfg, j, _, _, d := leftBehind()
	l := &leftMounts{diary: d}
	cfg.Volumes = l
	j.tenure.Volumes = []*hadv1.HeldVolume{{Name: "web", Device: "LABEL=web", Path: "/srv/web", Fstype: "ext4"}}
	return cfg, j, l, d
}

// The volumes come after the addresses and whatever could still act, and before
// the report.
func TestRecoverProvesVolumesBeforeItReports(t *testing.T) {
	cfg, _, _, d := leftMounted()
	r, err := Recover(t.Context(), cfg)
	if err != nil || r.Unproven != "" {
		t.Fatal(r, err)
	}
	want := []string{"remove 2", "kill", "report interrupted", "remove 2", "secure 7: LABEL=web", "report released 7"}
	if got := d.all(); !slices.Equal(got[:len(want)], want) {
		t.Errorf("it did\n%q, want first\n%q", got, want)
	}
}

// Without the proof the node starts, says nothing of the epoch, and knows why it
// can't own. The proof may come later.
func TestRecoverWithoutProofLeavesTheRecord(t *testing.T) {
	cfg, j, l, _ := leftMounted()
	l.err = errors.New("/srv/web is busy")
	for range 2 {
		r, err := Recover(t.Context(), cfg)
		if err != nil || !strings.Contains(r.Unproven, "web of epoch 7") || !strings.Contains(r.Unproven, "/srv/web is busy") {
			t.Fatalf("%+v, %v", r, err)
		}
		if len(j.released()) != 0 || j.tenure == nil {
			t.Fatalf("reported %v; the journal has %v", j.released(), j.tenure)
		}
	}
	l.err = nil
	r, err := Recover(t.Context(), cfg)
	if err != nil || r.Unproven != "" || len(j.released()) != 1 || j.tenure != nil {
		t.Errorf("%+v, %v; reported %v", r, err, j.released())
	}

	cfg, j, _, _ = leftMounted()
	cfg.Volumes = nil
	if r, err := Recover(t.Context(), cfg); err != nil || r.Unproven == "" || len(j.released()) != 0 {
		t.Errorf("without anybody to look: %+v, %v", r, err)
	}
}

// After a reboot nothing was mounted for had: it looks, and forces nothing.
func TestRecoverAfterARebootOnlyLooks(t *testing.T) {
	cfg, j, l, d := leftMounted()
	cfg.Instance.BootId = "another"
	l.err = errors.New("LABEL=web is mounted on /mnt")
	r, err := Recover(t.Context(), cfg)
	if err != nil || !strings.Contains(r.Unproven, "mounted on /mnt") || len(j.released()) != 0 {
		t.Errorf("%+v, %v; reported %v", r, err, j.released())
	}
	if slices.ContainsFunc(d.all(), func(s string) bool { return strings.HasPrefix(s, "secure") }) {
		t.Errorf("it did %v", d.all())
	}
	l.err = nil
	if _, err := Recover(t.Context(), cfg); err != nil || j.pending[len(j.pending)-1].GetReleased().GetKind() != hadv1.Evidence_KIND_REBOOTED {
		t.Errorf("%v; reported %v", err, j.pending)
	}
}

// What that run, or its guard, has reported was proven then.
func TestRecoverBelievesAnEarlierProof(t *testing.T) {
	for name, said := range map[string]func(cfg *RecoverConfig, j *memoryJournal){
		"the run": func(_ *RecoverConfig, j *memoryJournal) { j.tenure.Released = true },
		"its guard": func(cfg *RecoverConfig, _ *memoryJournal) {
			cfg.Farewell = &hadv1.Farewell{Released: &hadv1.Released{Epoch: 7}}
		},
	} {
		cfg, j, l, d := leftMounted()
		l.err = errors.New("not asked")
		said(&cfg, j)
		if r, err := Recover(t.Context(), cfg); err != nil || r.Unproven != "" || j.tenure != nil || slices.Contains(d.all(), "secure 7: LABEL=web") {
			t.Errorf("%s: %+v, %v, %v", name, r, err, d.all())
		}
	}
}

// In another network namespace nobody can say anything: nor that it is over.
func TestRecoverElsewhereKeepsVolumesInMind(t *testing.T) {
	cfg, j, _, _ := leftMounted()
	j.tenure.Namespace, cfg.Namespace = "net:[1]", "net:[2]"
	if r, err := Recover(t.Context(), cfg); err != nil || !strings.Contains(r.Unproven, "net:[1]") || j.tenure == nil || len(j.released()) != 0 {
		t.Errorf("%+v, %v, tenure %v", r, err, j.tenure)
	}
}
