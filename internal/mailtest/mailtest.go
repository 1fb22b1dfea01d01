// Package mailtest is a mail server for tests: it speaks real SMTP, with STARTTLS
// and passwords, keeps what it is given, and can be taken down and brought back.
package mailtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// The one user that may send.
const (
	User     = "had"
	Password = "correct horse battery staple"
)

// Server keeps every mail that is handed to it, over connections that are
// encrypted and logged in.
type Server struct {
	CA  []byte // PEM; of its certificate
	tls *tls.Config

	mu      sync.Mutex
	mails   []Mail
	stop    func() // of what serves; nil: nothing does
	refused map[string]bool
	mute    bool
}

// Mail is one that was taken.
type Mail struct {
	At      time.Time
	To      []string
	ID      string // Message-ID, with its brackets
	Subject string
	Body    string
}

// New returns a server that isn't running, with a certificate for these
// addresses.
func New(addrs ...string) (*Server, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailtest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, a := range addrs {
		if ip := net.ParseIP(a); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, a)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &Server{
		CA:      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		tls:     &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		refused: map[string]bool{},
	}, nil
}

// TLS is its certificate, for a listener that encrypts from the first byte.
func (s *Server) TLS() *tls.Config { return s.tls }

// Start serves on a listener until Stop.
func (s *Server) Start(l net.Listener) {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{server: s, conn: c}, nil }))
	server.TLSConfig, server.Domain = s.tls, "mail.example.org"
	server.ReadTimeout, server.WriteTimeout = 10*time.Second, 10*time.Second
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Stop
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = func() {
		// The listener by itself: a server that is only about to serve doesn't
		// know it yet.
		_ = l.Close()
		_ = server.Close()
		<-done
	}
}

// Stop breaks every connection and waits for the end of serving.
func (s *Server) Stop() {
	s.mu.Lock()
	stop := s.stop
	s.stop = nil
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Refuse makes it refuse a recipient.
func (s *Server) Refuse(to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[to] = true
}

// Mute makes it take mails and break the connection instead of saying so.
func (s *Server) Mute(mute bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = mute
}

// Mails returns what was taken, in order.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

type session struct {
	server *Server
	conn   *smtp.Conn
	logged bool
	to     []string
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != User || password != Password {
			// Servers have been seen to repeat what they were told.
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "bad credentials " + username + " " + password}
		}
		s.logged = true
		return nil
	}), nil
}

func (s *session) Reset()        { s.to = nil }
func (s *session) Logout() error { return nil }

func (s *session) Mail(string, *smtp.MailOptions) error {
	if _, encrypted := s.conn.TLSConnectionState(); !encrypted || !s.logged {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "encrypt and log in first"}
	}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	if s.server.refused[to] {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err
	}
	s.server.mu.Lock()
	s.server.mails = append(s.server.mails, Mail{
		At: time.Now(), To: s.to, ID: m.Header.Get("Message-ID"), Subject: subject, Body: strings.ReplaceAll(string(body), "\r\n", "\n"),
	})
	mute := s.server.mute
	s.server.mu.Unlock()
	if mute {
		return errors.Join(s.conn.Conn().Close(), errors.New("muted"))
	}
	return nil
}
