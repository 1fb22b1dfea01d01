package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Protection is ext4's own record of who has a file system mounted, its
// multiple mount protection (ext4(5), mmp). It is a net, not evidence: it says
// who wrote last, not who can't write any more.
type Protection struct {
	Held bool      // somebody has it mounted, or crashed with it
	Node string    // the name of the host that wrote the record last
	At   time.Time // when, by the clock of that host
}

// Protected looks for the multiple mount protection on a volume's device. It
// is nil where there is none.
func Protected(ctx context.Context, v Volume) (*Protection, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	if v.Network() {
		return nil, nil //nolint:nilnil // none is no error
	}
	d, err := thisHost().resolve(ctx, v)
	if err != nil {
		return nil, err
	}
	p, err := readMMP(d)
	if err != nil {
		return nil, v.errorf("%w", err)
	}
	return p, nil
}

// Offsets in ext4's superblock and in its block of the protection, and values
// there, little-endian (Documentation/filesystems/ext4, super.rst and mmp.rst).
const (
	superOffset   = 1024
	superSize     = 1024
	superMagic    = 0x38 // uint16: 0xEF53
	superLogBlock = 0x18 // uint32: block size is 1024 << it
	superIncompat = 0x60 // uint32, 0x100: with protection
	superMMPBlock = 0x168

	mmpMagic = 0 // uint32: 0x004D4D50
	mmpSeq   = 4 // uint32: 0xFF4D4D50 when nobody has it mounted
	mmpTime  = 8 // uint64: seconds since 1970
	mmpNode  = 16
	mmpEnd   = 80
)

func readMMP(d device) (*Protection, error) {
	if d.fstype != "ext4" {
		return nil, nil //nolint:nilnil // none is no error
	}
	f, err := os.Open(d.path)
	if err != nil {
		return nil, fmt.Errorf("read the multiple mount protection: %w", err)
	}
	defer f.Close()
	super := make([]byte, superSize)
	if _, err := f.ReadAt(super, superOffset); err != nil {
		return nil, fmt.Errorf("read the superblock on %s: %w", d.path, err)
	}
	le := binary.LittleEndian
	if le.Uint16(super[superMagic:]) != 0xEF53 || le.Uint32(super[superIncompat:])&0x100 == 0 {
		return nil, nil //nolint:nilnil // none is no error
	}
	block := make([]byte, mmpEnd)
	at := int64(le.Uint64(super[superMMPBlock:])) * int64(1024<<le.Uint32(super[superLogBlock:]))
	if _, err := f.ReadAt(block, at); err != nil {
		return nil, fmt.Errorf("read the multiple mount protection on %s: %w", d.path, err)
	}
	if le.Uint32(block[mmpMagic:]) != 0x004D4D50 {
		return nil, fmt.Errorf("read the multiple mount protection on %s: it is damaged; e2fsck repairs it, once no host has the file system mounted", d.path)
	}
	node, _, _ := strings.Cut(string(block[mmpNode:mmpEnd]), "\x00")
	return &Protection{
		Held: le.Uint32(block[mmpSeq:]) != 0xFF4D4D50,
		Node: node,
		At:   time.Unix(int64(le.Uint64(block[mmpTime:])), 0),
	}, nil
}

// clearMMP says on the device that nobody has it mounted.
func clearMMP(ctx context.Context, d device) error {
	p, err := readMMP(d)
	if err != nil {
		return err
	}
	if p == nil || !p.Held {
		return nil
	}
	if err := exclusive(d.path); err != nil {
		return fmt.Errorf("clear the multiple mount protection: %w", err)
	}
	out, code, err := run(ctx, "tune2fs", "-f", "-E", "clear_mmp", d.path)
	if err == nil && code != 0 {
		err = errors.New(lastLines(out))
	}
	if err != nil {
		return fmt.Errorf("clear the multiple mount protection on %s: %w", d.path, err)
	}
	return nil
}
