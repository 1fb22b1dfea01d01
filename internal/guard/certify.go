package guard

import (
	"context"
	"errors"

	"had/internal/peer"
)

// Certify is Client.Certify. A later guard reads the files itself.
func (s *Supervisor) Certify(ctx context.Context, p peer.PEM) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	return g.Certify(ctx, p)
}

// Certify has the guard show the other nodes these certificates from now on:
// had has read files that have changed, which the guard never does, for it must
// not wait for a disk.
func (c *Client) Certify(ctx context.Context, p peer.PEM) error {
	return c.ask(ctx, Request{Op: OpCertify, TLS: &p})
}

// certify is the guard's side. It is no business of the warden's, who knows
// nothing of how others are told.
func (g *process) certify(p *peer.PEM) error {
	if g.files == nil {
		return errors.New("this guard was started without certificates")
	}
	return g.files.Replace(*p)
}
