package guard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/steps"
	"had/storage"
)

// Volumes mounts and unmounts. A call may take as long as a device or a server
// does; it returns soon after ctx ends, and then what it had begun goes on or not:
// the next call first makes sure that it doesn't, or fails.
type Volumes interface {
	// Reserve takes the disks of vs with a key, if none of vs is mounted here; see
	// fence.Reserve.
	Reserve(ctx context.Context, vs []storage.Volume, key uint64) error
	// Evict takes them away from others; see fence.Evict. It may be called while
	// another method is under way, and then waits.
	Evict(ctx context.Context, vs []storage.Volume, key uint64) error
	// Mount fails with ErrNotMounted when nothing can have come of it.
	Mount(ctx context.Context, v storage.Volume, clearMMP bool) error
	// Unmount unmounts in order. nil is the proof that the volume is unmounted.
	Unmount(ctx context.Context, v storage.Volume) error
	// Secure unmounts by force, in reverse order. nil is the proof for all.
	Secure(ctx context.Context, vs []storage.Volume) error
	// Abandon has fail what waits for the server of a network file system, which may
	// be out of SIGKILL's reach until then. It proves nothing.
	Abandon(ctx context.Context, vs []storage.Volume) error
	// Rest says that nothing is mounted, nor will be soon.
	Rest()
}

// Services are what hook scripts leave running, by epoch.
type Services interface {
	Open(epoch uint64) error                     // the scripts of epoch may start
	End(ctx context.Context, epoch uint64) error // nil: all are dead, and none can start any more
}

// ErrNotMounted says that a mount has failed so that the volume certainly isn't
// mounted.
var ErrNotMounted = errors.New("nothing was mounted")

// Lead is how long before a lease's end the guard begins, to be done at it.
// Addresses take no time; volumes do. had itself begins half a margin earlier.
func Lead(margin time.Duration, volumes bool) time.Duration {
	if volumes {
		return margin
	}
	return margin / 2
}

const (
	// securePatience bounds one attempt to end volumes by force: then whatever
	// hangs is killed, if it can be.
	securePatience = 5 * time.Second
	// secureEvery is the longest pause between two attempts.
	secureEvery = time.Second
)

// disks are the volumes of the epoch that is held.
//
// Invariant: what isn't in maybe is not mounted: a name is there from before
// anybody is told to mount it until it is proven unmounted. Once closed is set
// nothing is added to it.
type disks struct {
	all    []storage.Volume // all that the epoch may mount, in order
	maybe  map[string]bool
	closed bool // nothing is mounted any more: had has asked for Secure, the lease has ended, or another guard had the epoch

	work *work // what is under way; nil: nothing

	again clock.Instant // no attempt to secure before this
	pause time.Duration
	told  bool // the others are told that all is secured, or were

	forced bool // had has asked for Secure
}

// work is a call of Volumes under way, in a goroutine of its own.
type work struct {
	what     string
	secures  bool
	reserves bool
	cancel   context.CancelFunc
	replies  []func(error)
	next     []func(error) // who waits for a Secure that comes after it
}

// mounted returns what may be mounted, in order.
func (d *disks) mounted() []storage.Volume {
	return slices.DeleteFunc(slices.Clone(d.all), func(v storage.Volume) bool { return !d.maybe[v.Name] })
}

// lead is Lead for what is held now.
func (w *Warden) lead() clock.Instant { return clock.Instant(Lead(w.cfg.Margin, len(w.disks.all) > 0)) }

// holdable says why an epoch can't be held with these volumes.
func (w *Warden) holdable(r Request) error {
	switch {
	case r.Epoch == w.epoch && !beginsWith(r.Volumes, w.disks.all):
		return fmt.Errorf("hold epoch %d: its volumes were others when it was held first", r.Epoch)
	case r.Epoch == w.epoch && len(r.Volumes) > len(w.disks.all) && w.disks.closed:
		return fmt.Errorf("hold epoch %d: nothing more is mounted for it", r.Epoch)
	case len(r.Volumes) > 0 && w.cfg.Volumes == nil:
		return fmt.Errorf("hold epoch %d: this guard mounts nothing", r.Epoch)
	}
	return nil
}

// beginsWith reports whether all begins with first: an epoch may get further
// volumes, and loses none.
func beginsWith(all, first []storage.Volume) bool {
	return len(all) >= len(first) && slices.EqualFunc(all[:len(first)], first, func(v, w storage.Volume) bool { return reflect.DeepEqual(v, w) })
}

// moreVolumes holds those of an epoch that is held, with what it has got since.
func (w *Warden) moreVolumes(r Request) {
	if len(r.Volumes) == len(w.disks.all) {
		return
	}
	first := len(w.disks.all) == 0
	w.disks.all = slices.Clone(r.Volumes)
	if first {
		w.openServices(r.Epoch)
	}
}

