package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fails checks that a volume doesn't work, for a reason.
func fails(t *testing.T, v Volume, why string) {
	t.Helper()
	if err := Works(v); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want %q", err, why)
	}
}

func TestWorks(t *testing.T) {
	for _, fstype := range fileSystems() {
		t.Run(fstype, func(t *testing.T) {
			under, v := lower(t, fstype)
			fails(t, v, "nothing is mounted")
			must(t, Mount(t.Context(), v, MountOptions{}))
			must(t, Works(v))
			entries, err := os.ReadDir(v.Path)
			must(t, err)
			for _, e := range entries {
				if e.Name() != "lost+found" {
					t.Errorf("%s was left", e.Name())
				}
			}

			must(t, unix.Mount("", v.Path, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			fails(t, v, "read-only")
			meant := v
			meant.Options = []string{"ro"}
			must(t, Works(meant))
			must(t, unix.Mount("", v.Path, "", unix.MS_REMOUNT, ""))

			// Full: that goes with the volume to whoever has it.
			big, err := os.Create(filepath.Join(v.Path, "big"))
			must(t, err)
			for err == nil {
				_, err = big.Write(make([]byte, 1<<20))
			}
			_ = big.Close() // full, too
			must(t, Works(v))

			// A disk that fails every request.
			own, err := ownMounts()
			must(t, err)
			m, _ := top(own, under.Path)
			must(t, thisHost().shutDown([]mount{m}, m.dev()))
			if err := Works(v); err == nil {
				t.Error("it works without its disk")
			}
		})
	}
}
