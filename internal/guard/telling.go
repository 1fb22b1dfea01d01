package guard

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// telling is what the others are being told of volumes that are safe while had lives.
// It outlasts the epoch. The zero value is nothing.
type telling struct {
	cancel context.CancelFunc
	done   chan struct{} // closed: all know it, or it was stopped
	limit  *time.Timer
}

// stop ends it: there is no need any more.
func (t *telling) stop() {
	if t.cancel == nil {
		return
	}
	t.cancel()
	if t.limit != nil {
		t.limit.Stop()
	}
	*t = telling{}
}

// stopAfter ends it in some time, unless it has ended by itself.
func (t *telling) stopAfter(d time.Duration) {
	if t.cancel != nil && t.limit == nil {
		t.limit = time.AfterFunc(d, t.cancel)
	}
}

// end gives it a last moment.
func (t *telling) end(ctx context.Context) {
	if t.cancel == nil {
		return
	}
	defer t.stop()
	patience := time.NewTimer(tellPatience)
	defer patience.Stop()
	select {
	case <-t.done:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// tellSecured says that the volumes are safe while had lives: to the disk, and
// to the others until all know it. The guard mounts nothing for the epoch any more:
// it has ended it, or forgets it now and holds none that it held before.
func (w *Warden) tellSecured(ctx context.Context) {
	s := &hadv1.Secured{
		Epoch: w.epoch, Instance: w.cfg.Instance, Kind: hadv1.Secured_KIND_GUARD, By: w.cfg.Instance.GetNode(), At: timestamppb.Now(),
		Detail: "the epoch was ended by force; its guard has unmounted all that it had mounted",
	}
	w.cfg.Logger.Warn("the volumes of the epoch are unmounted; the others are told", "epoch", w.epoch)
	w.disks.told = true
	epoch, logger := w.epoch, w.cfg.Logger
	go func() { // not joined: a stuck disk must not hold the guard for ever
		if err := w.cfg.Spool.KeepSecured(s); err != nil {
			logger.Error("that the volumes are safe was not kept for the next start", "epoch", epoch, "error", err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	w.telling = telling{cancel: cancel, done: done}
	w.tasks.Go(func() {
		defer close(done)
		w.cfg.Teller.TellSecured(ctx, s)
	})
}
