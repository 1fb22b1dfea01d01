package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
)

// Newcomer is what a node that is to be added says of itself.
type Newcomer struct {
	NodeID  string
	Witness bool // by its own had.hcl
}

// ErrNotNewcomer is matched by the error for a node that answers and can't be
// added as it is.
var ErrNotNewcomer = errors.New("it can't be added")

// Newcomer asks the node at an address, which is to be called name, who it is. It
// must belong to no cluster, and its had.hcl must list one of this cluster's
// members: it asks them for itself whether it was taken in.
func (d *Dialer) Newcomer(ctx context.Context, name, address string) (Newcomer, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var tcp net.Dialer
	raw, err := tcp.DialContext(ctx, "tcp", address)
	if err != nil {
		return Newcomer{}, err
	}
	defer func() { _ = raw.Close() }() // all has been said
	if _, err := limit(ctx, raw); err != nil {
		return Newcomer{}, err
	}
	c := raw
	if d.tls != nil {
		if c, err = shake(ctx, raw, tls.Client, d.tls.client(name)); err != nil {
			return Newcomer{}, err
		}
	}
	if err := writeFrame(c, d.id.hello(kindMeet, name, d.version)); err != nil {
		return Newcomer{}, err
	}
	var a answer
	if err := readFrame(c, &a); err != nil {
		return Newcomer{}, err
	}
	if err := a.Hello.check(); err != nil {
		return Newcomer{}, err
	}
	if err := d.checkRevoked(c); err != nil {
		return Newcomer{}, fmt.Errorf("%w: %w", ErrNotNewcomer, err)
	}
	if err := certifiedAs(c, name, d.cluster); err != nil {
		return Newcomer{}, fmt.Errorf("%w: its certificate isn't that of %s in %s: %w", ErrNotNewcomer, name, d.cluster, err)
	}
	return d.newcomer(name, a.Hello)
}

func (d *Dialer) newcomer(name string, h hello) (Newcomer, error) {
	not := func(format string, args ...any) (Newcomer, error) {
		return Newcomer{}, fmt.Errorf("%w: %s", ErrNotNewcomer, printable(fmt.Sprintf(format, args...)))
	}
	b, _ := d.id.Birth()
	i := slices.IndexFunc(h.Members, func(m Member) bool { return m.Name == name })
	switch {
	case h.Protocol != protocolVersion:
		return not("it speaks version %d of the node protocol and %s version %d: run the same had on all nodes", h.Protocol, d.self, protocolVersion)
	case h.Cluster != d.cluster:
		return not("its had.hcl is for the cluster %.80q, and this is %q", h.Cluster, d.cluster)
	case h.From != name:
		return not("it calls itself %.80q: check `node` in its had.hcl, and its host name", h.From)
	case h.Phase == born && h.ClusterID == b.ID:
		return Newcomer{NodeID: h.NodeID}, nil // a member, or one that was: the log knows
	case h.Phase != gathering:
		return not("its data folder belongs to another cluster of that name, born as %s: stop its had, empty its data_dir and start it again", shortID(h.ClusterID))
	case i < 0:
		return not("its had.hcl doesn't list %s", name)
	}
	known := d.id.others()
	if !slices.ContainsFunc(h.Members, func(m Member) bool {
		return m.Name == d.self || slices.ContainsFunc(known, func(o Member) bool { return o.Name == m.Name })
	}) {
		return not("its had.hcl lists none of this cluster's nodes, so it would never ask them: put %s in", d.self)
	}
	return Newcomer{NodeID: h.NodeID, Witness: h.Members[i].Witness}, nil
}
