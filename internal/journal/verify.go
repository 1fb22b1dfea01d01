package journal

import (
	"errors"

	"had/internal/boltfile"
)

// verify reads the whole file without bbolt and returns an error unless every
// page bbolt would use is sound and all contents match the seal.
func verify(path string) error {
	var got seal
	var stored []byte
	err := boltfile.Walk(path, func(bucket string, key, value []byte) error {
		if bucket == metaBucket && string(key) == sealKey {
			stored = value
		} else {
			got ^= sum(bucket, key, value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if want, err := decodeUint(stored); err != nil || got != seal(want) {
		return errors.New("its contents don't match their checksum")
	}
	return nil
}
