// Package secret reads what a file holds that nobody but root may see.
package secret

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"had/internal/hook"
)

const longest = 4096 // bytes of a file

// Read returns the one line of a file, which only root can have written.
func Read(path string) (string, error) {
	if err := hook.CheckTrusted(path); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a named pipe must not hold it up
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return "", err
	}
	line, _ := strings.CutSuffix(string(b), "\n")
	line, _ = strings.CutSuffix(line, "\r")
	switch {
	case line == "":
		return "", fmt.Errorf("%s is empty", path)
	case len(b) > longest:
		return "", fmt.Errorf("%s is longer than %d bytes", path, longest)
	case strings.ContainsAny(line, "\n\r\x00"):
		return "", fmt.Errorf("%s holds more than one line", path) // its reader would take the rest for something else
	}
	return line, nil
}

// CheckPrivate returns an error when others than root can read a file. One that
// isn't there is Read's to tell.
func CheckPrivate(path string) error {
	if info, err := os.Stat(path); err == nil && info.Mode()&0o077 != 0 {
		return fmt.Errorf("others than root can read %s: chmod 600 it", path)
	}
	return nil
}
