package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"had/internal/notify"
	hadv1 "had/proto/had/v1"
)

func TestTroublesOfANode(t *testing.T) {
	syncs := []*hadv1.SyncStatus{
		{Name: "once", State: hadv1.SyncStatus_STATE_FAILING, Failures: 1, Why: "it exited with 23"},
		{Name: "often", State: hadv1.SyncStatus_STATE_RUNNING, Failures: 3, Why: "it exited with 23"},
		{Name: "held", State: hadv1.SyncStatus_STATE_HELD, Failures: 9},
		{Name: "owner", State: hadv1.SyncStatus_STATE_OWNER, Failures: 9},
	}
	tokens := &hadv1.TokenHealth{Places: []*hadv1.TokenPlace{{Name: "well"}, {Name: "tls", Wrong: "there is no key"}}}
	want := []notify.Trouble{
		{Kind: hadv1.Notice_KIND_SYNC_FAILS, Name: "often", Detail: "it exited with 23"},
		{Kind: hadv1.Notice_KIND_TOKEN_AMISS, Name: "tls", Detail: "there is no key"},
	}
	if diff := cmp.Diff(want, troublesOf(syncs, tokens)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := troublesOf(nil, nil); got != nil {
		t.Errorf("of a witness: %v", got)
	}
}
