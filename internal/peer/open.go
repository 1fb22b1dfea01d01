package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"

	"had/internal/clock"
	"had/internal/pki"
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
	gone   time.Time // when it was first seen to be no member any more; of watchOpen

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

// checkRevoked returns an error when a certificate is revoked; nil never is.
func checkRevoked(revoked pki.Revoked, leaf *x509.Certificate) error {
	if leaf == nil || revoked.Count() == 0 {
		return nil
	}
	if who, yes := revoked.Covers(leaf); yes {
		return fmt.Errorf("the certificate of %s is revoked: hactl tls issue makes a new one", who)
	}
	return nil
}

func (f *TLSFiles) checkRevoked(leaf *x509.Certificate) error {
	return checkRevoked(f.current().revoked, leaf)
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

// removedGrace is how long the connections of a node that was removed stay: whoever
// asked that very node for it wants the answer.
const removedGrace = 5 * time.Second

// watchOpen ends connections that wouldn't be let in any more, until ctx ends:
// whose certificate was revoked, or is an operator's and has expired, and those of
// nodes that were removed or replaced. A node's are kept when its certificate
// expires, for it may be everybody's that does.
func (p *Port) watchOpen(ctx context.Context) {
	for {
		now, who := time.Now(), welcome{}
		if p.tls != nil {
			who.revoked = p.tls.current().revoked // also when nothing is open: Changed tells of it
		}
		who.members, who.born = p.id.Roster()
		for _, l := range p.links.all() {
			if why := who.unwelcome(l, now); why != "" {
				p.log.Warn("ended a connection that was open", "with", l.who, "reason", why)
				_ = l.Close() // whoever uses it finds out
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(clock.UntilBeat(lookEvery)):
		}
	}
}

// welcome is by what a node lets others in.
type welcome struct {
	revoked pki.Revoked
	members Roster
	born    bool // otherwise there are no members yet
}

// unwelcome returns why a connection has to end, empty: it hasn't.
func (w welcome) unwelcome(l *link, now time.Time) string {
	if err := checkRevoked(w.revoked, leafOf(l.Conn)); err != nil {
		return err.Error()
	}
	if l.operator {
		if now.After(leafOf(l.Conn).NotAfter) {
			return "its certificate has expired: hactl tls issue --renew makes a new one"
		}
		return ""
	}
	if !w.born || w.members.Index < l.roster {
		return "" // it is of a change that this node hasn't read of yet
	}
	m, ok := w.members.member(l.who)
	switch {
	case ok && m.NodeID == l.nodeID:
		return ""
	case l.gone.IsZero():
		l.gone = now
	}
	switch {
	case now.Sub(l.gone) < removedGrace:
		return ""
	case ok:
		return "it was replaced by another"
	}
	return "it is no member any more"
}
