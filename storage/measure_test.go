package storage

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkAllMounts(b *testing.B) {
	for b.Loop() {
		_, err := allMounts()
		must(b, err)
	}
}

// BenchmarkSecure is from the call to the proof.
func BenchmarkSecure(b *testing.B) {
	const dirty = 150 << 20
	for _, fstype := range fileSystems() {
		for name, size := range map[string]int{"idle": 0, "150MB": dirty} {
			b.Run(fstype+"/"+name, func(b *testing.B) {
				v := newVolume(b, fstype)
				data := make([]byte, size)
				_, _ = rand.Read(data)
				for b.Loop() {
					b.StopTimer()
					must(b, Mount(b.Context(), v, MountOptions{}))
					must(b, os.WriteFile(filepath.Join(v.Path, "file"), data, 0o600))
					b.StartTimer()
					must(b, Secure(b.Context(), []Volume{v}))
				}
			})
		}
	}
}
