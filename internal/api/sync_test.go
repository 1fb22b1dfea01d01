package api

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

// heldView is a cluster in which beta has taken over from alpha.
func heldView() cluster.View {
	const text = "vip \"web\" { address = \"192.0.2.10\" }\nsync \"mail\" {\n  command = [\"rsync\"]\n  every = \"1h\"\n}\nsync \"pages\" {\n  command = [\"rsync\"]\n  every = \"1h\"\n}\n"
	return cluster.View{
		Policy: &hadv1.Policy{Version: 1, Text: text}, LastEpoch: 9, LastOwner: "beta",
		Syncs: &hadv1.SyncState{Since: 9, Previous: 4, PreviousOwner: "alpha", Copies: []*hadv1.SyncCopy{{Name: "mail", Node: "beta", Epoch: 4}}},
	}
}

func TestAHeldSyncIsAWarningWithItsCommand(t *testing.T) {
	r := &hadv1.StatusResponse{Syncs: syncs(heldView(), new(parsedPolicy).of(heldView())), Ownership: &hadv1.Ownership{State: hadv1.Ownership_STATE_OWNED}}
	if len(r.GetSyncs()) != 2 || r.GetSyncs()[0].GetHeld() != "" {
		t.Fatalf("syncs: %v", r.GetSyncs())
	}
	y := r.GetSyncs()[1]
	if y.GetName() != "pages" || y.GetEpoch() != 9 || y.GetOwner() != "beta" || y.GetPreviousOwner() != "alpha" {
		t.Errorf("pages: %v", y)
	}
	if w := heldSyncs(r); len(w) != 1 || !strings.HasPrefix(w[0], "sync pages is held: beta took over from alpha") {
		t.Errorf("warnings: %q", w)
	}
	if next := nextResume(r); next != "hactl sync resume pages" {
		t.Errorf("next: %q", next)
	}
	r.Ownership.State = hadv1.Ownership_STATE_WAITING // then something else is more urgent
	if next := nextResume(r); next != "" {
		t.Errorf("next: %q", next)
	}
}

func TestSyncsAreAskedOfThoseThatDoNotOwn(t *testing.T) {
	s := &Server{cfg: Config{Self: "alpha", Members: func() []*hadv1.Member {
		return []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}, {Name: "gamma", Witness: true}, {Name: "delta"}}
	}}}
	for node, want := range map[string]string{"": "[alpha delta]", "alpha": "[alpha]", "beta": "[beta]", "epsilon": `"epsilon" is not a node`} {
		names, err := s.copiers(heldView(), node)
		got := fmt.Sprint(names)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", node, got, want)
		}
	}
	if err := s.knownSync(heldView(), "mail"); err != nil {
		t.Error(err)
	}
	if err := statusOf(s.knownSync(heldView(), "pgaes")); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}
