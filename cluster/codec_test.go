package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

func sampleCommands() []*hadv1.Command {
	alpha := instance("alpha", 1)
	return []*hadv1.Command{
		{},
		birthCmd(testBirth()),
		policyCmd(0, `vip "web" { address = "192.0.2.10" }`),
		acquireCmd(alpha, 2, waited(3, 4)),
		renewCmd(alpha, 2, 5),
		deliverCmd(hookResult("alpha", 1, 5), released("alpha", 2, 5)),
		moveCmd("op", 5, "beta"),
		moveEndCmd("op"),
		mountsCmd(alpha, 2),
		securedCmd("beta", secured(hadv1.Secured_KIND_WATCHDOG, alpha, 2, 5, 6)),
		deliverCmd(copied("beta", 1, 5)),
		syncResumeCmd("pages", 5),
		serviceCmd("tickets", 3, alpha, 5),
		forgetCmd("tickets", 4),
		claimCmd(2, "email.ops", 5, 6),
		markCmd("email.ops", 7, gaveUp),
		freezeCmd("op", time.Hour),
		unfreezeCmd(5),
		drainCmd("beta"),
		undrainCmd("beta"),
		holdCmd(2, 5),
		resumeCmd(),
		deliverCmd(checkChange("alpha", 3, 5, true)),
	}
}

// sampleState has something in every field of a snapshot.
func sampleState(t *testing.T) *State {
	l := bornLog(t)
	epoch := l.must(1, mountsCmd(instance("alpha", 1), 1))
	l.must(1, moveCmd("op", epoch, "beta"))
	l.must(1, deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_VETOED)))
	l.must(2, securedCmd("beta", secured(hadv1.Secured_KIND_FENCED, instance("alpha", 1), 2, epoch, epoch)))
	l.must(2, deliverCmd(released("alpha", 1, epoch)))
	epoch = l.must(3, mountsCmd(instance("beta", 1), 3))
	l.must(3, syncResumeCmd("pages", epoch))
	l.must(3, deliverCmd(copied("alpha", 2, epoch)))
	l.must(3, moveCmd("op-2", epoch, "alpha"))
	l.must(2, tokenCmd("tickets", 0, 1))
	l.must(2, tokenCmd("tickets", 1, 1))
	l.must(2, markCmd("email.ops", l.must(2, claimCmd(2, "email.ops", 2, 4)), sent))
	l.must(2, claimCmd(2, "email.ops", 4, 6))
	l.must(2, freezeCmd("op", time.Hour))
	l.must(2, drainCmd("beta"))
	l.must(2, holdCmd(2, epoch))
	l.must(2, deliverCmd(checkChange("alpha", 1, epoch, true)))
	l.state.countFailover(&hadv1.Failover{Index: 3, Node: "alpha"})
	l.state.dropped = 3
	return l.state
}

func TestCommandsComeBackWhole(t *testing.T) {
	for _, cmd := range sampleCommands() {
		data, err := encodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeCommand(data)
		if err != nil || !proto.Equal(got, cmd) {
			t.Errorf("%v came back as %v (%v)", cmd, got, err)
		}
		if want := cmd.GetAcquire() != nil || cmd.GetLeaseRenew() != nil; carriesLease(data) != want {
			t.Errorf("carriesLease of %v is %v", cmd, !want)
		}
	}
}

// damage calls f with every version of data in which one bit is flipped or
// whose end is missing.
func damage(data []byte, f func(what string, at int, damaged []byte)) {
	for bit := range len(data) * 8 {
		flipped := append([]byte(nil), data...)
		flipped[bit/8] ^= 1 << (bit % 8)
		f("flipped bit", bit, flipped)
	}
	for n := range data {
		f("cut to", n, data[:n])
	}
}

func TestDamagedCommandsAreDetected(t *testing.T) {
	for _, cmd := range sampleCommands() {
		data, err := encodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		damage(data, func(what string, at int, damaged []byte) {
			if got, err := decodeCommand(damaged); !errors.Is(err, ErrDamagedCommand) {
				t.Fatalf("%s %d: %v was read as %v (%v)", what, at, cmd, got, err)
			}
		})
		if _, err := decodeCommand(append(data, 0)); !errors.Is(err, ErrDamagedCommand) {
			t.Errorf("a byte too many was not noticed (%v)", err)
		}
	}
}

// A follower starts its wait again by the flag alone; an Acquire without it
// would be a lease that nobody waits for.
func TestLeaseFlagMustMatchTheRecord(t *testing.T) {
	for _, cmd := range sampleCommands() {
		data, err := encodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		data[1] ^= flagLease
		reseal(data)
		if _, err := decodeCommand(data); !errors.Is(err, ErrDamagedCommand) {
			t.Errorf("%v with the wrong flag was accepted (%v)", cmd, err)
		}
	}
}

