// Package logs is had's log: its level and its form can be changed while it is
// written, and what goes to systemd's journal carries its priority.
package logs

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

// Config is how a log begins.
type Config struct {
	Name    string
	Level   hclog.Level
	JSON    bool
	Output  io.Writer
	Journal bool // Output is read by systemd's journal, as ToJournal says
}

// Log is where loggers write, and what they have in common.
type Log struct {
	config Config
	root   *logger
	json   atomic.Bool
}

// New returns a log.
func New(c Config) *Log {
	l := &Log{config: c}
	out := &writer{to: c.Output, journal: c.Journal}
	form := func(json bool) hclog.Logger {
		return hclog.New(&hclog.LoggerOptions{Name: c.Name, Level: c.Level, Output: out, JSONFormat: json, DisableTime: c.Journal && !json})
	}
	l.root = &logger{Logger: form(false), asJSON: form(true), log: l}
	l.json.Store(c.JSON)
	return l
}

// Logger returns the logger at the top.
func (l *Log) Logger() hclog.Logger { return l.root }

// Level returns the least level that is written.
func (l *Log) Level() hclog.Level { return l.root.GetLevel() }

// JSON reports whether lines are JSON.
func (l *Log) JSON() bool { return l.json.Load() }

// Journal reports whether lines carry their priority for systemd's journal; not
// without a log.
func (l *Log) Journal() bool { return l != nil && l.config.Journal }

// Started returns what the log began with, and begins with again.
func (l *Log) Started() (level hclog.Level, json bool) { return l.config.Level, l.config.JSON }

// SetLevel changes it for every logger of the log.
func (l *Log) SetLevel(level hclog.Level) { l.root.SetLevel(level) }

// SetJSON changes the form of every line to come.
func (l *Log) SetJSON(on bool) { l.json.Store(on) }

// ParseLevel reads a level's name.
func ParseLevel(name string) (hclog.Level, error) {
	switch level := hclog.LevelFromString(name); level {
	case hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error:
		return level, nil
	case hclog.NoLevel, hclog.Off:
	}
	return hclog.NoLevel, fmt.Errorf("%q is no log level: take trace, debug, info, warn or error", name)
}

// logger is two of hclog's, of which one writes: hclog can't change a logger's
// form. Both have the same names and levels.
type logger struct {
	hclog.Logger // as text
	asJSON       hclog.Logger
	log          *Log
}

func (l *logger) pick() hclog.Logger {
	if l.log.json.Load() {
		return l.asJSON
	}
	return l.Logger
}

func (l *logger) of(change func(hclog.Logger) hclog.Logger) hclog.Logger {
	return &logger{Logger: change(l.Logger), asJSON: change(l.asJSON), log: l.log}
}

// Log implements hclog.Logger, as do the others.
func (l *logger) Log(level hclog.Level, msg string, args ...any) { l.pick().Log(level, msg, args...) }
func (l *logger) Trace(msg string, args ...any)                  { l.pick().Trace(msg, args...) }
func (l *logger) Debug(msg string, args ...any)                  { l.pick().Debug(msg, args...) }
func (l *logger) Info(msg string, args ...any)                   { l.pick().Info(msg, args...) }
func (l *logger) Warn(msg string, args ...any)                   { l.pick().Warn(msg, args...) }
func (l *logger) Error(msg string, args ...any)                  { l.pick().Error(msg, args...) }

func (l *logger) With(args ...any) hclog.Logger {
	return l.of(func(h hclog.Logger) hclog.Logger { return h.With(args...) })
}

func (l *logger) Named(name string) hclog.Logger {
	return l.of(func(h hclog.Logger) hclog.Logger { return h.Named(name) })
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return l.of(func(h hclog.Logger) hclog.Logger { return h.ResetNamed(name) })
}

func (l *logger) SetLevel(level hclog.Level) {
	l.Logger.SetLevel(level)
	l.asJSON.SetLevel(level)
}

func (l *logger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return &standardWriter{text: l.Logger.StandardWriter(o), json: l.asJSON.StandardWriter(o), log: l.log}
}

func (l *logger) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	if o == nil {
		o = &hclog.StandardLoggerOptions{}
	}
	return log.New(l.StandardWriter(o), "", 0)
}

type standardWriter struct {
	text, json io.Writer
	log        *Log
}

func (w *standardWriter) Write(p []byte) (int, error) {
	if w.log.json.Load() {
		return w.json.Write(p)
	}
	return w.text.Write(p)
}

// writer puts whole entries to one place, for both forms.
type writer struct {
	mu      sync.Mutex
	to      io.Writer
	journal bool
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) { return w.LevelWrite(hclog.Info, p) }

// LevelWrite implements hclog.LevelWriter.
func (w *writer) LevelWrite(level hclog.Level, p []byte) (int, error) {
	if w.journal {
		p = prefixed(level, p)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

// prefixed puts a priority before each line, as sd-daemon(3) has it: the journal
// takes each line for an entry.
func prefixed(level hclog.Level, p []byte) []byte {
	out := make([]byte, 0, len(p)+8)
	for line := range bytes.Lines(p) {
		out = fmt.Appendf(out, "<%d>", priority(level))
		out = append(out, line...)
	}
	return out
}

// priority is a level as syslog(3) has it.
func priority(level hclog.Level) int {
	switch level {
	case hclog.Error:
		return 3
	case hclog.Warn:
		return 4
	case hclog.Trace, hclog.Debug:
		return 7
	case hclog.Info, hclog.NoLevel, hclog.Off:
	}
	return 6
}

// ToJournal reports whether a file is a stream to systemd's journal: the
// environment then names its device and inode (systemd.exec(5), JOURNAL_STREAM).
func ToJournal(f *os.File, env func(string) string) bool {
	stream := env("JOURNAL_STREAM")
	if stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}