// holdVolumes begins to hold them.
func (w *Warden) holdVolumes(r Request) {
	w.disks = disks{all: slices.Clone(r.Volumes), maybe: map[string]bool{}, closed: r.Adopted}
	if len(r.Volumes) == 0 {
		return
	}
	for _, name := range r.Mounted {
		w.disks.maybe[name] = true
	}
	w.openServices(r.Epoch)
}

// openServices lets the scripts of an epoch leave services running that are ended
// before its volumes are unmounted.
func (w *Warden) openServices(epoch uint64) {
	if w.cfg.Services == nil {
		return
	}
	if err := w.cfg.Services.Open(epoch); err != nil {
		w.cfg.Logger.Warn("what hooks leave running has no control group of its own; when a volume must go, only what is seen to use it is ended", "error", err)
	}
}

// dropVolumes forgets them, or says why they can't be.
func (w *Warden) dropVolumes(ctx context.Context) error {
	switch {
	case w.disks.work != nil:
		if w.disks.work.reserves {
			w.disks.work.cancel() // it isn't wanted any more
		}
		return fmt.Errorf("drop epoch %d: %s is under way", w.epoch, w.disks.work.what)
	case len(w.disks.maybe) > 0:
		return fmt.Errorf("drop epoch %d: not proven unmounted: %v", w.epoch, slices.Sorted(maps.Keys(w.disks.maybe)))
	}
	if len(w.disks.all) == 0 {
		return nil
	}
	if w.disks.forced && !w.disks.told {
		w.tellSecured(ctx)
	}
	w.telling.stopAfter(tellOn)
	w.disks = disks{}
	w.cfg.Volumes.Rest()
	return nil
}

// begin starts what a slow request asks for. After nil it is answered later.
func (w *Warden) begin(ctx context.Context, c Call) error {
	r := c.Request
	if err := r.check(); err != nil {
		return err
	}
	if r.Op == OpEvict {
		return w.evict(ctx, c)
	}
	d := &w.disks
	if r.Epoch != w.epoch || len(d.all) == 0 {
		return fmt.Errorf("%s: epoch %d isn't held, or has no volumes", r.Op, r.Epoch)
	}
	if r.Op == OpSecure {
		d.forced = true
		w.secure(ctx, c.Reply)
		return nil
	}
	if r.Op == OpReserve {
		return w.reserve(ctx, c)
	}
	i := slices.IndexFunc(d.all, func(v storage.Volume) bool { return v.Name == r.Name })
	if i < 0 {
		return fmt.Errorf("%s: epoch %d has no volume %.40q", r.Op, r.Epoch, r.Name)
	}
	if d.work != nil {
		return fmt.Errorf("%s %s: %s is under way", r.Op, r.Name, d.work.what)
	}
	v := d.all[i]
	what := fmt.Sprintf("%s of volume %s", r.Op, v.Name)
	if r.Op == OpUnmount {
		if !d.maybe[v.Name] {
			c.Reply(nil)
			return nil
		}
		w.start(ctx, &work{what: what, replies: []func(error){c.Reply}}, func(ctx context.Context) error {
			return w.cfg.Volumes.Unmount(ctx, v)
		}, func(err error) error {
			if err == nil {
				delete(w.disks.maybe, v.Name)
			}
			return err
		})
		return nil
	}
	if over, _ := w.cfg.Page.due(w.cfg.Now(), w.lead()); over || d.closed {
		return fmt.Errorf("mount %s: epoch %d is over, or being given up", v.Name, r.Epoch)
	}
	d.maybe[v.Name] = true
	w.start(ctx, &work{what: what, replies: []func(error){c.Reply}}, func(ctx context.Context) error {
		return w.cfg.Volumes.Mount(ctx, v, r.ClearMMP)
	}, func(err error) error {
		if errors.Is(err, ErrNotMounted) {
			delete(w.disks.maybe, v.Name)
		}
		if err == nil && w.disks.closed {
			err = fmt.Errorf("mount %s: epoch %d was given up meanwhile", v.Name, w.epoch)
		}
		return err
	})
	return nil
}

// start runs call beside the loop, and done in the loop when it has returned.
// What done returns is the answer.
func (w *Warden) start(ctx context.Context, k *work, call func(ctx context.Context) error, done func(error) error) {
	ctx, k.cancel = context.WithCancel(ctx)
	w.disks.work = k
	w.tasks.Go(func() {
		err := call(ctx)
		w.finished <- func(ctx context.Context) { // of capacity 1, and one work at a time
			k.cancel()
			w.disks.work = nil
			err = done(err)
			for _, reply := range k.replies {
				reply(err)
			}
			for _, reply := range k.next {
				w.secure(ctx, reply)
			}
		}
	})
}

