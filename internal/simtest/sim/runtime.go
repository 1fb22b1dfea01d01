package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// seedVariable is the environment variable from which the patched runtime takes
// its seed, as Go writes numbers.
const seedVariable = "HAD_SIM_SEED"

// patch changes one place of a file of Go's runtime. The text before it must
// occur exactly once, so that another Go is refused instead of half patched.
type patch struct{ file, old, new string }

// patches take all chance out of a process that runs on one processor with the
// garbage collector off. What is left to decide (which goroutine runs next, which
// ready case a select takes, the order of a map and of timers that expire
// together, math/rand) follows from a seed.
func patches() []patch {
	return []patch{
		// All of the runtime's randomness from generators of our own (splitmix64). The
		// goroutines of a bubble have one to themselves, which each bubble seeds
		// again: what else goes on in a process may depend on its threads. The keys
		// of the map hash are drawn before there is an environment to read a seed
		// from, and are the same in every process.
		{"rand.go", `	"internal/runtime/math"
`, `	"internal/runtime/math"
	"internal/strconv"
`},
		{"rand.go", `// rand32 is uint32(rand())`, `type simRand uint64

var simBubble, simOther simRand

//go:nosplit
func (r *simRand) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := *r
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return uint64(z ^ z>>31)
}

//go:nosplit
func simNext() uint64 {
	if getg().bubble != nil {
		return simBubble.next()
	}
	return simOther.next()
}

func simBegin() {
	for !runqempty(getg().m.p.ptr()) {
		Gosched() // so that nobody else is about to run
	}
	seed, _ := strconv.ParseUint(gogetenv("` + seedVariable + `"), 0, 64)
	simBubble = simRand(seed)
	getg().m.p.ptr().schedtick = 0
}

// rand32 is uint32(rand())`},
		{"rand.go", `func bootstrapRand() uint64 {
`, `func bootstrapRand() uint64 {
	return simOther.next()
`},
		{"rand.go", `func rand() uint64 {
`, `func rand() uint64 {
	return simNext()
`},
		{"rand.go", `func cheaprand() uint32 {
`, `func cheaprand() uint32 {
	return uint32(simNext() >> 32)
`},
		{"synctest.go", `func synctestRun(f func()) {
`, `func synctestRun(f func()) {
	simBegin()
`},
		// The profiler draws a random number now and then, by bytes allocated.
		{"mprof.go", `var MemProfileRate int = 512 * 1024`, `var MemProfileRate int = 0`},
		// Each thread caches what it looked up about code, and draws when it adds
		// something. What it has looked up before depends on the thread.
		{"symtab.go", `ci := cheaprandn(uint32(len(cache.entries[ck])))`, `ci := uint32(simOther.next()) % uint32(len(cache.entries[ck]))`},
		// No monitor thread: it preempts goroutines by the wall clock.
		{"proc.go", `const haveSysmon = GOARCH != "wasm"`, `const haveSysmon = false`},
		// One thread. To hold the main goroutine on its thread during initialization
		// takes another one or two, as it happens. They lie on the heap, and the
		// hash of a pointer is made from its address.
		{"proc.go", `	// to preserve the lock.
	lockOSThread()
`, ``},
		{"proc.go", `	needUnlock = false
	unlockOSThread()
`, `	needUnlock = false
`},
		// A goroutine that becomes ready changes places with any of those that wait
		// for the processor. First come, first served would try few interleavings.
		{"proc.go", `		pp.runq[t%uint32(len(pp.runq))].set(gp)
		atomic.StoreRel(&pp.runqtail, t+1) // store`, `		pp.runq[t%uint32(len(pp.runq))].set(gp)
		i, j := (h+uint32(simBubble.next()>>32)%(t-h+1))%uint32(len(pp.runq)), t%uint32(len(pp.runq))
		pp.runq[i], pp.runq[j] = pp.runq[j], pp.runq[i]
		atomic.StoreRel(&pp.runqtail, t+1) // store`},
		// Who waits for a mutex is idle, so that time goes on while a process is
		// stopped that holds one.
		{"runtime2.go", `	waitReasonChanReceiveNilChan:    true,
`, `	waitReasonChanReceiveNilChan:    true,
	waitReasonSyncMutexLock:         true,
	waitReasonSyncRWMutexRLock:      true,
	waitReasonSyncRWMutexLock:       true,
`},
		// sync.Mutex becomes fair after a millisecond of the wall clock. Never here.
		{"sema.go", `func internal_sync_nanotime() int64 {
`, `func internal_sync_nanotime() int64 {
	return 1
`},
	}
}

// overlay writes the patched files into dir, and beside them what go build's
// -overlay reads; it returns the path of that.
func overlay(goroot, dir string) (string, error) {
	texts := map[string]string{}
	for _, p := range patches() {
		path := filepath.Join(goroot, "src", "runtime", p.file)
		text, ok := texts[path]
		if !ok {
			data, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("read Go's runtime: %w", err)
			}
			text = string(data)
		}
		if strings.Count(text, p.old) != 1 {
			return "", fmt.Errorf("patch %s of %s: this isn't there exactly once, so the patches of internal/simtest/sim need a look:\n%s", p.file, runtime.Version(), p.old)
		}
		texts[path] = strings.Replace(text, p.old, p.new, 1)
	}
	replace := map[string]string{}
	for path, text := range texts {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("write the patched runtime: %w", err)
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, data, 0o644); err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	return list, nil
}
