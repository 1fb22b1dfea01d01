package notify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"had/internal/policy"
	"had/internal/secret"
)

// transport carries messages to one channel.
type transport interface {
	// send returns when the receiver has taken the message, or won't. Whatever
	// it returns has no secret in it.
	send(ctx context.Context, m *message) error
	// check says what on this host would keep it from sending.
	check() error
	// target names whom it reaches, without secrets.
	target() string
}

// newTransport returns the transport of a channel.
func newTransport(c policy.Channel) transport {
	switch c.Kind {
	case policy.Email:
		return email{c}
	case policy.Webhook:
		return webhook{c}
	default:
		return command{c}
	}
}

// maybeSentError is the error of a try that may have arrived all the same.
type maybeSentError struct{ err error }

func (e *maybeSentError) Error() string { return e.err.Error() + " (it may have arrived all the same)" }
func (e *maybeSentError) Unwrap() error { return e.err }

// partlyError says that the message was taken, but not for everybody.
type partlyError struct{ err error }

func (e *partlyError) Error() string { return "sent, but " + e.err.Error() }
func (e *partlyError) Unwrap() error { return e.err }

// laterError is a refusal of a receiver that said when to come again.
type laterError struct {
	err   error
	after time.Duration
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// checkSecrets says which files of a channel can't be read, or by too many.
func checkSecrets(files ...string) error {
	var errs []error
	for _, f := range files {
		if f == "" {
			continue
		}
		if _, err := secret.Read(f); err != nil {
			errs = append(errs, fmt.Errorf("read the secret: %w", err))
		} else if err := secret.CheckPrivate(f); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tlsConfig trusts the host's authorities, and those of a file if one is named.
func tlsConfig(host, caFile string) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile) //nolint:gosec // the policy names it
	if err != nil {
		return nil, fmt.Errorf("read ca_file: %w", err)
	}
	if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
		cfg.RootCAs = x509.NewCertPool()
	}
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read ca_file: %s holds no certificate", caFile)
	}
	return cfg, nil
}
