package policy_test

import (
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"had/internal/policy"
)

const threeNodes = `cluster "office" {
  node "alpha" { address = "10.0.0.11:7400" }
  node "beta" { address = "10.0.0.12:7400" }
  node "gamma" {
    address = "10.0.0.13:7400"
    role    = "witness"
  }
}
`

// both runs a test on the readers of both files.
func both(t *testing.T, test func(t *testing.T, parse func(src []byte) (accepted bool, d policy.Diagnostics))) {
	t.Run("node", func(t *testing.T) {
		test(t, func(src []byte) (bool, policy.Diagnostics) {
			f, diags := policy.ParseNode("had.hcl", src, "alpha")
			return f != nil, diags
		})
	})
	t.Run("policy", func(t *testing.T) {
		test(t, func(src []byte) (bool, policy.Diagnostics) {
			p, diags := policy.ParsePolicy("policy.hcl", src)
			return p != nil, diags
		})
	})
}

func TestRefusesWhatIsNoText(t *testing.T) {
	cases := []struct {
		name, src    string
		want         string
		line, column int
	}{
		{"empty", "", "the file is empty", 1, 1},
		{"only blanks", " \n\t\r\n", "the file is empty", 1, 1},
		{"only a byte order mark", "\ufeff", "the file is empty", 1, 1},
		{"a NUL", "# é\n# x\x00", "NUL", 2, 4},
		{"Latin-1", "# ok\n# caf\xe9\n", "isn't valid UTF-8", 2, 6},
		{"huge", strings.Repeat("# comment\n", 1<<17), "1310720 bytes", 1, 1},
		{"long line", "# ok\n# " + strings.Repeat("x", 1<<11), "longer than 2048", 2, 1},
		{"several lines", "x = <<END\n10.0.0.1\nEND\n", "several lines", 1, 5},
		{"many brackets", "a = " + strings.Repeat("(", 1<<10), "nested", 1, 69},
		{"many lines of brackets", "a = " + strings.Repeat("(\n", 1<<14), "nested", 65, 1},
		{"many blocks", strings.Repeat("a {\n", 1<<14), "nested", 65, 3},
		{"many operators", "a = " + strings.Repeat("!", 1<<10), "nested", 1, 69},
		{"many conditions", "a = " + strings.Repeat("a?", 1<<9), "nested", 1, 134},
		{"many templates", `a = "` + strings.Repeat("%{if a}", 1<<7) + `"`, "nested", 1, 454},
	}
	both(t, func(t *testing.T, parse func([]byte) (bool, policy.Diagnostics)) {
		for _, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				accepted, diags := parse([]byte(tc.src))
				if accepted || len(diags) != 1 {
					t.Fatalf("accepted: %t, %d diagnostics:\n%s", accepted, len(diags), diags)
				}
				d := diags[0]
				if !strings.Contains(d.Summary, tc.want) || d.Line != tc.line || d.Column != tc.column {
					t.Errorf("got %q at %d:%d, want %q at %d:%d", d.Summary, d.Line, d.Column, tc.want, tc.line, tc.column)
				}
				checkRendering(t, diags)
			})
		}
	})
}

func TestByteOrderMarkIsIgnored(t *testing.T) {
	if _, diags := policy.ParseNode("had.hcl", []byte("\ufeff"+threeNodes), "alpha"); len(diags) != 0 {
		t.Errorf("refused:\n%s", diags)
	}
}

func TestHostNameFindsItsNode(t *testing.T) {
	for host, want := range map[string]string{
		"alpha": "alpha", "beta.example.org": "beta", "GAMMA": "gamma", "Alpha.Example.Org": "alpha",
		"delta": "", "": "", "alph": "", "example.alpha": "",
	} {
		f, diags := policy.ParseNode("had.hcl", []byte(threeNodes), host)
		if want == "" {
			if f != nil {
				t.Errorf("host %q became node %q", host, f.Node)
			}
			continue
		}
		if f == nil || f.Node != want || f.Self().Name != want {
			t.Errorf("host %q: want node %q, got %+v\n%s", host, want, f, diags)
		}
	}
}

func TestWrittenNodeWinsOverHostName(t *testing.T) {
	f, diags := policy.ParseNode("had.hcl", []byte(threeNodes+"node = \"gamma\"\n"), "alpha")
	if f == nil || !f.Self().Witness || f.Self().Address != "10.0.0.13:7400" {
		t.Fatalf("got %+v\n%s", f, diags)
	}
}

