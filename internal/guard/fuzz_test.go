package guard

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
	"had/storage"
	"had/vip"
)

// datagrams puts datagrams behind each other, each after its length (uvarint),
// which is how FuzzMessages gets them.
func datagrams(t testing.TB, requests ...Request) (out []byte) {
	t.Helper()
	for i, r := range requests {
		data, err := encode(message{Number: uint64(i), Request: r}) //nolint:gosec // a handful
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.AppendUvarint(out, uint64(len(data))), data...)
	}
	return out
}

// wardenState is all that a request may change.
type wardenState struct {
	epoch, last uint64
	addrs       []vip.Address
	ended       bool
	scripts     map[string]hook.Running
	deadline    int64
	volumes     []storage.Volume
	maybe       map[string]bool
	closed      bool
}

func stateOf(w *Warden) wardenState {
	return wardenState{w.epoch, w.last, slices.Clone(w.addrs), w.ended, maps.Clone(w.scripts), w.cfg.Page.deadline.Load(), w.disks.all, maps.Clone(w.disks.maybe), w.disks.closed}
}

func (s wardenState) equal(o wardenState) bool {
	return s.epoch == o.epoch && s.last == o.last && s.ended == o.ended && s.deadline == o.deadline &&
		slices.Equal(s.addrs, o.addrs) && maps.Equal(s.scripts, o.scripts) &&
		len(s.volumes) == len(o.volumes) && beginsWith(s.volumes, o.volumes) && maps.Equal(s.maybe, o.maybe) && s.closed == o.closed
}

// FuzzMessages gives a guard datagrams of any bytes, and lets deadlines pass
// between them. A refusal changes nothing; no epoch is held twice, nor one
// below an earlier one; and one that the guard has ended is never extended.
func FuzzMessages(f *testing.F) {
	start := clock.Instant(1000)
	hold := Request{Op: OpHold, Epoch: 7, Until: start + 3000, Addresses: vips()}
	longer, next := hold, hold
	longer.Until += 5000
	next.Epoch = 9
	full := hold
	full.Volumes = twoVolumes()
	mount := Request{Op: OpMount, Epoch: 7, Name: "data", ClearMMP: true}
	unmount := Request{Op: OpUnmount, Epoch: 7, Name: "data"}
	f.Add(datagrams(f, full, mount, Request{Op: OpDrop, Epoch: 7}, unmount, Request{Op: OpDrop, Epoch: 7}, Request{Op: OpClose}), uint16(1))
	f.Add(datagrams(f, full, mount, Request{Op: OpSecure, Epoch: 7}, mount, hold, full, Request{Op: OpDrop, Epoch: 7}), uint16(900))
	reserve, evict := Request{Op: OpReserve, Epoch: 7, Key: 14}, Request{Op: OpEvict, Volumes: twoVolumes(), Key: 13}
	f.Add(datagrams(f, evict, full, evict, reserve, mount, reserve, evict, unmount, Request{Op: OpDrop, Epoch: 7}), uint16(1))
	full.Adopted, full.Mounted = true, []string{"data"}
	f.Add(datagrams(f, full, Request{Op: OpDrop, Epoch: 7}, unmount, mount), uint16(3000))
	script := &hook.Running{ID: "r1", Stage: hook.PreAcq, Script: "PreAcq10"}
	f.Add(datagrams(f, hold, longer, Request{Op: OpDrop, Epoch: 7}, next), uint16(1))
	f.Add(datagrams(f, hold, longer, next, Request{Op: OpClose}), uint16(2000))
	f.Add(datagrams(f, Request{Op: OpScript, Script: script}, Request{Op: OpClose}, Request{Op: OpScriptEnded, ID: "r1"}, Request{Op: OpClose}), uint16(0))
	f.Add(datagrams(f, hold, Request{Op: OpCertify, TLS: &peer.PEM{CA: []byte("x")}}, Request{Op: OpCertify}), uint16(1))
	f.Add([]byte("\x02{}\x04null\x10{\"number\":\"one\"}"), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, pace uint16) {
		now := start
		w := NewWarden(WardenConfig{
			Volumes: noVolumes{}, Page: NewPage(), Now: func() clock.Instant { return now }, Margin: 2, Logger: hclog.NewNullLogger(),
			Teller: alone{}, Spool: alone{},
		})
		defer w.tasks.Wait()
		defer func() { w.telling.stop() }()
		for len(data) > 0 {
			n, head := binary.Uvarint(data)
			if head <= 0 || n > uint64(len(data)-head) {
				return
			}
			m, err := decodeMessage(data[head : head+int(n)]) //nolint:gosec // n is at most len(data)
			data = data[head+int(n):]                         //nolint:gosec // as above
			now += clock.Instant(pace)
			if w.epoch != 0 {
				w.ended, _ = w.cfg.Page.due(now, w.lead())
			}
			if err != nil {
				continue
			}
			before := stateOf(w)
			if m.Request.Slow() {
				err = w.begin(t.Context(), Call{Request: m.Request, Reply: func(error) {}})
				if w.disks.work != nil {
					(<-w.finished)(t.Context())
				}
			} else {
				err = w.handle(t.Context(), m.Request)
			}
			after := stateOf(w)
			switch {
			case err != nil && !before.equal(after):
				t.Fatalf("%+v was refused (%v) and changed %+v to %+v", m.Request, err, before, after)
			case after.last < before.last || after.epoch > after.last:
				t.Fatalf("%+v led from %+v to %+v", m.Request, before, after)
			case before.ended && after.ended && after.deadline != overForGood:
				t.Fatalf("%+v extended epoch %d after its end", m.Request, before.epoch)
			case after.epoch != before.epoch && after.epoch != 0 && (before.epoch != 0 || after.epoch <= before.last):
				t.Fatalf("epoch %d is held after %+v", after.epoch, before)
			case (after.epoch == 0) != (after.deadline == nothingHeld) || (after.epoch == 0) != (len(after.addrs)+len(after.volumes) == 0):
				t.Fatalf("%+v left a guard that half holds: %+v", m.Request, after)
			case before.ended && len(after.maybe) > len(before.maybe) && before.epoch == after.epoch, before.closed && len(after.maybe) > len(before.maybe):
				t.Fatalf("%+v mounted for epoch %d after its end", m.Request, after.epoch)
			case before.epoch != 0 && after.epoch != before.epoch && len(before.maybe) > 0:
				t.Fatalf("%+v ended epoch %d with %v mounted", m.Request, before.epoch, before.maybe)
			}
		}
	})
}

// alone is a host without others, and without a disk.
type alone struct{}

func (alone) Tell(context.Context, *hadv1.Farewell)       {}
func (alone) TellSecured(context.Context, *hadv1.Secured) {}
func (alone) Keep(*hadv1.Farewell) error                  { return nil }
func (alone) KeepSecured(*hadv1.Secured) error            { return nil }

// noVolumes does whatever it is told, at once.
type noVolumes struct{}

func (noVolumes) Reserve(context.Context, []storage.Volume, uint64) error { return nil }

func (noVolumes) Evict(context.Context, []storage.Volume, uint64) error { return nil }

func (noVolumes) Mount(context.Context, storage.Volume, bool) error { return nil }
func (noVolumes) Unmount(context.Context, storage.Volume) error     { return nil }
func (noVolumes) Secure(context.Context, []storage.Volume) error    { return nil }
func (noVolumes) Abandon(context.Context, []storage.Volume) error   { return nil }
func (noVolumes) Rest()                                             {}
