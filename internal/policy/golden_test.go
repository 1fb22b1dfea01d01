package policy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"had/internal/policy"
)

var update = flag.Bool("update", false, "rewrite the want section of every testdata case")

// members is the cluster that the policies of testdata are written for.
var members = []policy.Member{
	{Name: "alpha", Address: "10.0.0.11:7400"},
	{Name: "beta", Address: "[2001:db8::12]:7400"},
	{Name: "gamma", Address: "10.0.0.13:7400", Witness: true},
}

// TestGolden reads every case of testdata: a file as somebody writes it, and
// the diagnostics and values that come of it.
func TestGolden(t *testing.T) {
	parsers := map[string]func(src []byte) (any, policy.Diagnostics){
		"had.hcl": func(src []byte) (any, policy.Diagnostics) {
			f, diags := policy.ParseNode("had.hcl", src, "alpha.example.org")
			return f, diags
		},
		"policy.hcl": func(src []byte) (any, policy.Diagnostics) {
			p, diags := policy.ParsePolicy("policy.hcl", src)
			if p != nil {
				diags = append(diags, p.CheckMembers(members)...)
			}
			return p, diags
		},
	}
	cases, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("find the cases: %d, %v", len(cases), err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(path, "testdata/"), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			input := archive.Files[0]
			got := outcome(t, input.Data, parsers[input.Name])
			if *update {
				archive.Files = []txtar.File{input, {Name: "want", Data: got}}
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// outcome renders what parse makes of src: the diagnostics, then the value
// unless the file was refused.
func outcome(t *testing.T, src []byte, parse func([]byte) (any, policy.Diagnostics)) []byte {
	t.Helper()
	value, diags := parse(src)
	var b bytes.Buffer
	b.WriteString(diags.String())
	if !diags.HasErrors() {
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(text, '\n'))
	}
	return b.Bytes()
}
