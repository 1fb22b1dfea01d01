package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"had/internal/durable"
	"had/internal/hook"
)

// keySize is that of AES-256.
const keySize = 32

// keyMagic begins a key's file, which is one line: the magic, and 32 bytes in
// base64.
const keyMagic = "had-token-key-1 "

// ErrNoKey means that a host has no token key.
var ErrNoKey = errors.New("this node has no token key")

// ErrOtherKey means that a content was sealed with another key.
var ErrOtherKey = errors.New("sealed with another token key")

// Key seals and opens the contents of a cluster's tokens. Every node that may
// own has the same one, in a file that never enters the log.
type Key struct {
	aead cipher.AEAD
	id   string
}

// ID is the key's fingerprint: 8 bytes in hex, derived from it by HKDF-SHA256
// (RFC 5869). It tells keys apart, and nothing about them: they are random.
func (k *Key) ID() string { return k.id }

func newKey(secret []byte) (*Key, error) {
	seal, err := hkdf.Key(sha256.New, secret, nil, "had token key: content", keySize)
	if err != nil {
		return nil, fmt.Errorf("derive the key of contents: %w", err)
	}
	defer clear(seal)
	id, err := hkdf.Key(sha256.New, secret, nil, "had token key: fingerprint", 8)
	if err != nil {
		return nil, fmt.Errorf("derive the key's fingerprint: %w", err)
	}
	block, err := aes.NewCipher(seal)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Key{aead: aead, id: hex.EncodeToString(id)}, nil
}

// ReadKey reads the key's file. Only root may be able to read or change it:
// mode 0600 or less, in folders that nobody else can write. The error is
// ErrNoKey when there is no file.
func ReadKey(path string) (*Key, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", ErrNoKey, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the token key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the token key %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("the token key %s can be read by others than its owner (mode %04o): chmod 0600 it, and rotate the tokens if somebody may have seen it", path, perm)
	}
	if err := hook.CheckTrusted(path); err != nil {
		return nil, fmt.Errorf("the token key isn't safe where it is: %w", err)
	}
	line := make([]byte, 256)
	defer clear(line)
	n, err := io.ReadFull(file, line)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the token key %s: %w", path, err)
	}
	return parseKey(path, line[:n])
}

func parseKey(path string, line []byte) (*Key, error) {
	broken := fmt.Errorf("%s is no token key: copy the file of another node, or remove it and make one with hactl token key", path)
	if len(line) < len(keyMagic) || string(line[:len(keyMagic)]) != keyMagic {
		return nil, broken
	}
	text := line[len(keyMagic):]
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	secret := make([]byte, keySize+3)
	defer clear(secret)
	if base64.StdEncoding.DecodedLen(len(text)) > len(secret) {
		return nil, broken
	}
	n, err := base64.StdEncoding.Strict().Decode(secret, text)
	if err != nil || n != keySize {
		return nil, broken
	}
	return newKey(secret[:n])
}

// MakeKey draws a key and writes it to a file that must not be there yet; the
// error is fs.ErrExist when it is.
func MakeKey(path string) (*Key, error) {
	secret := make([]byte, keySize)
	defer clear(secret)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	line := append(base64.StdEncoding.AppendEncode([]byte(keyMagic), secret), '\n')
	defer clear(line)
	// Whole or not at all: linked into place, which fails when there is one.
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("make a token key: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it has its real name by then, or is of no use
	_, err = tmp.Write(line)
	if err := errors.Join(err, tmp.Chmod(0o600), tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("make a token key: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return nil, fmt.Errorf("make a token key: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("make a token key: %w", err)
	}
	return newKey(secret)
}

// Place is what a sealed content is for. It can't be opened as that of another
// cluster, token or version.
type Place struct {
	Cluster string // the cluster's ID
	Name    string
	Version uint64
}

// data is the additional data of the AEAD: each part with its length, so that
// no two places have the same.
func (p Place) data() []byte {
	b := []byte("had token 1")
	for _, part := range []string{p.Cluster, p.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // a name
		b = append(b, part...)
	}
	return binary.BigEndian.AppendUint64(b, p.Version)
}

// Overhead is how much longer a sealed content is: a nonce of 12 bytes and a
// tag of 16.
const Overhead = 28

// Seal encrypts a content of at most MaxSize bytes, with AES-256-GCM under a
// random nonce.
func (k *Key) Seal(p Place, content []byte) ([]byte, error) {
	if err := checkSize(len(content)); err != nil {
		return nil, fmt.Errorf("seal token %q: %w", p.Name, err)
	}
	return k.aead.Seal(nil, nil, content, p.data()), nil
}

// Open decrypts what Seal returned for the same place under the key with that
// ID. The caller clears the content when it is done with it.
func (k *Key) Open(p Place, keyID string, sealed []byte) ([]byte, error) {
	if keyID != k.id {
		return nil, fmt.Errorf("token %q, version %d: %w (%s) than this node has (%s): copy the key's file from a node that has the other", p.Name, p.Version, ErrOtherKey, keyID, k.id)
	}
	content, err := k.aead.Open(nil, nil, sealed, p.data())
	if err != nil {
		return nil, fmt.Errorf("open version %d of token %q: what the log has isn't what was sealed", p.Version, p.Name)
	}
	return content, nil
}

// Random returns n random bytes.
func Random(n int) ([]byte, error) {
	if err := checkSize(n); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b, nil
}

func checkSize(n int) error {
	switch {
	case n == 0:
		return errors.New("the content is empty")
	case n > MaxSize:
		return fmt.Errorf("the content has %d bytes: at most %d travel in the log", n, MaxSize)
	}
	return nil
}
