package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"had/storage"
)

// LeftoversConfig says what an earlier run of had may have left.
type LeftoversConfig struct {
	DataDir string
	Volumes []storage.Volume // all that its epochs may have mounted, in order
	Exe     string           // the mounter's program; "" is this process's own
}

// leftoversPatience bounds it where ctx doesn't.
const leftoversPatience = 30 * time.Second

// SecureLeftovers ends what hooks of earlier runs have left running, and then
// the volumes by force. nil is the proof that nothing of this host can write to
// them. It fails while a mounter of an earlier guard is stuck in the kernel; the
// caller then may vote, but not own, and tries again.
//
// The caller must have settled the earlier guard, and have none of its own.
func SecureLeftovers(ctx context.Context, cfg LeftoversConfig) (err error) {
	ctx, cancel := context.WithTimeout(ctx, leftoversPatience)
	defer cancel()
	lock, err := openMounterLock(cfg.DataDir)
	if err != nil {
		return err
	}
	m := newMounters(cfg.Exe, lock, nil)
	defer func() {
		if served := networkVolumes(cfg.Volumes); err != nil && len(served) > 0 {
			err = errors.Join(err, m.Abandon(context.WithoutCancel(ctx), served))
		}
		err = errors.Join(err, m.close(), lock.close())
	}()
	if s, err := servicesOf(cfg.DataDir); err == nil { // otherwise hooks had no groups
		if err := s.endAll(ctx); err != nil {
			return fmt.Errorf("end what hooks of the earlier run have left running: %w", err)
		}
	}
	if len(cfg.Volumes) == 0 {
		return nil
	}
	if err := m.Secure(ctx, cfg.Volumes); err != nil {
		return fmt.Errorf("make sure that nothing of the earlier run is mounted: %w", err)
	}
	return nil
}
