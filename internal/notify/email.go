package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"os"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"had/internal/policy"
	"had/internal/redact"
	"had/internal/secret"
)

// email hands messages to a mail server (RFC 5321, RFC 6409).
type email struct{ cfg policy.Channel }

func (e email) target() string { return fmt.Sprintf("%s by %s", e.cfg.To, e.cfg.Server) }

func (e email) check() error {
	_, err := tlsConfig("", e.cfg.CAFile)
	return errors.Join(checkSecrets(e.cfg.PasswordFile), err)
}

func (e email) send(ctx context.Context, m *message) error {
	var password string
	if e.cfg.PasswordFile != "" {
		var err error
		if password, err = secret.Read(e.cfg.PasswordFile); err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
	}
	body, err := e.compose(m)
	if err != nil {
		return err
	}
	c, err := e.connect(ctx)
	if err != nil {
		return within(ctx, fmt.Errorf("connect to %s: %w", e.cfg.Server, err))
	}
	defer func() { _ = c.Close() }() // after Quit there is nothing to close
	// A server that hangs is left when the time is up, wherever it hangs.
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	err = e.submit(c, password, body)
	var said []string
	if password != "" {
		said = []string{password}
	}
	return hideIn(within(ctx, err), said)
}

// connect returns a client that has greeted the server, over TLS unless the
// policy says otherwise.
func (e email) connect(ctx context.Context) (c *smtp.Client, err error) {
	host, _, err := net.SplitHostPort(e.cfg.Server)
	if err != nil {
		return nil, err
	}
	cfg, err := tlsConfig(host, e.cfg.CAFile)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", e.cfg.Server)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	switch e.cfg.TLS {
	case policy.Implicit:
		secured := tls.Client(conn, cfg)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		c = smtp.NewClient(secured)
	case policy.StartTLS:
		if c, err = smtp.NewClientStartTLS(conn, cfg); err != nil {
			return nil, err // it has closed the connection
		}
	default:
		c = smtp.NewClient(conn)
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		name = "localhost"
	}
	if err := c.Hello(name); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// submit hands over a message. The server has it when it has answered the dot.
func (e email) submit(c *smtp.Client, password string, body []byte) error {
	if e.cfg.Username != "" {
		var mechanism sasl.Client
		switch {
		case c.SupportsAuth(sasl.Plain):
			mechanism = sasl.NewPlainClient("", e.cfg.Username, password)
		case c.SupportsAuth(sasl.Login):
			mechanism = sasl.NewLoginClient(e.cfg.Username, password)
		default:
			return errors.New("the server offers neither AUTH PLAIN nor LOGIN: leave username and password_file out, or use its submission port")
		}
		if err := c.Auth(mechanism); err != nil {
			return fmt.Errorf("log in as %s: %w", e.cfg.Username, err)
		}
	}
	if err := c.Mail(e.cfg.From, nil); err != nil {
		return fmt.Errorf("send from %s: %w", e.cfg.From, err)
	}
	var refused []error
	to := strings.Split(e.cfg.To, ", ")
	for _, t := range to {
		if err := c.Rcpt(t, nil); err != nil {
			refused = append(refused, fmt.Errorf("send to %s: %w", t, err))
		}
	}
	if len(refused) == len(to) {
		return errors.Join(refused...)
	}
	w, err := c.Data()
	if err != nil {
		return fmt.Errorf("hand the message over: %w", err)
	}
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("hand the message over: %w", err)
	}
	if err := w.Close(); err != nil {
		if _, answered := errors.AsType[*smtp.SMTPError](err); answered {
			return fmt.Errorf("hand the message over: %w", err)
		}
		return &maybeSentError{fmt.Errorf("hand the message over: no answer: %w", err)}
	}
	_ = c.Quit() // it has the message
	if len(refused) > 0 {
		return &partlyError{errors.Join(refused...)}
	}
	return nil
}

// compose writes the mail (RFC 5322). It is automatic, so that no holiday
// answers it (RFC 3834).
func (e email) compose(m *message) ([]byte, error) {
	_, domain, _ := strings.Cut(e.cfg.From, "@")
	var b bytes.Buffer
	for _, h := range []struct{ name, value string }{
		{"From", fmt.Sprintf("had <%s>", e.cfg.From)},
		{"To", strings.ReplaceAll(e.cfg.To, ", ", ",\r\n ")},
		{"Subject", mime.QEncoding.Encode("utf-8", m.subject())},
		{"Date", m.at.Format(time.RFC1123Z)},
		{"Message-ID", fmt.Sprintf("<%s@%s>", m.id, domain)},
		{"Auto-Submitted", "auto-generated"},
		{"X-Had-Severity", string(m.severity())},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h.name, h.value)
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(strings.ReplaceAll(m.text(), "\n", "\r\n"))); err != nil {
		return nil, fmt.Errorf("write the mail: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write the mail: %w", err)
	}
	return b.Bytes(), nil
}

// within says that the time was up, where that is what an error comes from.
func within(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
}

// hideIn keeps secrets that a server has repeated out of an error; what kind of
// error it is stays known.
func hideIn(err error, secrets []string) error {
	if err == nil || len(secrets) == 0 || redact.Hide(err.Error(), secrets) == err.Error() {
		return err
	}
	text := errors.New(redact.Hide(err.Error(), secrets))
	var partly *partlyError
	var maybe *maybeSentError
	switch {
	case errors.As(err, &partly):
		return &partlyError{text}
	case errors.As(err, &maybe):
		return &maybeSentError{text}
	}
	return text
}