// TLS is on unless it is off in writing or no packet leaves the host: nothing
// else may turn it off.
func TestTLSIsOnByDefault(t *testing.T) {
	loopback := strings.NewReplacer("10.0.0.11", "127.0.0.1", "10.0.0.12", "127.0.0.2", "10.0.0.13", "[::1]").Replace(threeNodes)
	for _, tc := range []struct {
		name, src string
		want      bool
	}{
		{"default", threeNodes, true},
		{"written", threeNodes + "tls {}", true},
		{"insecure", threeNodes + "tls { insecure = true }", false},
		{"not insecure", threeNodes + "tls { insecure = false }", true},
		{"loopback", loopback, false},
		{"loopback, written", loopback + "tls {}", true},
		{"host name", strings.ReplaceAll(threeNodes, "10.0.0.11", "localhost"), true},
	} {
		f, diags := policy.ParseNode("had.hcl", []byte(tc.src), "alpha")
		if f == nil {
			t.Errorf("%s: refused\n%s", tc.name, diags)
			continue
		}
		if f.TLS.Enabled() != tc.want {
			t.Errorf("%s: enabled is %t", tc.name, f.TLS.Enabled())
		}
	}
}

func TestInterfaceOn(t *testing.T) {
	p, diags := policy.ParsePolicy("policy.hcl", []byte(`
vip "derived" { address = "192.0.2.1" }
vip "same" {
  address   = "192.0.2.2"
  interface = "eth0"
}
vip "map" {
  address   = "192.0.2.3"
  interface = { alpha = "eth1" }
}`))
	if p == nil {
		t.Fatal(diags)
	}
	for i, want := range []map[string]string{
		{"alpha": "", "beta": ""},
		{"alpha": "eth0", "beta": "eth0"},
		{"alpha": "eth1", "beta": ""},
	} {
		for node, name := range want {
			if got := p.VIPs[i].InterfaceOn(node); got != name {
				t.Errorf("%s on %s: got %q, want %q", p.VIPs[i].Name, node, got, name)
			}
		}
	}
}

// CheckMembers is asked again whenever membership changes, by whoever holds
// the policy: an answer depends on nothing but its argument.
func TestCheckMembersKeepsNothing(t *testing.T) {
	p, diags := policy.ParsePolicy("policy.hcl", []byte("prefer = [\"beta\"]\nvip \"web\" { address = \"192.0.2.10\" }\n"))
	if p == nil {
		t.Fatal(diags)
	}
	alone := []policy.Member{{Name: "alpha", Address: "10.0.0.11:7400"}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if d := p.CheckMembers(alone); len(d) != 1 || !d.HasErrors() {
				t.Errorf("without beta: %v", d)
			}
			if d := p.CheckMembers(members); len(d) != 0 {
				t.Errorf("with beta: %v", d)
			}
		})
	}
	wg.Wait()
}

func TestErr(t *testing.T) {
	if _, diags := policy.ParsePolicy("policy.hcl", []byte("# nothing\n")); len(diags.Warnings()) != 1 || diags.Err() != nil {
		t.Errorf("a warning alone: %v, %v", diags.Warnings(), diags.Err())
	}
	_, diags := policy.ParsePolicy("policy.hcl", []byte("hooks { dir = \"x\" }\nprefer = 1\n"))
	err := diags.Err()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"policy.hcl:1:15: error", "policy.hcl:2:10: error"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "warning") || strings.HasSuffix(err.Error(), "\n") {
		t.Errorf("not an error's text:\n%v", err)
	}
}

// What a file holds must not move the cursor of who reads about it.
func TestRenderedHoldsNoControlCharacters(t *testing.T) {
	both(t, func(t *testing.T, parse func([]byte) (bool, policy.Diagnostics)) {
		_, diags := parse([]byte("vipp \"\x1b[2J\u202e\" {}\nx = \"\x07\x7f\u009b\"\r\n"))
		checkRendering(t, diags)
	})
}

// checkRendering checks what holds for the diagnostics of any file.
func checkRendering(t *testing.T, diags policy.Diagnostics) {
	t.Helper()
	for i, d := range diags {
		if d.Line < 1 || d.Column < 1 || d.File == "" || d.Summary == "" {
			t.Errorf("no place or nothing to say: %+v", d)
		}
		if i > 0 && (d.Line < diags[i-1].Line || d.Line == diags[i-1].Line && d.Column < diags[i-1].Column) {
			t.Errorf("out of order: %d:%d after %d:%d", d.Line, d.Column, diags[i-1].Line, diags[i-1].Column)
		}
		if !utf8.ValidString(d.Rendered) || !strings.HasSuffix(d.Rendered, "\n") {
			t.Errorf("not a text of whole lines: %q", d.Rendered)
		}
		if bad := strings.IndexFunc(d.Rendered, func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }); bad >= 0 {
			t.Errorf("not printable at %d: %q", bad, d.Rendered)
		}
	}
}
