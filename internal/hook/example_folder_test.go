package hook

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The example in scripts/examples runs unchanged, stage by stage.
func TestMacStyleFolder(t *testing.T) {
	f := newFixture(t)
	src := filepath.Join("..", "..", "scripts", "examples", "hooks-macstyle", "192.0.2.10")
	entries, err := os.ReadDir(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(src, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f.file(e.Name(), string(b))
	}

	var ran []string
	r := f.runner(long)
	for _, step := range []Run{
		{Stage: Test, Event: Acquire},
		{Stage: PreAcq, Event: Acquire},
		{Stage: PostAcq, Event: Acquire, Env: Env{Node: "alpha", Interface: "eth0", Epoch: 7, Reason: "cold start"}},
		{Stage: PreRel, Event: Release},
		{Stage: PostRel, Event: Release, Env: Env{Forced: true}},
	} {
		step.VIP = testVIP()
		results, err := r.Stage(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range results {
			ran = append(ran, result.Script)
			if line := string(result.OutputTail); !result.OK() || !strings.HasPrefix(line, result.Script+":") {
				t.Errorf("%v printed %q", result, line)
			}
			if result.Script == "PostAcq20MailAdmin" && string(result.OutputTail) != "PostAcq20MailAdmin: alpha owns 192.0.2.10 in epoch 7, because: cold start\n" {
				t.Errorf("printed %q", result.OutputTail)
			}
		}
	}
	want := []string{"Test", "PreAcq10StopMirror", "PreAcq20CheckConfig", "PostAcq10StartWeb", "PostAcq20MailAdmin", "PreRel10StopWeb", "PostRel10StartMirror"}
	if !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}

	f.file("maintenance", "")
	results, err := r.Stage(t.Context(), Run{Stage: Test, Event: Acquire, VIP: testVIP()})
	if err != nil || len(results) != 1 || results[0].OK() {
		t.Errorf("Test under maintenance = %v, %v; want a veto", results, err)
	}
}
