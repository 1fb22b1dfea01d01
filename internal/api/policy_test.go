package api

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// A node whose older had doesn't read a policy is named before it is applied, with
// what it says; one that doesn't answer keeps nobody from it.
func TestAnOlderHadThatDoesntReadAPolicy(t *testing.T) {
	const text = "vip \"web\" { address = \"192.0.2.10\" }\n"
	p, diags := policy.ParsePolicy("policy.hcl", []byte(text))
	if diags.HasErrors() {
		t.Fatal(diags.Err())
	}
	_, bad := policy.ParsePolicy("policy.hcl", []byte(text+"weather \"fine\" {}\n"))
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{status.Error(codes.Unavailable, "no"), ""},
		{errors.New("it isn't a member"), ""},
		{status.Error(codes.InvalidArgument, bad.Err().Error()), "the had on beta doesn't read this policy, so beta could own nothing: it says policy.hcl:2"},
	} {
		got := findings(p, "beta", func() (*hadv1.InterfacesResponse, error) { return nil, c.err })
		if got.HasErrors() || (c.want == "") != (len(got) == 0) || c.want != "" && !strings.HasPrefix(got[0].Summary, c.want) {
			t.Errorf("%v: %v, want %q", c.err, got, c.want)
		}
		for _, d := range got {
			t.Log(d.Rendered)
		}
	}
}
