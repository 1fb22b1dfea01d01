package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// said is a difference as a test writes it down.
func said(c Change) string {
	sign := map[ChangeKind]string{Added: "+", Removed: "-", Changed: "~", Moved: "^"}[c.Kind]
	return strings.TrimSpace(fmt.Sprintf("%s %s|%s|%s|%s", sign, c.Block, c.Attribute, c.Before, c.After))
}

func TestDiff(t *testing.T) {
	const base = `prefer = ["alpha", "beta"]
vip "web" { address = "192.0.2.10" }
vip "mail" { address = "192.0.2.11" }
fence {
  methods = ["agent", "confirm"]
  agent "alpha" {
    program = "fence_ipmilan"
    options = {
      ip = "10.0.9.11" # the board
      user = "had"
    }
  }
}
`
	for name, c := range map[string]struct {
		old, new string // that replace each other in base
		want     []string
	}{
		"nothing":          {"", "", nil},
		"layout":           {`["alpha", "beta"]`, "[ # mine first\n  \"alpha\",\n  \"beta\",\n]", nil},
		"an object's form": {"\"10.0.9.11\" # the board\n", "\"10.0.9.11\",\n", nil},
		"a value":          {"192.0.2.10", "192.0.2.12", []string{`~ vip "web"|address|"192.0.2.10"|"192.0.2.12"`}},
		"a list":           {`"alpha", "beta"`, `"beta"`, []string{`~ |prefer|["alpha", "beta"]|["beta"]`}},
		"a nested value":   {`"10.0.9.11"`, `"10.0.9.12"`, []string{`~ fence > agent "alpha"|options|{ ip = "10.0.9.11", user = "had" }|{ ip = "10.0.9.12", user = "had" }`}},
		"more": {`vip "mail" {`, "check \"link\" \"net\" { interface = \"eth0\" }\nvip \"mail\" {", []string{
			`+ check "link" "net"|||`, `+ check "link" "net"|interface||"eth0"`}},
		"less":              {`vip "mail" { address = "192.0.2.11" }`, "", []string{`- vip "mail"|||`, `- vip "mail"|address|"192.0.2.11"|`}},
		"an attribute less": {`prefer = ["alpha", "beta"]`, "", []string{`- |prefer|["alpha", "beta"]|`}},
		"the order": {"vip \"web\" { address = \"192.0.2.10\" }\nvip \"mail\" { address = \"192.0.2.11\" }",
			"vip \"mail\" { address = \"192.0.2.11\" }\nvip \"web\" { address = \"192.0.2.10\" }", []string{`^ vip||web, mail|mail, web`}},
		"a template": {`"fence_ipmilan"`, `"fence  ${x} (a, b)"`, []string{`~ fence > agent "alpha"|program|"fence_ipmilan"|"fence  ${x} (a, b)"`}},
	} {
		t.Run(name, func(t *testing.T) {
			other := strings.Replace(base, c.old, c.new, 1)
			if other == base && c.old != "" {
				t.Fatal("the case changes nothing")
			}
			var got []string
			for _, ch := range Diff(base, other) {
				got = append(got, said(ch))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
	if got := Diff("", `vip "web" { address = "192.0.2.10" }`); len(got) != 2 || got[0].Kind != Added {
		t.Errorf("the first policy: %v", got)
	}
}
