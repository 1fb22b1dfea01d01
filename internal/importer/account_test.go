package importer_test

import (
	"fmt"
	"path"
	"strings"
	"testing"

	"had/internal/importer"
	"had/internal/policy"
)

// accounted are the lines that a result tells of, as "file:line".
func accounted(r *importer.Result) (carried, noted map[string]bool) {
	carried, noted = map[string]bool{}, map[string]bool{}
	for _, c := range r.Carried {
		carried[fmt.Sprintf("%s:%d", c.File, c.Line)] = true
	}
	for _, n := range r.Notes {
		if len(n.Lines) == 0 {
			noted[n.File+":0"] = true // the whole file
		}
		for _, line := range n.Lines {
			noted[fmt.Sprintf("%s:%d", n.File, line)] = true
		}
	}
	return carried, noted
}

// Every line of every file that was read is carried over or listed, and what
// the importer doesn't know is never among what keepalived documents.
func TestNoLineIsDropped(t *testing.T) {
	unread := map[string]bool{"keepalived/includes.txtar conf.d/run.sh": true} // keepalived doesn't read it either
	for _, dir := range []string{"keepalived", "ipfailover"} {
		for _, e := range loadExamples(t, dir) {
			r, err := e.run()
			if err != nil {
				t.Errorf("%s: %v", e.path, err)
				continue
			}
			carried, noted := accounted(r)
			for _, f := range e.archive.Files {
				if f.Name == "want" || unread[strings.TrimPrefix(e.path, "testdata/")+" "+f.Name] {
					continue
				}
				if whole := f.Name + ":0"; carried[whole] || noted[whole] || noted[path.Dir(f.Name)+":0"] && !carried[path.Dir(f.Name)+":0"] {
					continue
				}
				n := 0
				for line := range strings.Lines(string(f.Data)) {
					n++
					at := fmt.Sprintf("%s:%d", f.Name, n)
					if strings.TrimSpace(line) != "" && !carried[at] && !noted[at] {
						t.Errorf("%s: %s is neither carried over nor listed: %s", e.path, at, line)
					}
				}
			}
			for _, n := range r.Notes {
				if n.Why == "it was not understood" {
					t.Errorf("%s: %s was not understood", e.path, n.Place())
				}
			}
		}
	}
}

// A word too many anywhere is in what is written, is listed, or refused; it is
// enough that its line is listed as a whole.
func TestNoWordIsDropped(t *testing.T) {
	const extra = "xyzzy"
	for _, e := range loadExamples(t, "keepalived") {
		before, err := e.run()
		if err != nil {
			t.Fatal(err)
		}
		carried, _ := accounted(before)
		for _, f := range e.archive.Files {
			if f.Name == "want" || strings.HasSuffix(f.Name, ".sh") {
				continue
			}
			lines := strings.SplitAfter(string(f.Data), "\n")
			for i, line := range lines {
				at := fmt.Sprintf("%s:%d", f.Name, i+1)
				text := strings.TrimRight(line, " {}\\\r\n")
				if !carried[at] || strings.ContainsAny(line, "#!") || strings.TrimSpace(text) == "" {
					continue
				}
				changed := strings.Join(lines[:i], "") + text + " " + extra + line[len(text):] + strings.Join(lines[i+1:], "")
				e.files[f.Name] = newFile(f.Name, []byte(changed))
				after, err := e.run()
				if err == nil && !strings.Contains(after.Text(), extra) {
					t.Errorf("%s: %s with a word more: nothing tells of the word: %s", e.path, at, line)
				}
			}
			e.files[f.Name] = newFile(f.Name, f.Data)
		}
	}
}

// nodeText is the node file of a result and the first node that may own.
func nodeText(t *testing.T, r *importer.Result) (text []byte, node string) {
	t.Helper()
	text = r.Files[0].Data
	_, rest, _ := strings.Cut(string(text), `node "`)
	node, _, _ = strings.Cut(rest, `"`)
	return text, node
}

// What is written is accepted by had: the node file and the policy together.
func TestHadAcceptsWhatIsWritten(t *testing.T) {
	for _, dir := range []string{"keepalived", "ipfailover"} {
		for _, e := range loadExamples(t, dir) {
			r, err := e.run()
			if err != nil {
				t.Fatalf("%s: %v", e.path, err)
			}
			text, node := nodeText(t, r)
			f, diags := policy.ParseNode("had.hcl", text, node)
			if diags.HasErrors() {
				t.Errorf("%s: had.hcl is refused:\n%s", e.path, diags)
				continue
			}
			p, diags := policy.ParsePolicy("policy.hcl", r.Files[1].Data)
			if p != nil {
				diags = append(diags, p.CheckMembers(f.Members)...)
			}
			if diags.HasErrors() {
				t.Errorf("%s: policy.hcl is refused:\n%s", e.path, diags)
			}
		}
	}
}

// The password of VRRP is a secret: it is nowhere.
func TestPasswordsAreNotShown(t *testing.T) {
	for _, e := range loadExamples(t, "keepalived") {
		r, err := e.run()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.Text(), "s3cr3t") {
			t.Errorf("%s: the password is shown", e.path)
		}
	}
}
