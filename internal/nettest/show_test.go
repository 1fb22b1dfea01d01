package nettest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// describe makes an error of a status that isn't the one waited for.
func describe(st *hadv1.StatusResponse) error {
	o := st.GetOwnership()
	return fmt.Errorf("%s says: %s, owner %q, epoch %d, leader %q, why %q, not confirmed because %q; nodes:\n%s", st.GetAnsweredBy(),
		o.GetState(), o.GetOwner(), o.GetEpoch(), st.GetLeader(), o.GetWhy(), st.GetFreshness().GetNote(),
		prototext.MarshalOptions{Multiline: true}.Format(&hadv1.StatusResponse{Nodes: st.GetNodes(), Warnings: st.GetWarnings()}))
}

// showLogs shows the end of every daemon's log.
func showLogs(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range l.Servers() {
		text, err := os.ReadFile(h.Log())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(t, err)
		t.Logf("the log of %s ends:\n%s", h.Name, lastLines(string(text), 60))
	}
}

// showHistory shows the end of what the first node that answers has on record.
func (s *site) showHistory(t *testing.T) {
	t.Helper()
	for _, h := range s.Servers() {
		// The test's own context is over.
		events, err := s.historyUntil(context.Background(), t, h.Name)
		if err != nil {
			t.Logf("no history: %v", err)
			continue
		}
		var b strings.Builder
		for _, e := range events {
			e := proto.CloneOf(e)
			if e.GetHook() != nil {
				e.GetHook().Digest = ""
			}
			fmt.Fprintf(&b, "%s %s %s\n", e.GetAt().AsTime().Format("15:04:05.000"), e.GetNode(), prototext.MarshalOptions{}.Format(e))
		}
		t.Logf("the history of %s ends:\n%s", h.Name, lastLines(b.String(), 100))
		return
	}
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// showFile shows the end of a file.
func showFile(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Log(err)
		return
	}
	t.Logf("%s ends:\n%s", path, lastLines(string(text), 40))
}
