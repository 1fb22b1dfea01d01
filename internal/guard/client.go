package guard

import (
	"context"
	"fmt"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/hook"
	"had/storage"
	"had/vip"
)

// Client is had's side of a guard: requests that are acknowledged, and the
// page. It may be used by several goroutines.
type Client struct {
	page *Page
	ask  func(ctx context.Context, r Request) error
	now  clock.Source

	mu     sync.Mutex
	lease  lease  // the newest that Extend was told of
	held   uint64 // the epoch whose deadline is in the page; 0: none, or it is changing
	last   uint64 // the newest epoch that was given up
	undone uint64 // an epoch the guard was not told to drop yet: it didn't answer; 0: none
}

type lease struct {
	epoch uint64
	until clock.Instant
}

// patience is how long a guard may fail to look at its page before it counts
// as stopped: three of its looks.
const patience = 3 * lookEvery

// NewClient returns had's side of the guard that shares the page and answers
// what ask carries to it.
func NewClient(page *Page, ask func(ctx context.Context, r Request) error, now clock.Source) *Client {
	return &Client{page: page, ask: ask, now: now}
}

// Extend notes that everything of epoch may be held until the given instant.
// It is a store into shared memory and waits for nobody. It reports false when
// the epoch is over: the guard has ended it, or Drop has been called. Then
// nothing of it may be renewed or added any more.
//
// The first lease of an epoch is extended before Hold.
func (c *Client) Extend(epoch uint64, until clock.Instant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch <= c.last || epoch < c.lease.epoch {
		return false
	}
	if epoch > c.lease.epoch {
		c.lease = lease{epoch, until}
	}
	c.lease.until = max(c.lease.until, until)
	if epoch != c.held {
		return true // Hold takes it along
	}
	return c.page.extend(c.lease.until)
}

// Hold tells the guard that exactly addrs may be in the kernel for epoch, and
// which volumes it may ever mount for it, in the order of mounting: the same at
// every Hold of an epoch. Only after it has returned nil may any address be put
// there that wasn't in addrs before. It fails when the epoch is over, when an
// earlier one isn't dropped yet, and when the guard doesn't answer.
func (c *Client) Hold(ctx context.Context, epoch uint64, addrs []vip.Address, volumes []storage.Volume) error {
	_, err := c.hold(ctx, Request{Op: OpHold, Epoch: epoch, Addresses: addrs, Volumes: volumes})
	return err
}

// hold reports with an error whether the guard knows of the epoch all the same.
func (c *Client) hold(ctx context.Context, r Request) (told bool, err error) {
	epoch := r.Epoch
	c.mu.Lock()
	l, undone, over := c.lease, c.undone, epoch <= c.last
	c.mu.Unlock()
	if over || l.epoch != epoch {
		return false, fmt.Errorf("let the guard hold epoch %d: it has no lease", epoch)
	}
	if undone != 0 {
		if err := c.Drop(ctx, undone); err != nil {
			return false, err
		}
	}
	r.Until = l.until
	if err := c.ask(ctx, r); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch <= c.last {
		return true, fmt.Errorf("let the guard hold epoch %d: it was dropped meanwhile", epoch)
	}
	c.held = epoch
	if !c.page.extend(c.lease.until) {
		return true, fmt.Errorf("let the guard hold epoch %d: its lease ended meanwhile", epoch)
	}
	return true, nil
}

