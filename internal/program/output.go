package program

import (
	"strings"
	"sync"
	"unicode"

	"had/internal/redact"
)

const (
	keptOutput = 64 << 10 // bytes of each stream: metadata takes 16 KiB
	shownLines = 4
	shownBytes = 600
)

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	cut bool
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-keptOutput):]...)
	t.cut = t.cut || len(p) > keptOutput
	if over := len(t.buf) - keptOutput; over > 0 {
		t.buf, t.cut = append(t.buf[:0], t.buf[over:]...), true
	}
	return len(p), nil
}

// String returns whole lines: a secret that was cut couldn't be recognised.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.buf)
	if t.cut {
		_, s, _ = strings.Cut(s, "\n")
	}
	return s
}

// said makes one line of the last lines of the first text that has any.
func said(secrets []string, texts ...string) string {
	for _, text := range texts {
		var lines []string
		for line := range strings.Lines(redact.Hide(text, secrets)) {
			if line = strings.TrimSpace(strings.Map(printable, line)); line != "" {
				lines = append(lines, line)
			}
		}
		if len(lines) == 0 {
			continue
		}
		s := strings.Join(lines[max(0, len(lines)-shownLines):], "; ")
		if len(s) > shownBytes {
			s = "…" + strings.ToValidUTF8(s[len(s)-shownBytes:], "")
		}
		return s
	}
	return ""
}

func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return ' '
	}
	return r
}
