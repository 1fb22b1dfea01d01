package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"had/internal/policy"
	"had/internal/secret"
)

// webhook posts messages as JSON, with the headers of Standard Webhooks
// (github.com/standard-webhooks/standard-webhooks, spec 1.0.0): webhook-id is
// the same at every try.
type webhook struct{ cfg policy.Channel }

func (w webhook) target() string {
	if w.cfg.URLFile != "" {
		return "the URL in " + w.cfg.URLFile
	}
	u, err := url.Parse(w.cfg.URL)
	if err != nil {
		return "its URL"
	}
	u.RawQuery, u.User = "", nil // whoever knows the rest may post
	return u.String()
}

func (w webhook) check() error {
	_, err := tlsConfig("", w.cfg.CAFile)
	return errors.Join(checkSecrets(w.cfg.URLFile, w.cfg.SecretFile), err)
}

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = time.Hour

func (w webhook) send(ctx context.Context, m *message) error {
	req, err := w.request(ctx, m)
	if err != nil {
		return err
	}
	cfg, err := tlsConfig("", w.cfg.CAFile)
	if err != nil {
		return err
	}
	// A connection for each message: they are few, and nothing is left running.
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true, DisableKeepAlives: true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer t.CloseIdleConnections()
	// A redirected POST would become a GET, or take the body elsewhere.
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return w.failed(ctx, err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // what it says may repeat what is secret
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("post to %s: it answers %s: name the place it redirects to", w.target(), resp.Status)
	}
	err = fmt.Errorf("post to %s: it answers %s", w.target(), line(resp.Status, 80))
	if s, e := strconv.Atoi(resp.Header.Get("Retry-After")); e == nil && s > 0 {
		return &laterError{err, min(time.Duration(s)*time.Second, maxRetryAfter)}
	}
	return err
}

func (w webhook) request(ctx context.Context, m *message) (*http.Request, error) {
	target := w.cfg.URL
	if w.cfg.URLFile != "" {
		var err error
		if target, err = secret.Read(w.cfg.URLFile); err != nil {
			return nil, fmt.Errorf("read the URL: %w", err)
		}
	}
	body, err := m.json()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSpace(target), bytes.NewReader(body))
	if err != nil || req.URL.Host == "" || req.URL.Scheme != "https" && req.URL.Scheme != "http" {
		return nil, fmt.Errorf("post to %s: that isn't a URL of http or https", w.target()) // err would show it
	}
	now := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "had")
	req.Header.Set("Webhook-Id", m.id)
	req.Header.Set("Webhook-Timestamp", now)
	if w.cfg.SecretFile != "" {
		key, err := secret.Read(w.cfg.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("read the secret: %w", err)
		}
		req.Header.Set("Webhook-Signature", sign(key, m.id, now, body))
	}
	return req, nil
}

// sign is the signature of Standard Webhooks: HMAC-SHA256 over the ID, the time
// and the body. A key that begins with "whsec_" is base64.
func sign(key, id, at string, body []byte) string {
	k := []byte(key)
	if text, ok := strings.CutPrefix(key, "whsec_"); ok {
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			k = b
		}
	}
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "%s.%s.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// failed describes an error of the HTTP client without the URL, which may be a
// secret. Only one that came before a connection was there says that nothing has
// arrived.
func (w webhook) failed(ctx context.Context, err error) error {
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err
	}
	var op *net.OpError
	dialing := errors.As(err, &op) && op.Op == "dial"
	err = within(ctx, fmt.Errorf("post to %s: %w", w.target(), err))
	if dialing {
		return err
	}
	return &maybeSentError{err}
}
