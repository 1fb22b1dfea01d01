package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// tracedMirror writes down when it is told to cease, and how far the log was.
type tracedMirror struct {
	diary  *diary
	log    Log
	fail   error
	barred int
}

func (m *tracedMirror) Cease(context.Context) (func(), error) {
	view, _ := m.log.View()
	m.diary.add("cease after epoch %d", view.LastEpoch)
	if m.fail != nil {
		return nil, m.fail
	}
	m.barred++
	return func() { m.barred--; m.diary.add("resume") }, nil
}

func (m *tracedMirror) Trouble(*policy.Policy, cluster.View) []string           { return nil }
func (m *tracedMirror) Status(*policy.Policy) []*hadv1.SyncStatus               { return nil }
func (m *tracedMirror) Problems() []string                                      { return nil }
func (m *tracedMirror) Sync(context.Context, string) (*hadv1.SyncResult, error) { return nil, nil }

// A copy that goes on would overwrite what the services are about to change, so
// it has ended before the epoch is opened, and the epoch keeps the next away.
func TestSyncsEndBeforeTheEpochBegins(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	m := &tracedMirror{diary: b.diary, log: b.log}
	b.x.mirror = m
	b.acquire(t, "192.0.2.1")
	got := b.diary.all()
	ceased, resumed, up := slices.Index(got, "cease after epoch 0"), slices.Index(got, "resume"), slices.Index(got, "PreAcq 192.0.2.1")
	if ceased < 0 || up < ceased || resumed < up || m.barred != 0 {
		t.Errorf("the turn was %q", got)
	}
	if b.x.held().Epoch == 0 {
		t.Error("nothing keeps a sync from beginning")
	}
}

func TestASyncThatCannotBeEndedKeepsTheTurnFromBeginning(t *testing.T) {
	b := newBench(t.Context(), hclog.NewNullLogger())
	b.x.mirror = &tracedMirror{diary: b.diary, log: b.log, fail: errors.New("sync pages can't be ended, and may still write")}
	err := b.x.acquire(t.Context(), b.inputs("192.0.2.1"), Step{Kind: StepAcquire})
	if err == nil || !strings.Contains(err.Error(), "can't be ended") {
		t.Errorf("the turn went on: %v", err)
	}
	v, _ := b.log.View()
	if v.LastEpoch != 0 || b.kernel.holds() != 0 || b.x.held().Epoch != 0 {
		t.Errorf("epoch %d was opened", v.LastEpoch)
	}
	if got := b.diary.all(); !slices.Contains(got, "report OUTCOME_VETOED") || slices.Contains(got, "PreAcq 192.0.2.1") {
		t.Errorf("the turn was %q", got)
	}
}
