package nettest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// copyist is a sync's command that fetches a page from the address it is given
// and keeps it as this node's copy. ORDERS holds what it is told to do on a node:
// fail.NODE, hang.NODE. One that hangs does all it can to outlive its end.
const copyist = `#!/bin/bash
exec 3<>"/dev/tcp/$1/80" || exit 10
printf 'GET / HTTP/1.0\r\n\r\n' >&3
page=$(sed -n '$p' <&3)
[ -e "ORDERS/fail.$HAD_NODE" ] && { echo "told to fail"; exit 12; }
if [ -e "ORDERS/hang.$HAD_NODE" ]; then
	trap "" TERM HUP
	setsid env -i bash -c 'echo $$ >>"ORDERS/pids.$0"; exec sleep 1000' "$HAD_NODE" &
	echo $$ >>"ORDERS/pids.$HAD_NODE"
	while :; do sleep 1000; done
fi
echo "$page" >"COPIES/$HAD_NODE.new"
mv "COPIES/$HAD_NODE.new" "COPIES/$HAD_NODE"
`

// TestSyncsFollowTheOwner copies from the owner over its address while it
// changes: a run ends before its node owns, and what might overwrite the newest
// data waits for a person.
func TestSyncsFollowTheOwner(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{Detect: steady})
	dir := t.TempDir()
	copies, orders, command := filepath.Join(dir, "copies"), filepath.Join(dir, "orders"), filepath.Join(dir, "copy")
	must(t, os.Mkdir(copies, 0o700))
	must(t, os.Mkdir(orders, 0o700))
	must(t, os.WriteFile(command, []byte(strings.NewReplacer("ORDERS", orders, "COPIES", copies).Replace(copyist)), 0o755))
	order := func(what, node string) string {
		path := filepath.Join(orders, what+"."+node)
		must(t, os.WriteFile(path, nil, 0o600))
		return path
	}
	// Who takes over looks whether its own run is still there; one that has ended
	// and that nobody has waited for yet has no words.
	s.hooks.add(t, s.vips[0], "PreAcq05", fmt.Sprintf(`cat %s/pids.$HAD_NODE 2>/dev/null | while read pid; do [ -z "$(tr -d '\0' 2>/dev/null </proc/$pid/cmdline)" ] || { echo "process $pid goes on"; exit 1; }; done || exit 1`, orders))
	s.apply(t, "alpha", s.policy(s.vips...)+fmt.Sprintf("sync \"pages\" {\n  command = [%q, \"${vip.v0.address}\"]\n  every   = \"1s\"\n  timeout = \"1m\"\n  max_age = \"1h\"\n}\n", command))
	first := s.settled(t)
	copied := func(owner string, nodes ...string) {
		t.Helper()
		for _, node := range nodes {
			eventually(t, fmt.Sprintf("%s has a copy of what %s serves", node, owner), func() error {
				text, err := os.ReadFile(filepath.Join(copies, node))
				if err == nil && strings.TrimSpace(string(text)) != "hello from "+owner {
					err = fmt.Errorf("it has %q", text)
				}
				return err
			})
			eventually(t, "the log knows of it", func() error {
				if n := len(s.syncEvents(t, node, owner, hadv1.SyncResult_OUTCOME_COPIED)); n != 1 {
					return fmt.Errorf("%d times", n)
				}
				return nil
			})
		}
	}
	copied(first, s.others(first)...)

	second := s.others(first)[0]
	third := s.others(first, second)[0]
	hang := order("hang", second)
	eventually(t, "a run hangs on "+second, func() error {
		text, err := os.ReadFile(filepath.Join(orders, "pids."+second))
		if err == nil && len(strings.Fields(string(text))) < 2 {
			err = fmt.Errorf("processes %q", text)
		}
		return err
	})
	fail := order("fail", third) // of what the second serves it gets no copy
	s.moveTo(t, first, second)
	if owner := s.takenOver(t, first); owner != second {
		t.Fatalf("moved to %s, and %s serves", second, owner)
	}
	if stopped := s.syncEvents(t, second, first, hadv1.SyncResult_OUTCOME_STOPPED); len(stopped) != 1 {
		t.Errorf("the run that was ended is in the log as %v", stopped)
	}
	if failed := failures(s.fullHistory(t), second, hadv1.Progress_OUTCOME_FAILED); len(failed) > 0 {
		t.Errorf("the turn had to be given back: %q", failed)
	}
	must(t, os.Remove(hang))
	copied(second, first) // not held: the second had a whole copy of the first's
	eventually(t, "a failure is in the log, once", func() error {
		if failed := s.syncEvents(t, third, second, hadv1.SyncResult_OUTCOME_FAILED); len(failed) != 1 || string(failed[0].GetOutputTail()) != "told to fail\n" {
			return fmt.Errorf("it is there as %v", failed)
		}
		return nil
	})

	s.moveTo(t, first, third)
	s.takenOver(t, second)
	must(t, os.Remove(fail))
	var held *hadv1.StatusResponse
	eventually(t, "the sync is held", func() (err error) {
		if held, err = s.status(t, first); err == nil && (len(held.GetSyncs()) != 1 || held.GetSyncs()[0].GetHeld() == "" || held.GetNext() != "hactl sync resume pages") {
			err = describe(held)
		}
		return err
	})
	eventually(t, "the log says so", func() error {
		if n := len(s.syncEvents(t, third, third, hadv1.SyncResult_OUTCOME_HELD)); n != 1 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	must(t, s.ask(t, first, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.SyncRun(ctx, &hadv1.SyncRunRequest{Name: "pages"})
		for _, r := range resp.GetRuns() {
			if r.GetResult() != nil || !strings.Contains(r.GetWhy(), "hactl sync resume pages") {
				t.Errorf("a run that is held was answered with %v", r)
			}
		}
		if err == nil && len(resp.GetRuns()) != 2 {
			t.Errorf("runs: %v", resp.GetRuns())
		}
		return err
	}))
	if text, err := os.ReadFile(filepath.Join(copies, first)); err != nil || string(text) != "hello from "+second+"\n" {
		t.Errorf("while it was held %s got %q (%v)", first, text, err)
	}

	must(t, s.ask(t, second, func(ctx context.Context, ha hadv1.HAClient) error {
		_, err := ha.SyncResume(ctx, &hadv1.SyncResumeRequest{Name: "pages", Epoch: held.GetSyncs()[0].GetEpoch(), By: "the test"})
		return err
	}))
	copied(third, first, second)
	must(t, s.ask(t, second, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err := ha.SyncRun(ctx, &hadv1.SyncRunRequest{Name: "pages", Node: first})
		if err == nil && (len(resp.GetRuns()) != 1 || resp.GetRuns()[0].GetResult().GetOutcome() != hadv1.SyncResult_OUTCOME_COPIED) {
			t.Errorf("a run that was asked for was answered with %v", resp)
		}
		return err
	}))
}

// syncEvents returns what the log has of a node's syncs from an owner.
func (s *site) syncEvents(t *testing.T, node, owner string, outcome hadv1.SyncResult_Outcome) (out []*hadv1.SyncResult) {
	t.Helper()
	events, err := s.history(t, s.Servers()[0].Name)
	must(t, err)
	for _, e := range events {
		if y := e.GetSync(); y.GetOwner() == owner && y.GetOutcome() == outcome && slices.Contains([]string{node, ""}, e.GetNode()) {
			out = append(out, y)
		}
	}
	return out
}
