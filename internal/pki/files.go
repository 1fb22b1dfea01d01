package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"had/internal/durable"
)

// The files of a CA's folder, of a node's and of a client's.
const (
	CAFile        = "ca.pem"
	CAKeyFile     = "ca-key.pem"
	NodeFile      = "node.pem"
	NodeKeyFile   = "node-key.pem"
	ClientFile    = "client.pem"
	ClientKeyFile = "client-key.pem"
)

// files are the names of a certificate and its key.
func (n Name) files() (cert, key string) {
	if n.Node != "" {
		return NodeFile, NodeKeyFile
	}
	return ClientFile, ClientKeyFile
}

// CreateAuthority makes a CA in a folder of its own (mode 0700), its key with
// mode 0600. It fails with fs.ErrExist when there is one.
func CreateAuthority(dir, cluster string, life time.Duration, now time.Time) (*Authority, error) {
	for _, name := range []string{CAFile, CAKeyFile} {
		if err := vacant(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	a, made, err := NewAuthority(cluster, life, now)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the CA's folder: %w", err)
	}
	err = errors.Join(
		write(filepath.Join(dir, CAKeyFile), "PRIVATE KEY", 0o600, made.Key),
		write(filepath.Join(dir, CAFile), "CERTIFICATE", 0o644, made.Cert))
	return a, err
}

func vacant(path string) error {
	switch _, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look whether %s is there: %w", path, err)
	}
	return fmt.Errorf("%s: %w", path, fs.ErrExist)
}

// OpenAuthority reads the CA of a folder, with its key.
func OpenAuthority(dir string) (*Authority, error) {
	certs, err := ReadCertificates(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, CAKeyFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA's key: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("the CA's key %s can be read by others than its owner (mode %04o): chmod 0600 it, and make a new CA if somebody may have seen it", path, perm)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA's key: %w", err)
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read the CA's key: %s holds no PEM", path)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the CA's key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read the CA's key %s: a %T can't sign", path, key)
	}
	// During a rotation the file has the old CA, too.
	for _, c := range certs {
		if pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && c.IsCA && pub.Equal(c.PublicKey) {
			revoked, _, err := ReadRevoked(dir)
			return &Authority{c, signer, revoked}, err
		}
	}
	return nil, fmt.Errorf("the key %s belongs to no certificate in %s", path, filepath.Join(dir, CAFile))
}

// Write puts a certificate into a folder (made with mode 0700): the
// certificate, its key with mode 0600, and the CAs that caDir holds. Unless
// renew is set it fails with fs.ErrExist when one is there. It returns the
// paths, the CA's first.
func Write(dir, caDir string, n Name, made Issued, renew bool) (paths []string, err error) {
	certFile, keyFile := n.files()
	cert, key := filepath.Join(dir, certFile), filepath.Join(dir, keyFile)
	for _, path := range []string{cert, key} {
		if err := vacant(path); err != nil && !(renew && errors.Is(err, fs.ErrExist)) {
			return nil, err
		}
	}
	ca, err := os.ReadFile(filepath.Join(caDir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for a certificate: %w", err)
	}
	caCopy := filepath.Join(dir, CAFile)
	if filepath.Clean(dir) != filepath.Clean(caDir) {
		if err := replace(caCopy, 0o644, ca); err != nil {
			return nil, err
		}
	}
	err = errors.Join(write(key, "PRIVATE KEY", 0o600, made.Key), write(cert, "CERTIFICATE", 0o644, made.Cert))
	return []string{caCopy, cert, key}, err
}

// NameAt returns whom the certificate in a folder is made out to.
func NameAt(dir string, node bool) (Name, error) {
	file := ClientFile
	if node {
		file = NodeFile
	}
	certs, err := ReadCertificates(filepath.Join(dir, file))
	if err != nil {
		return Name{}, err
	}
	return NameIn(certs[0])
}

// ReadCertificates reads the certificates of a PEM file, at least one.
func ReadCertificates(path string) (out []*x509.Certificate, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a certificate: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read a certificate of %s: %w", path, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return out, nil
}

func write(path, kind string, mode fs.FileMode, der []byte) error {
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	defer clear(b.Bytes())
	return replace(path, mode, b.Bytes())
}

// replace writes a file as a whole or not at all.
func replace(path string, mode fs.FileMode, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
