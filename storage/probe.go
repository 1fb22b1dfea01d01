package storage

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// blkid's exit codes (blkid(8)).
	nothingFound = 2
	ambivalent   = 8

	probePatience = 2 * time.Second       // for a device that may be dead
	probePause    = 20 * time.Millisecond // for one that has long answered, while it was another's turn
	probeAtOnce   = 16
)

// content is what blkid found on a device. All is "" that isn't there. Values
// are as it prints them: see printed.
type content struct {
	fstype  string
	usage   string // filesystem, raid, crypto, other
	uuid    string
	label   string
	partID  string // PARTUUID
	part    string // PARTLABEL
	journal string // the UUID of an ext4's journal that is on another device
}

// has reports whether the device carries the tag. UUIDs are compared without
// their case: some tools write them in capitals.
func (c content) has(name, value string) bool {
	value = printed(value)
	switch name {
	case "UUID":
		return strings.EqualFold(c.uuid, value)
	case "LABEL":
		return c.label == value
	case "PARTUUID":
		return strings.EqualFold(c.partID, value)
	case "PARTLABEL":
		return c.part == value
	default:
		return false
	}
}

func (c *content) set(name, value string) {
	switch name {
	case "TYPE":
		c.fstype = value
	case "USAGE":
		c.usage = value
	case "UUID":
		c.uuid = value
	case "LABEL":
		c.label = value
	case "PARTUUID", "PART_ENTRY_UUID":
		c.partID = value
	case "PARTLABEL", "PART_ENTRY_NAME":
		c.part = value
	case "EXT_JOURNAL":
		c.journal = value
	}
}

// search reads the tags of the devices, past every cache, and returns the
// paths of those that didn't answer. All in one go: most of the time goes into
// starting blkid. Only when that is held up, each by itself.
func search(ctx context.Context, ds []*device) (silent []string, err error) {
	if len(ds) == 0 {
		return nil, nil
	}
	// What was started dies with the thread: see start.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	byPath := make(map[string]*device, len(ds))
	paths := make([]string, len(ds))
	for i, d := range ds {
		byPath[d.path], paths[i] = d, d.path
	}
	together, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	p, err := startSearch(paths...)
	if err != nil {
		return nil, err
	}
	out, _, err := p.wait(together)
	if err == nil {
		return nil, parseBlkid(out, byPath)
	}
	if ctx.Err() != nil {
		return nil, err
	}
	for first := 0; first < len(ds); first += probeAtOnce {
		s, err := searchEach(ctx, paths[first:min(len(ds), first+probeAtOnce)], byPath)
		if err != nil {
			return nil, err
		}
		silent = append(silent, s...)
	}
	return silent, nil
}

// startSearch begins a search that goes on after a device that can't be read,
// which blkid's low-level probing doesn't.
func startSearch(paths ...string) (*program, error) {
	return start("blkid", append([]string{"-c", "/dev/null", "-o", "export"}, paths...)...)
}

// searchEach starts a blkid for each device before it waits for the first.
func searchEach(ctx context.Context, paths []string, byPath map[string]*device) (silent []string, err error) {
	deadline := time.Now().Add(probePatience)
	var running []*program
	for _, path := range paths {
		var p *program
		if p, err = startSearch(path); err != nil {
			break
		}
		running = append(running, p)
	}
	for i, p := range running {
		patient, cancel := context.WithTimeout(ctx, max(time.Until(deadline), probePause))
		out, _, stuck := p.wait(patient)
		cancel()
		if stuck != nil {
			silent = append(silent, paths[i])
		} else if bad := parseBlkid(out, byPath); err == nil {
			err = bad
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	return silent, err
}

// inspect reads all that there is to know of what is on one device.
func inspect(ctx context.Context, path string) (content, error) {
	if err := forget(path); err != nil {
		return content{}, err
	}
	out, code, err := run(ctx, "blkid", "-p", "-o", "export", path)
	d := &device{path: path}
	switch {
	case err != nil:
		return content{}, err
	case code == ambivalent:
		return content{}, fmt.Errorf("%w: it has the marks of several file systems, and which it is can't be told: look with wipefs %s", ErrUnfit, path)
	case code == nothingFound && strings.TrimSpace(out) != "": // it says why it can't read
		return content{}, fmt.Errorf("read it: %s", lastLines(out))
	case code != 0 && code != nothingFound:
		return content{}, fmt.Errorf("read it: blkid ended with %d: %s", code, lastLines(out))
	}
	err = parseBlkid(out, map[string]*device{path: d})
	return d.content, err
}

// forget drops what this host has cached of a device. The kernel does so by
// itself when the last one closes it; but who has it open for no matter what
// would keep what was read before another host wrote, and a file system that is
// mounted on that is destroyed.
func forget(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("drop what is cached of it: %w", err)
	}
	return nil
}

// parseBlkid reads "blkid -o export": a block of NAME=value for each device,
// which begins with DEVNAME.
func parseBlkid(out string, byPath map[string]*device) error {
	var d *device
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch {
		case !ok: // an empty line, or a complaint
		case name == "DEVNAME":
			if d = byPath[value]; d == nil {
				return fmt.Errorf("read what blkid prints: nobody asked for %s", value)
			}
		case d != nil:
			d.content.set(name, value)
		}
	}
	return nil
}

// printed is a value as "blkid -o export" prints it: safe for a shell, and for
// a terminal.
func printed(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c >= 0x80 {
			b.WriteString("M-")
			c -= 0x80
		}
		if c < ' ' || c == 0x7f {
			b.WriteByte('^')
			c ^= 0x40
		} else if strings.IndexByte(" \\\"'$`<>", c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
