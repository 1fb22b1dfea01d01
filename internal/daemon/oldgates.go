package daemon

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"had/internal/clock"
	"had/internal/gate"
	"had/vip"
)

// oldGatesEvery is how often gates that could not be taken off yet are looked
// at again. Addresses go by themselves some seconds after their last renewal.
const oldGatesEvery = time.Second

// clearOldGates takes off the gates that an earlier cluster of this one's name
// has left on this host. A host that crashed as an owner and whose data folder
// was then removed to begin anew has one, closed for ever around its
// addresses, and knows nothing of it. It returns when none is left.
func (l *localState) clearOldGates(ctx context.Context) {
	tick := time.NewTicker(oldGatesEvery)
	defer tick.Stop()
	told := ""
	for {
		err := l.takeOffOldGates()
		if err == nil {
			return
		}
		if err.Error() != told {
			told = err.Error()
			l.cfg.Logger.Warn("a packet gate of an earlier cluster is still on this host", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *localState) takeOffOldGates() error {
	names, err := gate.Installed()
	if err != nil {
		return err
	}
	own := l.gateConfig()
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, gateOf(l.cfg.File.Cluster, "")) && name != own.Name {
			errs = append(errs, takeOff(gate.Config{Name: name, Logger: own.Logger}, l.addresses))
		}
	}
	return errors.Join(errs...)
}

// takeOff takes a gate off if nothing that it guards is on this host, and no
// lease of it lasts.
func takeOff(c gate.Config, addresses *vip.Manager) error {
	g, err := gate.Find(c)
	if err != nil {
		return fmt.Errorf("look at the packet gate %s: %w", c.Name, err)
	}
	defer g.Close()
	if lease := g.Lease(); lease.Open(clock.Now()) {
		return fmt.Errorf("the lease of epoch %d behind the packet gate %s lasts: is another had running for the same cluster?", lease.Epoch, c.Name)
	}
	addrs, err := g.Guarded()
	if err != nil {
		return err
	}
	at, err := addresses.Presence(addrs)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if at[a] != vip.Inactive {
			return fmt.Errorf("the packet gate %s is closed around %s, which is on this host and nobody renews; had takes it off when that is gone", c.Name, a)
		}
	}
	if err := g.Forget(math.MaxUint64, addrs); err != nil {
		return err
	}
	if err := gate.Uninstall(c); err != nil {
		return err
	}
	c.Logger.Info("took off the packet gate of an earlier cluster", "gate", c.Name, "addresses", len(addrs))
	return nil
}

// gateOf names the gate of a cluster. The name tells its clusters apart: each
// counts its epochs anew.
func gateOf(cluster, id string) string { return cluster + "/" + id }
