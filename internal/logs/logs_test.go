package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestLevelAndFormChangeForEveryLogger(t *testing.T) {
	var out bytes.Buffer
	l := New(Config{Name: "had", Level: hclog.Info, Output: &out})
	deep := l.Logger().Named("peer").With("node", "beta")
	standard := l.Logger().Named("raft").StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
	say := func() string {
		out.Reset()
		deep.Debug("detail")
		deep.Info("hello")
		if _, err := standard.Write([]byte("from raft\n")); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if got := say(); strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "[INFO]  had.peer: hello: node=beta\n") {
		t.Errorf("at info: %q", got)
	}
	l.SetLevel(hclog.Debug)
	if got := say(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "[DEBUG] had.raft: from raft\n") {
		t.Errorf("at debug: %q", got)
	}
	l.SetJSON(true)
	lines := strings.Split(strings.TrimSpace(say()), "\n")
	if len(lines) != 3 {
		t.Fatalf("at debug as JSON: %q", lines)
	}
	for _, line := range lines {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	l.SetLevel(hclog.Error)
	if got := say(); got != "" || deep.IsInfo() || l.Level() != hclog.Error || !l.JSON() {
		t.Errorf("at error: %q", got)
	}
	if level, json := l.Started(); level != hclog.Info || json {
		t.Errorf("it began with %s, %t", level, json)
	}
}

func TestPrioritiesForTheJournal(t *testing.T) {
	var out bytes.Buffer
	l := New(Config{Name: "had", Level: hclog.Trace, Output: &out, Journal: true})
	l.Logger().Error("bad", "output", "two\nlines")
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "<3>") {
			t.Errorf("an error's line without its priority: %q", line)
		}
	}
	if strings.Contains(out.String(), "Z [ERROR]") {
		t.Errorf("the journal has the time already: %q", out.String())
	}
	out.Reset()
	l.Logger().Warn("w")
	l.Logger().Info("i")
	l.Logger().Debug("d")
	l.Logger().Trace("t")
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, line[:3])
	}
	if fmt.Sprint(got) != "[<4> <6> <7> <7>]" {
		t.Errorf("priorities: %v", got)
	}
}

func TestToJournal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{
		"": false, "1:2": false, "nonsense": false, fmt.Sprintf("%d:%d", s.Dev, s.Ino): true,
	} {
		if got := ToJournal(f, func(string) string { return stream }); got != want {
			t.Errorf("JOURNAL_STREAM=%q: %t", stream, got)
		}
	}
}

func TestParseLevel(t *testing.T) {
	for _, name := range []string{"trace", "debug", "info", "warn", "error"} {
		if level, err := ParseLevel(name); err != nil || level.String() != name {
			t.Errorf("%s: %s, %v", name, level, err)
		}
	}
	for _, name := range []string{"", "off", "loud", "INFOO"} {
		if _, err := ParseLevel(name); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	q := Quiet(New(Config{Name: "had", Level: hclog.Info, Output: &out}).Logger().Named("raft"), "failed to heartbeat")
	q.Info("entering follower state")
	q.Named("x").Warn("failed to contact")
	q.With("peer", "beta").Error("failed to heartbeat to")
	q.Log(hclog.Warn, "anything")
	if out.Len() > 0 {
		t.Errorf("it wasn't quiet: %s", out.String())
	}
	q.Error("failed to write the log")
	q.Log(hclog.Error, "failed to take snapshot")
	if got := out.String(); strings.Count(got, "[ERROR] had.raft: failed to") != 2 {
		t.Errorf("an error was kept back: %q", got)
	}
}