// reseal gives an altered command a checksum that matches.
func reseal(data []byte) {
	sum := crcOf(data[:2], data[envelopeHeader:])
	data[2], data[3], data[4], data[5] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
}

func TestNewerFormatsSaySo(t *testing.T) {
	data, err := encodeCommand(&hadv1.Command{})
	if err != nil {
		t.Fatal(err)
	}
	data[0] = envelopeFormat + 1
	if _, err := decodeCommand(data); err == nil || !strings.Contains(err.Error(), "newer had: format 2, this version reads 1") {
		t.Errorf("a newer command: %v", err)
	}
	snap := encode(t, NewState())
	snap[len(snapshotMagic)] = snapshotLeveled + 1
	if _, err := DecodeState(snap); err == nil || !strings.Contains(err.Error(), "format 3, this version reads 1 and 2") {
		t.Errorf("a newer snapshot: %v", err)
	}
}

func TestSnapshotsComeBackWhole(t *testing.T) {
	for _, s := range []*State{NewState(), sampleState(t)} {
		first := encode(t, s)
		if second := encode(t, restored(t, s)); string(first) != string(second) {
			t.Errorf("a restored state encodes differently:\n%x\n%x", first, second)
		}
	}
}

func TestDamagedSnapshotsAreDetected(t *testing.T) {
	damage(encode(t, sampleState(t)), func(what string, at int, damaged []byte) {
		if _, err := DecodeState(damaged); !errors.Is(err, ErrDamagedSnapshot) {
			t.Fatalf("%s %d: the snapshot was read (%v)", what, at, err)
		}
	})
}

func FuzzDecodeCommand(f *testing.F) {
	for _, cmd := range sampleCommands() {
		data, err := encodeCommand(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[1], data[envelopeHeader:])
	}
	f.Add(byte(0), []byte("\xff\xff\xff"))
	// The checksum is made to match, for no fuzzer finds one.
	f.Fuzz(func(t *testing.T, flags byte, body []byte) {
		data := append([]byte{envelopeFormat, flags, 0, 0, 0, 0}, body...)
		reseal(data)
		cmd, err := decodeCommand(data)
		if err != nil {
			if !errors.Is(err, ErrDamagedCommand) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		if isLease(cmd) != carriesLease(data) {
			t.Fatalf("a lease entry that doesn't say so: %v", cmd)
		}
		// Whatever it holds, Apply answers, and a refusal changes nothing.
		l := bornLog(t)
		l.must(1, acquireCmd(instance("alpha", 1), 1))
		before := encodeAt(t, l.state, 0)
		v := l.state.Apply(Entry{Index: 9, Term: 1}, cmd)
		if v.Refused != "" && string(before) != string(encodeAt(t, l.state, 0)) {
			t.Fatalf("refused (%s) and changed the state: %v", v.Refused, cmd)
		}
		if len(l.state.open) > 1 {
			t.Fatalf("two owners after %v", cmd)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\xff\xff\xff"))
	seed := bornLogSnapshot(f)
	f.Add(seed[snapshotHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		data := append([]byte(snapshotMagic), snapshotFormat, 0, 0, 0, 0)
		sum := crcOf(body)
		data = append(data[:len(snapshotMagic)+1], byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
		s, err := DecodeState(append(data, body...))
		if err != nil {
			if !errors.Is(err, ErrDamagedSnapshot) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		if first, second := encode(t, s), encode(t, restored(t, s)); string(first) != string(second) {
			t.Fatalf("a restored state encodes differently:\n%x\n%x", first, second)
		}
	})
}

func bornLogSnapshot(f *testing.F) []byte {
	s := NewState()
	s.Apply(Entry{Index: 1, Term: 1}, birthCmd(testBirth()))
	s.Apply(Entry{Index: 2, Term: 1}, policyCmd(0, "x"))
	s.Apply(Entry{Index: 3, Term: 1}, mountsCmd(instance("alpha", 1), 1))
	s.Apply(Entry{Index: 4, Term: 1}, securedCmd("beta", secured(hadv1.Secured_KIND_GUARD, instance("alpha", 1), 1, 3, 3)))
	s.Apply(Entry{Index: 5, Term: 1}, deliverCmd(progress("beta", 1, 0, hadv1.Progress_OUTCOME_FAILED)))
	s.Apply(Entry{Index: 6, Term: 1}, tokenCmd("tickets", 0, 1))
	data, err := s.Encode()
	if err != nil {
		f.Fatal(err)
	}
	return data
}
