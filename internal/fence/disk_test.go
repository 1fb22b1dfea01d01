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

// keyOf is a key of a cluster of the tests'.
func keyOf(epoch uint64) Key { return 0x6861abc<<keyTurnBits | Key(epoch)<<1 }

func TestKeys(t *testing.T) {
	k := keyOf(7)
	if epoch, seeks, ours := k.Epoch(); epoch != 7 || seeks || !ours {
		t.Errorf("%s is of epoch %d, of a seeker %t, ours %t", k, epoch, seeks, ours)
	}
	if epoch, seeks, _ := (k | 1).Epoch(); epoch != 7 || !seeks || k >= k|1 || k|1 >= keyOf(8) {
		t.Errorf("%s is of epoch %d, of a seeker %t, or out of order", k|1, epoch, seeks)
	}
	if k.String() != "0x6861abc00000000e (epoch 7)" || (k|1).String() != "0x6861abc00000000f (taken from epoch 7)" {
		t.Errorf("they read %s, %s", k, k|1)
	}
	for _, other := range []Key{0, 1, 0x1234567800000007, 0x6864} {
		if _, _, ours := other.Epoch(); ours {
			t.Errorf("%s is taken for had's", other)
		}
	}
	if top := keyOf(1<<35 - 1); !top.kin(k) || keyOf(1<<35).kin(k) {
		t.Error("an epoch that is too great isn't seen")
	}
}

func TestExclusive(t *testing.T) {
	mine, other := keyOf(8), keyOf(7)
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
	mine := keyOf(8)
	for name, test := range map[string]struct {
		r    Reservation
		says string
	}{
		"nobody":           {},
		"an earlier epoch": {r: Reservation{Keys: []Key{keyOf(7), keyOf(3)}, Holder: keyOf(7), Type: 5}},
		"a seeker before":  {r: Reservation{Keys: []Key{keyOf(7) | 1}, Holder: keyOf(7) | 1, Type: 5}},
		"a seeker for it":  {r: Reservation{Keys: []Key{mine | 1}}, says: "(taken from epoch 8) is registered: a later epoch has the disk"},
		"a later epoch":    {r: Reservation{Keys: []Key{keyOf(7), keyOf(9)}, Holder: keyOf(7), Type: 5}, says: "(epoch 9) is registered: a later epoch has the disk"},
		"a later holder":   {r: Reservation{Holder: keyOf(9), Type: 5}, says: "later epoch"},
		"somebody else":    {r: Reservation{Keys: []Key{0x1234}}, says: "0x1234 is registered, which isn't had's"},
		"another cluster":  {r: Reservation{Keys: []Key{0x6861abd<<keyTurnBits | 2}}, says: "which is another cluster's of had"},
		"another type":     {r: Reservation{Keys: []Key{keyOf(7)}, Holder: keyOf(7), Type: 3}, says: "type 3 instead of 5"},
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

func TestAbilities(t *testing.T) {
	for says, b := range map[string][]byte{
		"":                  {0, 8, 1, 0x80, 0x20, 0, 0, 0},
		"loss of its power": {0, 8, 0, 0x80, 0x20, 0, 0, 0},
		"of type 5":         {0, 8, 1, 0x80, 0x0a, 0, 0, 0},
		"too short":         {0, 8, 1},
	} {
		if err := unable(b); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want it to say %q", err, says)
		}
	}
	if err := unable([]byte{0, 8, 1, 0, 0, 0, 0, 0}); err != nil {
		t.Errorf("a disk that doesn't list its types: %v", err)
	}
}

func TestParseReservation(t *testing.T) {
	keys := []byte{0, 0, 0, 9, 0, 0, 0, 16, 'h', 'a', 0xab, 0xc0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}
	held := []byte{0, 0, 0, 9, 0, 0, 0, 16, 'h', 'a', 0xab, 0xc0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 5, 0, 0}
	r, err := parseReservation(keys, held)
	if err != nil || r.Generation != 9 || !slices.Equal(r.Keys, []Key{keyOf(7), 1}) || r.Holder != keyOf(7) || r.Type != 5 {
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
		"Take": d.Take(keyOf(1), Abort), "Register": d.Register(keyOf(1)), "Unregister": d.Unregister(keyOf(1)), "Reserve": d.Reserve(keyOf(1)),
		"Release": d.Release(keyOf(1)), "Preempt": d.Preempt(keyOf(2), keyOf(1), Finish), "Preempt and abort": d.Preempt(keyOf(2), keyOf(1), Abort), "Clear": d.Clear(keyOf(1)), "Read": readErr,
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
