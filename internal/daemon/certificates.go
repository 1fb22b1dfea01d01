package daemon

import (
	"context"
	"time"
)

// tellAgain is how soon a guard that could not be told of new certificates is
// told again.
const tellAgain = 10 * time.Second

// followCertificates tells the guard of certificates that were read again, until
// ctx ends.
func (n *node) followCertificates(ctx context.Context) error {
	files := n.port.TLS()
	if files == nil {
		return nil
	}
	var again <-chan time.Time // nil: nothing is left to tell
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-files.Changed():
			_, expires := files.InUse()
			n.cfg.Logger.Info("the TLS files have changed and are in use", "expires", expires.UTC().Format(time.DateOnly))
		case <-again:
		}
		again = nil
		if err := n.safeguards.certify(ctx, files); err != nil {
			n.cfg.Logger.Warn("the guard was not told of new certificates; it will be again", "error", err)
			again = time.After(tellAgain)
		}
	}
}
