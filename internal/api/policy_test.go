package api

import (
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
)

// What the daemon can't carry out is refused before it is in the log.
func TestUnsupportedPolicyIsRefused(t *testing.T) {
	s := New(Config{Self: "alpha", Members: []*hadv1.Member{{Name: "alpha", Address: "10.0.0.11:7400"}}})
	for text, want := range map[string]string{
		"volume \"web\" {\n  device = \"LABEL=web\"\n  path = \"/srv/web\"\n}\nfence { methods = [\"confirm\"] }\n": `"volume"`,
		"release_grace = \"5s\"\n": `"release_grace"`,
	} {
		resp, err := s.PolicyValidate(t.Context(), &hadv1.PolicyValidateRequest{Text: text})
		if err != nil || resp.GetValid() {
			t.Fatalf("accepted, or %v:\n%s", err, text)
		}
		found := false
		for _, d := range resp.GetDiagnostics() {
			found = found || d.GetSeverity() == hadv1.Diagnostic_SEVERITY_ERROR && strings.Contains(d.GetSummary(), "does not support "+want)
		}
		if !found {
			t.Errorf("%s isn't named in %v", want, resp.GetDiagnostics())
		}
	}
}
