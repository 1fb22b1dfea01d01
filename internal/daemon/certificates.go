package daemon

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// tellAgain is how soon a guard that could not be told of new certificates is
// told again.
const tellAgain = 10 * time.Second

// certificates are those in use; none without TLS.
func (n *node) certificates() (out []*hadv1.Certificate) {
	files := n.port.TLS()
	if files == nil {
		return nil
	}
	for _, c := range files.Certificates() {
		out = append(out, &hadv1.Certificate{Serial: c.Serial, Ca: c.CA, Expires: timestamppb.New(c.Expires)})
	}
	return out
}

// revoked is the digest of whose certificates this node refuses; empty without TLS.
func (n *node) revoked() string {
	files := n.port.TLS()
	if files == nil {
		return ""
	}
	return files.RevokedDigest()
}

// allCertificates are those of this node and of the others that answer.
func (n *node) allCertificates() map[string][]*hadv1.Certificate {
	out := map[string][]*hadv1.Certificate{n.cfg.File.Node: n.certificates()}
	now := n.controller.Answers()
	for node, p := range now.Peers {
		if now.Fresh[node] {
			out[node] = p.Health.GetCertificates()
		}
	}
	return out
}

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
			n.cfg.Logger.Info("the TLS files have changed and are in use", "expires", expires.UTC().Format(time.DateOnly), "names_revoked", files.Revoked())
		case <-again:
		}
		again = nil
		if err := n.safeguards.certify(ctx, files); err != nil {
			n.cfg.Logger.Warn("the guard was not told of new certificates; it will be again", "error", err)
			again = time.After(tellAgain)
		}
	}
}
