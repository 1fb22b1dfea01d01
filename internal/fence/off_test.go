package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// board is a device that does what it is told to.
type board struct {
	name   string
	offErr error
	isOff  func(tellings int) error // nil: what Off made of it

	mu       sync.Mutex
	tellings int
	log      *[]string
}

func (b *board) String() string              { return b.name }
func (b *board) Check(context.Context) error { return b.offErr }

func (b *board) Off(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tellings++
	b.write("off " + b.name)
	return b.offErr
}

func (b *board) IsOff(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write("ask " + b.name)
	if b.isOff != nil {
		return b.isOff(b.tellings)
	}
	return b.offErr
}

func (b *board) write(s string) {
	if b.log != nil {
		*b.log = append(*b.log, s)
	}
}

func always(err error) func(int) error { return func(int) error { return err } }

func TestOff(t *testing.T) {
	failed := errors.New("no answer")
	off := func(n string) Level { return Level{&board{name: n}} }
	for name, test := range map[string]struct {
		levels []Level
		off    bool
		says   []string
	}{
		"it is off":                               {levels: []Level{off("a")}, off: true},
		"it says it did, and the host is on":      {levels: []Level{{&board{name: "a", isOff: always(ErrOn)}}}, says: []string{"the host is still on"}},
		"it says it failed, and the host is off":  {levels: []Level{{&board{name: "a", offErr: failed, isOff: always(nil)}}}, off: true},
		"nobody knows":                            {levels: []Level{{&board{name: "a", offErr: failed}}}, says: []string{"no answer"}},
		"the second level":                        {levels: []Level{{&board{name: "a", offErr: failed}}, off("b")}, off: true},
		"one of two power supplies":               {levels: []Level{{&board{name: "a"}, &board{name: "b", isOff: always(ErrOn)}}}, says: []string{"still on"}},
		"both power supplies":                     {levels: []Level{{&board{name: "a"}, &board{name: "b"}}}, off: true},
		"halves of two levels are no whole":       {levels: []Level{{&board{name: "a"}, &board{name: "b", offErr: failed}}, {&board{name: "c", offErr: ErrOn}, &board{name: "d"}}}, says: []string{"level 1: no answer", "level 2: the host is still on"}},
		"on the second try":                       {levels: []Level{{&board{name: "a", isOff: func(n int) error { return map[bool]error{true: ErrOn}[n < 2] }}}}, off: true},
		"no level":                                {says: []string{"no device"}},
		"a level without a device proves nothing": {levels: []Level{{}}, says: []string{"proves nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := Off(t.Context(), test.levels...)
				if (err == nil) != test.off {
					t.Errorf("Off: %v, want off %t", err, test.off)
				}
				for _, s := range test.says {
					if err != nil && !strings.Contains(err.Error(), s) {
						t.Errorf("Off: %v, want it to say %q", err, s)
					}
				}
			})
		})
	}
}

// Two outlets of one level: what was asked before the other was switched off
// says nothing about the host.
func TestAllAreAskedAfterAllWereTold(t *testing.T) {
	var log []string
	a, b := &board{name: "a"}, &board{name: "b"}
	a.log, b.log = &log, &log
	var one sync.Mutex // the order between the two is any
	level := Level{locked{a, &one}, locked{b, &one}}
	if err := Off(t.Context(), level); err != nil {
		t.Fatal(err)
	}
	for i, s := range log {
		if told := i < 2; told != strings.HasPrefix(s, "off ") {
			t.Errorf("they were told and asked in the order %v", log)
		}
	}
}

type locked struct {
	Device
	mu *sync.Mutex
}

func (l locked) Off(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Device.Off(ctx)
}

func (l locked) IsOff(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Device.IsOff(ctx)
}

func TestOffGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // within the first pause
		defer cancel()
		a := &board{name: "a", offErr: errors.New("no answer")}
		begin := time.Now()
		if err := Off(ctx, Level{a}); err == nil {
			t.Error("Off says nil")
		}
		if d := time.Since(begin); d != time.Second || a.tellings != 1 {
			t.Errorf("it took %s and %d tries", d, a.tellings)
		}
		begin = time.Now()
		if err := Off(t.Context(), Level{a}); err == nil {
			t.Error("Off says nil")
		}
		if d := time.Since(begin); d != (rounds-1)*pause || a.tellings != 1+rounds {
			t.Errorf("it took %s and %d tries", d, a.tellings)
		}
	})
}

func TestDeviceError(t *testing.T) {
	cause := fmt.Errorf("exit code 1")
	err := &DeviceError{Device: "fence_ipmilan ip=10.0.9.11", Doing: "switch off", Said: "Connection timed out", Err: cause}
	if want := "fence_ipmilan ip=10.0.9.11: switch off: exit code 1: it said: Connection timed out"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}
