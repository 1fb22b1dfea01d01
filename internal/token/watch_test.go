package token

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// changed waits for the watcher's word.
func changed(t *testing.T, w *Watcher, want bool) {
	t.Helper()
	limit := 10 * time.Second
	if !want {
		limit = 3 * settle
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.Changed():
		if !want {
			t.Error("it says that something changed")
		}
	case <-timer.C:
		if want {
			t.Error("it says nothing")
		}
	}
}

func TestWatcher(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWatcher()
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	must(t, w.Watch(dir))
	must(t, w.Watch(dir))
	changed(t, w, false)

	f := at(dir, "token")
	must(t, os.WriteFile(f.Path, []byte("written in place"), 0o600))
	changed(t, w, true)
	must(t, f.Put([]byte("renamed into place")))
	changed(t, w, true)
	must(t, os.Chmod(f.Path, 0o640))
	changed(t, w, true)

	// Many changes soon after one another are one. On a busy machine they may come
	// slowly, and are several.
	for took := settle; took >= settle/2; {
		began := time.Now()
		for range 20 {
			must(t, os.Chmod(f.Path, 0o600))
		}
		if took = time.Since(began); took >= settle/2 {
			time.Sleep(3 * settle) // so that nothing of them is on its way
		}
		changed(t, w, true)
	}
	changed(t, w, false)

	// A folder that was replaced is another one.
	must(t, os.Rename(dir, dir+".old"))
	t.Cleanup(func() { os.RemoveAll(dir + ".old") })
	must(t, os.Mkdir(dir, 0o700))
	must(t, w.Watch(dir))
	must(t, os.WriteFile(f.Path, []byte("new folder"), 0o600))
	changed(t, w, true)

	if err := w.Watch(filepath.Join(dir, "absent")); err == nil {
		t.Error("a folder that isn't there is watched")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := w.Watch(dir); err == nil {
		t.Error("a closed watcher watches")
	}
}
