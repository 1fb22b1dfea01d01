package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/cluster"
	hadv1 "had/proto/had/v1"
)

func TestWhatDiffersBetweenNodes(t *testing.T) {
	found := func(digest string, policy uint64) *hadv1.InspectResponse {
		return &hadv1.InspectResponse{PolicyVersion: policy, Version: "1", Folders: []*hadv1.HookFolder{{Digest: digest}}}
	}
	levels := func(looks ...look) string {
		var all []string
		for _, f := range compare(looks) {
			all = append(all, f.GetCheck()+" "+f.GetLevel().String()+" "+f.GetDetail())
		}
		return strings.Join(all, "\n")
	}
	got := levels(look{node: "alpha", found: found("a", 3)}, look{node: "beta", found: found("a", 3)}, look{node: "gamma", err: errors.New("away")})
	want := "hooks LEVEL_OK the hook folders are the same on alpha, beta\n" +
		"policy LEVEL_OK the policy's version is the same on alpha, beta\n" +
		"version LEVEL_OK the version of had is the same on alpha, beta"
	if got != want {
		t.Errorf("of nodes that are the same:\n%s", got)
	}
	got = levels(look{node: "alpha", found: found("a", 3)}, look{node: "beta", found: found("b", 2)}, look{node: "gamma", found: found("a", 3)})
	for _, want := range []string{
		"hooks LEVEL_FAIL the hook folders are not the same on alpha and gamma, on beta",
		"policy LEVEL_WARN the policy's version is not the same on alpha and gamma, on beta",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q isn't in:\n%s", want, got)
		}
	}
	if got := levels(look{node: "alpha", found: found("a", 3)}); got != "" {
		t.Errorf("one node was compared with itself: %s", got)
	}
}

func TestErrorsWithoutTheWordsOfGRPC(t *testing.T) {
	for text, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: connect to beta: connection refused"`: "connect to beta: connection refused",
		"unknown method Inspect": "unknown method Inspect",
	} {
		if got := plainly(status.Error(codes.Unavailable, text)); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// A node that no cluster has, and a stage that isn't a Test, are refused before
// anything is asked or run.
func TestDiagnosisRefusesWhatMakesNoSense(t *testing.T) {
	s := New(Config{Cluster: "office", Members: func() []*hadv1.Member { return []*hadv1.Member{{Name: "alpha"}, {Name: "beta"}} }})
	_, err := s.WhyNot(t.Context(), &hadv1.WhyNotRequest{Node: "delta"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"delta" is not a node of office: alpha, beta are`) {
		t.Errorf("why-not: %v", err)
	}
	if _, err = s.Preflight(t.Context(), &hadv1.PreflightRequest{Node: "delta"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("preflight: %v", err)
	}
	for _, stage := range []string{"", "PreAcq", "PostAcq", "PreRel", "PostRel", "test"} {
		if _, err = s.HookRun(t.Context(), &hadv1.HookRunRequest{Stage: stage}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("stage %q: %v", stage, err)
		}
	}
	if _, err = s.LogLevel(t.Context(), &hadv1.LogLevelRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the level of a log that can't be changed: %v", err)
	}
}

// What keeps everybody from moving is told once, not of each node.
func TestPreflightTellsOfAStandstill(t *testing.T) {
	v := cluster.View{
		Frozen: &hadv1.Frozen{Freeze: &hadv1.Freeze{By: "ann", Until: timestamppb.New(time.Unix(0, 0))}},
		Held:   &hadv1.Held{Hold: &hadv1.Hold{Reason: "the limit is reached"}},
	}
	var got []string
	for _, f := range standstill(v) {
		got = append(got, fmt.Sprint(f.GetCheck(), " ", f.GetLevel(), " ", f.GetDetail(), " -> ", f.GetAdvice()))
	}
	want := "freeze LEVEL_FAIL frozen by ann until 1970-01-01 00:00:00 UTC: nobody takes over by itself before that -> hactl unfreeze\n" +
		"limits LEVEL_WARN checks and scripts change the owner no more: the limit is reached -> mend what fails, then: hactl resume"
	if got := strings.Join(got, "\n"); got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
	if got := standstill(cluster.View{}); got != nil {
		t.Errorf("of a cluster that may move: %v", got)
	}
}
