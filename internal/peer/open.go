package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"
)

// link is an open connection and what it was let in by.
type link struct {
	net.Conn
	who string

	operator bool
	// Of a node: the ID of its data folder, and the latest change of the members
	// that either side knew of.
	nodeID string
	roster uint64

	links *links // those that it is one of
}

// Close implements net.Conn.
func (l *link) Close() error {
	l.links.forget(l)
	return l.Conn.Close()
}

// links are the connections that a Dialer, or its Port, has handed out and that
// are still open.
type links struct {
	mu   sync.Mutex
	open map[*link]struct{}
}

func (s *links) note(l *link) *link {
	l.links = s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*link]struct{}{}
	}
	s.open[l] = struct{}{}
	return l
}

func (s *links) forget(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
}

func (s *links) all() (out []*link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.open {
		out = append(out, l)
	}
	return out
}

// leafOf returns the other side's certificate, nil without TLS.
func leafOf(c net.Conn) *x509.Certificate {
	if t, ok := c.(*tls.Conn); ok {
		return t.ConnectionState().PeerCertificates[0]
	}
	return nil
}

// checkRevoked returns an error when a certificate is revoked.
func (f *TLSFiles) checkRevoked(leaf *x509.Certificate) error {
	if who, yes := f.current().revoked.Covers(leaf); yes {
		return fmt.Errorf("the certificate of %s is revoked: hactl tls issue makes a new one", who)
	}
	return nil
}

// checkRevoked returns an error when the other side's certificate is revoked.
func (d *Dialer) checkRevoked(c net.Conn) error {
	if leaf := leafOf(c); leaf != nil {
		return d.tls.checkRevoked(leaf)
	}
	return nil
}

// lookEvery is how often the open connections are looked at, and the files with
// them.
const lookEvery = time.Second

// watchOpen ends connections that wouldn't be let in any more, until ctx ends:
// whose certificate was revoked, or an operator's has expired, and those of nodes
// that were removed or replaced. A node's are kept when its certificate expires,
// for it may be everybody's that does.
func (p *Port) watchOpen(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		now := time.Now()
		for _, l := range p.links.all() {
			if why := p.unwelcome(l, now); why != "" {
				p.log.Warn("ended a connection that was open", "with", l.who, "reason", why)
				_ = l.Close() // whoever uses it finds out
			}
		}
		if p.tls != nil {
			p.tls.current() // also when nothing is open: Changed tells of it
		}
		select {
		case <-ctx.Done():
			return
		case <-p.id.followed:
		case <-tick.C:
		}
	}
}

// unwelcome returns why a connection has to end, empty: it hasn't.
func (p *Port) unwelcome(l *link, now time.Time) string {
	if err := p.checkRevoked(l.Conn); err != nil {
		return err.Error()
	}
	if l.operator {
		if now.After(leafOf(l.Conn).NotAfter) {
			return "its certificate has expired: hactl tls issue --renew makes a new one"
		}
		return ""
	}
	r, ok := p.id.Roster()
	if !ok || r.Index < l.roster {
		return "" // it is of a change that this node hasn't read of yet
	}
	switch m, ok := r.member(l.who); {
	case !ok:
		return "it is no member any more"
	case m.NodeID != l.nodeID:
		return "it was replaced by another"
	}
	return ""
}