// secure ends the volumes by force, after what is under way has been stopped.
// reply, if there is one, is told how it went.
func (w *Warden) secure(ctx context.Context, reply func(error)) {
	d := &w.disks
	d.closed = true
	if k := d.work; k != nil {
		switch {
		case reply == nil:
		case k.secures:
			k.replies = append(k.replies, reply)
		default:
			k.next = append(k.next, reply)
		}
		if !k.secures {
			k.cancel()
		}
		return
	}
	k := &work{what: "the forced end of the volumes", secures: true}
	if reply != nil {
		k.replies = append(k.replies, reply)
	}
	vs, scripts := d.mounted(), w.ungrouped()
	if len(vs) == 0 {
		w.settled(nil)
		for _, reply := range k.replies {
			reply(nil)
		}
		return
	}
	epoch := w.epoch
	w.start(ctx, k, func(ctx context.Context) error {
		return w.end(ctx, new(steps.Timeline), epoch, vs, scripts)
	}, func(err error) error {
		if err == nil {
			clear(w.disks.maybe)
		}
		w.settled(err)
		return err
	})
}

// settled notes how an attempt to secure went.
func (w *Warden) settled(err error) {
	d := &w.disks
	if err == nil {
		d.pause = 0
		return
	}
	d.pause = min(max(2*d.pause, retryEvery), secureEvery)
	d.again = w.cfg.Now().Add(d.pause)
	w.complain("the volumes are not proven unmounted; trying on, and telling nobody", err)
}

// end makes volumes safe: those who write first, for a sync that is under way
// while the file system is shut down may report success for what is lost. It
// runs beside the loop and changes nothing of the warden's.
func (w *Warden) end(ctx context.Context, t *steps.Timeline, epoch uint64, vs []storage.Volume, scripts []hook.Running) (err error) {
	whole := ctx
	defer func() {
		// A server that is gone may hold whoever is to be killed first: the next
		// attempt finds them free of it.
		if served := networkVolumes(vs); err != nil && len(served) > 0 {
			err = errors.Join(err, w.cfg.Volumes.Abandon(whole, served))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, securePatience)
	defer cancel()
	if err := w.endServices(ctx, t, epoch); err != nil {
		return err
	}
	if len(scripts) > 0 {
		err := t.Run("scripts_killed", func() error {
			var errs []error
			for _, r := range scripts {
				_, err := w.cfg.Kill(ctx, r)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	return t.Run("volumes_secured", func() error { return w.cfg.Volumes.Secure(ctx, vs) })
}

func networkVolumes(vs []storage.Volume) []storage.Volume {
	return slices.DeleteFunc(slices.Clone(vs), func(v storage.Volume) bool { return !v.Network() })
}

func (w *Warden) endServices(ctx context.Context, t *steps.Timeline, epoch uint64) error {
	if w.cfg.Services == nil {
		return nil
	}
	return t.Run("services_killed", func() error { return w.cfg.Services.End(ctx, epoch) })
}

// ungrouped are the scripts that don't end with the services of their epoch.
func (w *Warden) ungrouped() []hook.Running {
	var out []hook.Running
	for _, id := range slices.Sorted(maps.Keys(w.scripts)) {
		if r := w.scripts[id]; !r.Grouped || w.cfg.Services == nil {
			out = append(out, r)
		}
	}
	return out
}

// watchVolumes ends the volumes of an epoch that is over and that had doesn't
// give up, and returns when to look again.
func (w *Warden) watchVolumes(ctx context.Context, again clock.Instant) clock.Instant {
	d := &w.disks
	switch {
	case len(d.all) == 0 || d.told:
		return again
	case d.work != nil && d.work.secures:
		return again // and at its end
	case d.work == nil && w.cfg.Now().Before(d.again):
		return min(again, d.again)
	}
	w.secure(ctx, nil)
	if d.work == nil && len(d.maybe) == 0 {
		w.tellSecured(ctx)
	}
	return again
}

// buryVolumes waits for what is under way when had has died. The addresses don't.
func (w *Warden) buryVolumes(ctx context.Context) {
	d := &w.disks
	d.closed = true
	if d.work == nil {
		return
	}
	if err := w.takeDown(ctx, new(steps.Timeline)); err != nil {
		w.complain("the addresses did not go away; trying on", err)
	}
	d.work.next = nil // had is dead: nobody waits
	if !d.work.secures {
		d.work.cancel()
	}
	(<-w.finished)(ctx)
}

// giveVolumesBack ends, after had's death, what its hooks have left running and
// what it has mounted.
func (w *Warden) giveVolumesBack(ctx context.Context, t *steps.Timeline) error {
	if vs := w.disks.mounted(); len(vs) > 0 {
		if err := w.end(ctx, t, w.epoch, vs, w.ungrouped()); err != nil {
			return err
		}
		clear(w.disks.maybe)
	} else {
		ctx, cancel := context.WithTimeout(ctx, securePatience)
		defer cancel()
		if err := w.endServices(ctx, t, w.epoch); err != nil {
			return err
		}
	}
	if w.cfg.Services != nil { // they were in the group that has been ended
		maps.DeleteFunc(w.scripts, func(_ string, r hook.Running) bool { return r.Grouped && r.Epoch == w.epoch })
	}
	return nil
}
