package guard

import (
	"io"
	"slices"
	"sync"
	"time"
)

// logWriter passes lines on without ever waiting for whoever reads them: had's
// standard error may be a pipe that nobody empties once had is dead.
type logWriter struct {
	lines chan []byte
	done  chan struct{}
	once  sync.Once
}

const (
	logLines    = 64 // kept while nobody reads; later ones are lost
	logPatience = 200 * time.Millisecond
)

func newLogWriter(to io.Writer) *logWriter {
	w := &logWriter{lines: make(chan []byte, logLines), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for l := range w.lines {
			if _, err := to.Write(l); err != nil {
				continue // there is nobody to tell
			}
		}
	}()
	return w
}

// Write implements io.Writer; it keeps nothing of p.
func (w *logWriter) Write(p []byte) (int, error) {
	select {
	case w.lines <- slices.Clone(p):
	default:
	}
	return len(p), nil
}

// close waits for the lines under way, but not long. Nothing may be written
// after it.
func (w *logWriter) close() {
	w.once.Do(func() { close(w.lines) })
	timer := time.NewTimer(logPatience)
	defer timer.Stop()
	select {
	case <-w.done:
	case <-timer.C:
	}
}
