package guard

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// reservePatience bounds the taking of disks: Linux gives a command 30 s. After
// that whatever hangs is killed, if it can be.
const reservePatience = 45 * time.Second

// reserve takes the disks of the epoch's volumes. That is refused once one may be
// mounted: a host that was driven out while it had one mounted must not become
// able to write to it again (internal/fence/DESIGN.md, "Two rules").
func (w *Warden) reserve(ctx context.Context, c Call) error {
	d, epoch := &w.disks, c.Request.Epoch
	if err := w.nothingMounted(c.Request.Op); err != nil {
		return err
	}
	if d.work != nil {
		return fmt.Errorf("reserve the disks of epoch %d: %s is under way", epoch, d.work.what)
	}
	if over, _ := w.cfg.Page.due(w.cfg.Now(), w.lead()); over || d.closed {
		return fmt.Errorf("reserve the disks of epoch %d: it is over, or being given up", epoch)
	}
	vs := slices.Clone(d.all)
	w.start(ctx, &work{what: "reserving the disks", reserves: true, replies: []func(error){c.Reply}}, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, reservePatience)
		defer cancel()
		return w.cfg.Volumes.Reserve(ctx, vs, c.Request.Key)
	}, func(err error) error {
		if err == nil && w.disks.closed {
			err = fmt.Errorf("reserve the disks of epoch %d: it was given up meanwhile", epoch)
		}
		return err
	})
	return nil
}

// evict takes disks away from another epoch's owner, beside the loop and whatever
// is held: this node may be waiting for just that. Who mounts looks again, right
// before, whether one of the volumes is mounted here.
func (w *Warden) evict(ctx context.Context, c Call) error {
	if w.cfg.Volumes == nil {
		return fmt.Errorf("%s: this guard mounts nothing", c.Request.Op)
	}
	if err := w.nothingMounted(c.Request.Op); err != nil {
		return err
	}
	w.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, reservePatience)
		defer cancel()
		err := w.cfg.Volumes.Evict(ctx, c.Request.Volumes, c.Request.Key)
		w.cfg.Volumes.Rest()
		c.Reply(err)
	})
	return nil
}

func (w *Warden) nothingMounted(op Op) error {
	if len(w.disks.maybe) > 0 {
		return fmt.Errorf("%s: of epoch %d %v may be mounted here", op, w.epoch, slices.Sorted(maps.Keys(w.disks.maybe)))
	}
	return nil
}
