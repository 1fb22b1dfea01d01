package gate

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"had/internal/clock"
)

// TakeOff takes off the gate of another name, with what it guards, if that
// opens nothing: no lease of it lasts, and nothing that it alone guards is on
// this host. onHost says which of some addresses are, or may be. What this gate
// guards, too, stays guarded. The error says what it is needed for. Without
// such a gate it does nothing.
func (g *Gate) TakeOff(other string, onHost func([]netip.Addr) ([]netip.Addr, error)) error {
	c := Config{Name: other, Logger: g.logger}
	o, err := Find(c)
	if errors.Is(err, ErrNotInstalled) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the packet gate %s: %w", other, err)
	}
	defer o.Close()
	if lease := o.Lease(); lease.Open(clock.Now()) {
		return fmt.Errorf("the lease of epoch %d behind the packet gate %s lasts: is another had running for the same cluster?", lease.Epoch, other)
	}
	guarded, err := o.Guarded()
	if err != nil {
		return err
	}
	there, err := onHost(guarded)
	if err != nil {
		return err
	}
	// After the look at the host: what was raised before it was guarded first.
	ours, err := g.Guarded()
	if err != nil {
		return err
	}
	for _, a := range there {
		if _, both := slices.BinarySearchFunc(ours, a, netip.Addr.Compare); !both {
			return fmt.Errorf("the packet gate %s is closed around %s, which is on this host and nobody renews; had takes it off when that is gone", other, a)
		}
	}
	if err := o.Forget(math.MaxUint64, guarded); err != nil {
		return err
	}
	if err := Uninstall(c); err != nil {
		return err
	}
	g.logger.Info("took off the packet gate of an earlier cluster", "gate", other, "addresses", len(guarded))
	return nil
}