// Drop tells the guard that everything of epoch is proven gone. After nil the
// guard does nothing for it any more. After an error it still may remove it,
// which does no harm; the next Hold tells it first. The guard refuses while one
// of the epoch's volumes isn't proven unmounted.
func (c *Client) Drop(ctx context.Context, epoch uint64) error {
	c.mu.Lock()
	c.last = max(c.last, epoch)
	if c.held <= epoch {
		c.held = 0
	}
	c.undone = epoch
	c.mu.Unlock()
	if err := c.ask(ctx, Request{Op: OpDrop, Epoch: epoch}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.undone == epoch {
		c.undone = 0
	}
	return nil
}

// Reserve has the guard take the disks of all volumes that Hold has named, before
// the first Mount: when it returns nil the disks let nobody else write. It fails
// once one of them may be mounted.
func (c *Client) Reserve(ctx context.Context, epoch, key uint64) error {
	return c.ask(ctx, Request{Op: OpReserve, Epoch: epoch, Key: key})
}

// Evict has the guard take the disks of another epoch's volumes: after nil its
// owner doesn't write to them any more, whatever it does. It fails while the guard
// may have anything mounted.
func (c *Client) Evict(ctx context.Context, volumes []storage.Volume, key uint64) error {
	return c.ask(ctx, Request{Op: OpEvict, Volumes: volumes, Key: key})
}

// Mount has the guard mount a volume that Hold has named, and waits until it is
// done: as long as ctx lasts, for a device or a server may never answer. When ctx
// ends first the volume may still become mounted: Secure ends that too. clearMMP
// says that there is evidence that no other host has it mounted.
//
// It fails once the epoch is over, or Secure was called; and while another Mount
// or Unmount is under way.
func (c *Client) Mount(ctx context.Context, epoch uint64, name string, clearMMP bool) error {
	return c.ask(ctx, Request{Op: OpMount, Epoch: epoch, Name: name, ClearMMP: clearMMP})
}

// Unmount has the guard unmount a volume in order, and prove that it is. The
// error of one that is in use says by whom. It may take as long as Mount, and
// fails while another Mount or Unmount is under way.
func (c *Client) Unmount(ctx context.Context, epoch uint64, name string) error {
	return c.ask(ctx, Request{Op: OpUnmount, Epoch: epoch, Name: name})
}

// Secure has the guard end all volumes of the epoch by force: it ends a mount
// that is under way, then what hooks have left running, and unmounts. nil is the
// proof that nothing of this host can write to them. From the call on the guard
// mounts nothing of the epoch any more. What was written and not synced is lost.
func (c *Client) Secure(ctx context.Context, epoch uint64) error {
	return c.ask(ctx, Request{Op: OpSecure, Epoch: epoch})
}

// Arm has the guard arm this host's watchdog and feed it from then on. It fails
// while it holds an epoch with volumes.
func (c *Client) Arm(ctx context.Context) error { return c.ask(ctx, Request{Op: OpArm}) }

// Disarm has the guard stop the watchdog. It fails while it holds an epoch with
// volumes.
func (c *Client) Disarm(ctx context.Context) error { return c.ask(ctx, Request{Op: OpDisarm}) }

// Armed returns how long after the guard's end the watchdog resets this host; 0:
// the guard feeds none.
func (c *Client) Armed() time.Duration { return time.Duration(c.page.watchdog.Load()) }

// Script tells the guard of a script before it is started: should had die, the
// guard ends it.
func (c *Client) Script(ctx context.Context, r hook.Running) error {
	return c.ask(ctx, Request{Op: OpScript, Script: &r})
}

// ScriptEnded tells the guard that nothing of the script runs any more.
func (c *Client) ScriptEnded(ctx context.Context, id string) error {
	return c.ask(ctx, Request{Op: OpScriptEnded, ID: id})
}

// forgo makes every epoch up to this one over: it was another guard's.
func (c *Client) forgo(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, epoch)
}

// holding returns the epoch that is held and that the guard has not ended; 0:
// none.
func (c *Client) holding() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == 0 || !c.page.extend(c.lease.until) {
		return 0
	}
	return c.held
}

// holds reports whether this guard was told of the epoch, and had has not given
// it up.
func (c *Client) holds(epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held == epoch
}

// newest returns the newest lease that was extended.
func (c *Client) newest() lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease
}

// Awake returns nil while the guard looks at its page often enough.
func (c *Client) Awake() error {
	if d := c.now().Sub(c.page.lastLook()); d > patience {
		return fmt.Errorf("the guard hasn't moved for %s: it is stopped, or this host gives it no time", d.Round(time.Millisecond))
	}
	return nil
}
