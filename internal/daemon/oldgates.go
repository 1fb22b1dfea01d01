package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/gate"
	"had/vip"
)

// oldGatesEvery is how often gates that could not be taken off yet are looked
// at again. Addresses go by themselves some seconds after their last renewal.
const oldGatesEvery = time.Second

// oldGates are those that an earlier cluster of this one's name has left on
// this host. A host that crashed as an owner and whose data folder was then
// removed to begin anew has one, closed for ever around its addresses, and
// knows nothing of it. Until they are off this host must not own: no client
// would get an answer.
type oldGates struct {
	cluster   string
	own       *gate.Gate // this cluster's
	ownName   string
	addresses *vip.Manager
	logger    hclog.Logger
	cleared   chan struct{} // closed when none is left

	mu      sync.Mutex
	problem error // why one is still there, as of the last look; nil: none is
}

// newOldGates takes a first look, so that nothing is ever raised behind a gate
// that could have been known.
func newOldGates(l *localState, own *gate.Gate) *oldGates {
	c := l.gateConfig()
	o := &oldGates{
		cluster: l.cfg.File.Cluster, own: own, ownName: c.Name, addresses: l.addresses, logger: c.Logger, cleared: make(chan struct{}),
	}
	o.look()
	return o
}

// run looks again until none is left.
func (o *oldGates) run(ctx context.Context) {
	tick := time.NewTicker(oldGatesEvery)
	defer tick.Stop()
	for o.trouble() != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.look()
		}
	}
	close(o.cleared)
}

// trouble is why one is still there.
func (o *oldGates) trouble() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.problem
}

func (o *oldGates) look() {
	err := o.takeOffAll()
	o.mu.Lock()
	before := o.problem
	o.problem = err
	o.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		o.logger.Warn("a packet gate of an earlier cluster is still on this host", "error", err)
	}
}

func (o *oldGates) takeOffAll() error {
	names, err := gate.Installed()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, gateOf(o.cluster, "")) && name != o.ownName {
			errs = append(errs, o.own.TakeOff(name, o.onHost))
		}
	}
	return errors.Join(errs...)
}

// onHost lists those of the addresses that are on this host, or may be.
func (o *oldGates) onHost(addrs []netip.Addr) ([]netip.Addr, error) {
	at, err := o.addresses.Presence(addrs)
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return at[a] == vip.Inactive }), err
}

// gateOf names the gate of a cluster. The name tells its clusters apart: each
// counts its epochs anew.
func gateOf(cluster, id string) string { return cluster + "/" + id }
