package guard

import (
	"context"

	"had/internal/peer"
)

// Enrol is Client.Enrol. A later guard reads the members itself.
func (s *Supervisor) Enrol(ctx context.Context, r peer.Roster) error {
	g, err := s.current()
	if err != nil {
		return err
	}
	return g.Enrol(ctx, r)
}

// Enrol has the guard tell these members, should had die: they have changed since
// it was started.
func (c *Client) Enrol(ctx context.Context, r peer.Roster) error {
	return c.ask(ctx, Request{Op: OpEnrol, Members: &r})
}

// enrol is the guard's side, as certify's. Nothing is written: had has done that.
func (g *process) enrol(r *peer.Roster) error { return g.identity.Learn(*r) }
