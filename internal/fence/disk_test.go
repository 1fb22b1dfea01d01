package fence

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What real reservations do is tested in a virtual machine (internal/vmtest).

func TestKeys(t *testing.T) {
	k := KeyOf(7)
	if epoch, ours := k.Epoch(); epoch != 7 || !ours || k != 0x6861640000000007 {
		t.Errorf("%s is of epoch %d, ours %t", k, epoch, ours)
	}
	if k.String() != "0x6861640000000007 (epoch 7)" {
		t.Errorf("it reads %s", k)
	}
	for _, other := range []Key{0, 1, 0x1234567800000007} {
		if _, ours := other.Epoch(); ours {
			t.Errorf("%s is taken for had's", other)
		}
	}
}

func TestExclusive(t *testing.T) {
	mine, other := KeyOf(8), KeyOf(7)
	for name, test := range map[string]struct {
		r    Reservation
		want bool
	}{
		"alone":                      {Reservation{Keys: []Key{mine}, Holder: mine, Type: 5}, true},
		"alone by two paths":         {Reservation{Keys: []Key{mine, mine}, Holder: mine, Type: 5}, true},
		"nobody":                     {Reservation{}, false},
		"registered":                 {Reservation{Keys: []Key{mine}}, false},
		"another is registered, too": {Reservation{Keys: []Key{mine, other}, Holder: mine, Type: 5}, false},
		"another holds it":           {Reservation{Keys: []Key{mine}, Holder: other, Type: 5}, false},
		"another type":               {Reservation{Keys: []Key{mine}, Holder: mine, Type: 1}, false},
		"not registered":             {Reservation{Holder: mine, Type: 5}, false},
	} {
		if got := test.r.Exclusive(mine); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestMayTake(t *testing.T) {
	mine := KeyOf(8)
	for name, test := range map[string]struct {
		r    Reservation
		says string
	}{
		"nobody":           {},
		"an earlier epoch": {r: Reservation{Keys: []Key{KeyOf(7), KeyOf(3)}, Holder: KeyOf(7), Type: 5}},
		"a later epoch":    {r: Reservation{Keys: []Key{KeyOf(7), KeyOf(9)}, Holder: KeyOf(7), Type: 5}, says: "(epoch 9) is registered: a later epoch has the disk"},
		"a later holder":   {r: Reservation{Holder: KeyOf(9), Type: 5}, says: "later epoch"},
		"somebody else":    {r: Reservation{Keys: []Key{0x1234}}, says: "0x1234 is registered, which isn't had's"},
		"another type":     {r: Reservation{Keys: []Key{KeyOf(7)}, Holder: KeyOf(7), Type: 3}, says: "type 3 instead of 5"},
	} {
		err := test.r.mayTake(mine)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, test.says)
		}
	}
	if err := (Reservation{}).mayTake(1); err == nil {
		t.Error("a disk may be taken with another's key")
	}
}

func TestParseReservation(t *testing.T) {
	keys := []byte{0, 0, 0, 9, 0, 0, 0, 16, 'h', 'a', 'd', 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}
	held := []byte{0, 0, 0, 9, 0, 0, 0, 16, 'h', 'a', 'd', 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 5, 0, 0}
	r, err := parseReservation(keys, held)
	if err != nil || r.Generation != 9 || !slices.Equal(r.Keys, []Key{KeyOf(7), 1}) || r.Holder != KeyOf(7) || r.Type != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	free := []byte{0, 0, 0, 9, 0, 0, 0, 0}
	if r, err := parseReservation(free, free); err != nil || len(r.Keys) != 0 || r.Holder != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	held[3] = 10
	if _, err := parseReservation(keys, held); !errors.Is(err, errChanged) {
		t.Errorf("of two generations: %v", err)
	}
	for _, short := range [][]byte{nil, free[:7], keys[:23]} {
		if _, err := parseReservation(short, held); err == nil {
			t.Errorf("% x is accepted", short)
		}
		if _, err := parseReservation(free, short); err == nil {
			t.Errorf("% x is accepted", short)
		}
	}
}

// A loop device has no persistent reservations, on any kernel.
func TestADiskWithoutReservations(t *testing.T) {
	d, err := OpenDisk(loop(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, readErr := d.Read()
	for doing, err := range map[string]error{
		"Take": d.Take(KeyOf(1), Abort), "Register": d.Register(KeyOf(1)), "Unregister": d.Unregister(KeyOf(1)), "Reserve": d.Reserve(KeyOf(1)),
		"Release": d.Release(KeyOf(1)), "Preempt": d.Preempt(KeyOf(2), KeyOf(1), Finish), "Preempt and abort": d.Preempt(KeyOf(2), KeyOf(1), Abort), "Clear": d.Clear(KeyOf(1)), "Read": readErr,
	} {
		if !errors.Is(err, ErrNoReservations) || !strings.Contains(err.Error(), "/dev/loop") {
			t.Errorf("%s: %v", doing, err)
		}
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	for path, says := range map[string]string{"/nowhere": "no such file", os.DevNull: "no block device", os.TempDir(): "no block device"} {
		if _, err := OpenDisk(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// loop makes a loop device.
func loop(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 1<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s (as root; apt-get install mount)", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return path
}
