// Package durable makes changes of a folder outlast a crash of the host.
package durable

import (
	"errors"
	"os"
)

// SyncDir makes the names in a folder last: files created, renamed or removed
// there before the call (fsync(2)).
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
