package storage

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// report reports median and worst of what took so long.
func report(b *testing.B, times []time.Duration, unit string) {
	b.Helper()
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(times[len(times)/2]), unit)
	b.ReportMetric(ms(times[len(times)-1]), "max-"+unit)
}

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

// BenchmarkShutdown compares what a shutdown may still write: what is lost of what
// a killed writer was told is safe, and how long the forced end takes.
func BenchmarkShutdown(b *testing.B) {
	const dirty = 150 << 20
	for _, fstype := range fileSystems() {
		for _, size := range []int{0, dirty} {
			for how, flag := range map[string]int{"log": shutdownLog, "nolog": shutdownNoLog} {
				b.Run(fmt.Sprintf("%s/%dMB/%s", fstype, size>>20, how), func(b *testing.B) { benchShutdown(b, fstype, size, flag) })
			}
		}
	}
}

func benchShutdown(b *testing.B, fstype string, size, flag int) {
	image := newImage(b, fstype)
	v, other := volumeOn(b, image), volumeOn(b, image)
	h := thisHost()
	h.shutdown = flag
	data := make([]byte, size)
	_, _ = rand.Read(data)
	var times []time.Duration
	lost, safe := 0, 0
	for b.Loop() {
		must(b, Mount(b.Context(), v, MountOptions{}))
		must(b, os.WriteFile(filepath.Join(v.Path, "dirty"), data, 0o600))
		w := startHelper(b, 0, "write", filepath.Join(v.Path, "stamps"))
		for range 10 {
			w.line()
		}
		told := 11 + strings.Count(w.killed(), "\n")
		begin := time.Now()
		must(b, h.secure(b.Context(), []Volume{v}))
		times = append(times, time.Since(begin))
		must(b, Mount(b.Context(), other, MountOptions{}))
		stamps, err := os.ReadFile(filepath.Join(other.Path, "stamps"))
		must(b, err)
		lost += max(0, told-countStamps(b, stamps))
		safe += told
		must(b, os.Remove(filepath.Join(other.Path, "stamps")))
		must(b, Unmount(b.Context(), other))
		clean(b, fstype, other.Device)
	}
	report(b, times, "ms")
	b.ReportMetric(float64(lost), "lost")
	b.ReportMetric(float64(safe)/float64(b.N), "safe/op")
}
