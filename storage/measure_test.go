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
	dirty := make([]byte, 150<<20)
	_, _ = rand.Read(dirty)
	for _, fstype := range fileSystems() {
		for load, prepare := range map[string]func(dir string){
			"idle":  func(string) {},
			"dirty": func(dir string) { must(b, os.WriteFile(filepath.Join(dir, "dirty"), dirty, 0o600)) },
			"files": func(dir string) {
				for i := range 5000 {
					must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), dirty[:100], 0o600))
				}
			},
		} {
			for how, flag := range map[string]int{"log": shutdownLog, "nolog": shutdownNoLog} {
				b.Run(strings.Join([]string{fstype, load, how}, "/"), func(b *testing.B) { benchShutdown(b, fstype, prepare, flag) })
			}
		}
	}
}

func benchShutdown(b *testing.B, fstype string, prepare func(dir string), flag int) {
	image := newImage(b, fstype)
	v, other := volumeOn(b, image), volumeOn(b, image)
	h := thisHost()
	h.shutdown = flag
	var times []time.Duration
	lost, safe := 0, 0
	for b.Loop() {
		must(b, Mount(b.Context(), v, MountOptions{}))
		prepare(v.Path)
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
		left, err := filepath.Glob(filepath.Join(other.Path, "[0-9ds]*"))
		must(b, err)
		for _, f := range left {
			must(b, os.Remove(f))
		}
		must(b, Unmount(b.Context(), other))
		clean(b, fstype, other.Device)
	}
	report(b, times, "ms")
	b.ReportMetric(float64(lost), "lost")
	b.ReportMetric(float64(safe)/float64(b.N), "safe/op")
}
