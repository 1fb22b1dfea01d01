package hook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLinks is the kernel's own bound on symbolic links in one path
// (path_resolution(7)).
const maxLinks = 40

// CheckTrusted returns an error unless only root can change what path names:
// every directory, link and the file itself is owned by root, and none is
// writable by group or others. A sticky directory, such as /tmp, may be: in it
// nobody but root can rename or remove what root owns (inode(7)).
//
// While it holds no other user can swap the file between this check and
// execve(2), so that executing by path is safe.
func CheckTrusted(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s is not an absolute path", path)
	}
	at := "/"
	rest := components(path)
	links := 0
	for {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			if links++; links > maxLinks {
				return fmt.Errorf("%s leads through more than %d symbolic links", path, maxLinks)
			}
			if err := checkOwner(at, info); err != nil {
				return err
			}
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			rest = append(components(target), rest...)
			at = filepath.Dir(at)
			if filepath.IsAbs(target) {
				at = "/"
			}
		} else if err := checkWritable(at, info); err != nil {
			return err
		}
		if len(rest) == 0 {
			return nil
		}
		// at has no links left in it, so ".." may be taken lexically.
		at = filepath.Join(at, rest[0])
		rest = rest[1:]
	}
}

func components(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func checkOwner(path string, info fs.FileInfo) error {
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		return fmt.Errorf("%s belongs to user %d, who could change what runs as root (chown root it)", path, uid)
	}
	return nil
}

func checkWritable(path string, info fs.FileInfo) error {
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if info.IsDir() && info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%s can be written by users other than root (mode %04o; chmod go-w it)", path, perm)
	}
	return nil
}

// vetted is a script that may be run.
type vetted struct {
	digest    string
	firstLine string // for the hint when the kernel won't execute it
}

// vet checks that the file at path may be run and reads it once. The context
// bounds the time a large file may take.
func vet(ctx context.Context, path string) (vetted, error) {
	if err := CheckTrusted(path); err != nil {
		return vetted{}, err
	}
	// O_NONBLOCK: a file that became a named pipe since the scan must not block.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return vetted{}, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return vetted{}, err
	} else if !info.Mode().IsRegular() {
		return vetted{}, fmt.Errorf("%s is not a regular file", path)
	}
	head := make([]byte, 256) // the kernel looks no further (execve(2))
	n, err := file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return vetted{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, contextReader{ctx, file}); err != nil {
		return vetted{}, err
	}
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	return vetted{digest: hex.EncodeToString(h.Sum(nil)), firstLine: line}, nil
}

// contextReader ends a copy when the context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
