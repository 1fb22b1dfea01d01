package main

import (
	"regexp"
	"testing"

	"had/internal/policy"
)

// The starter is a policy, and so it is with all of its examples.
func TestTheStarterIsAPolicy(t *testing.T) {
	all := regexp.MustCompile(`(?m)^( *)#([^ \n])`).ReplaceAllString(regexp.MustCompile(`(?m)^#(  )`).ReplaceAllString(starter, "$1"), "$1$2")
	for name, text := range map[string]string{"as it is": starter, "with its examples": all} {
		p, diags := policy.ParsePolicy("policy.hcl", []byte(text))
		if err := diags.Err(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		if p != nil && name != "as it is" && (len(p.Volumes) != 1 || len(p.Checks) != 1 || len(p.Channels) != 1 || p.VIPs[0].Interface == "" || len(p.Prefer) == 0) {
			t.Errorf("an example is missing in %+v", p)
		}
	}
}
