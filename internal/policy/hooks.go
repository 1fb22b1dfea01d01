package policy

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

const (
	defaultHooksDir     = "/etc/had/hooks"
	defaultHooksTimeout = 30 * time.Second
)

// Hooks says where the hook scripts are and how they run.
type Hooks struct {
	Dir       string        // absolute; holds a folder for each address
	Timeout   time.Duration // for each script
	OnFailure map[string]FailureAction
}

// FailureAction is what the owner does when a script of a stage fails.
type FailureAction string

const (
	Continue FailureAction = "continue"  // own anyway; the failure is in the history
	HandOver FailureAction = "hand_over" // undo what was done and let another node own
)

// Stages with a failure action, keys of Hooks.OnFailure. Both are always set.
const (
	PreAcq  = "PreAcq"  // before the addresses are up
	PostAcq = "PostAcq" // after it
)

type rawHooks struct {
	dir     text
	timeout time.Duration
	stages  []rawAssignment // stage to on_failure
}

func (s *source) rawHooks(body *hclsyntax.Body) rawHooks {
	raw := rawHooks{
		dir: s.optional(body, "dir", quote(defaultHooksDir)),
		timeout: s.duration(body, "timeout", defaultHooksTimeout, span{
			min: time.Millisecond, low: "every script would be killed at once; 30s is the default",
			max: time.Hour, high: "a script that hangs would hold up a failover for as long",
		}),
	}
	for _, b := range body.Blocks {
		raw.stages = append(raw.stages, rawAssignment{label(b), s.required(b, "on_failure", `"continue"`)})
	}
	return raw
}

func (s *source) validHooks(raw rawHooks) Hooks {
	h := Hooks{
		Dir:       s.path(raw.dir, "dir", defaultHooksDir),
		Timeout:   raw.timeout,
		OnFailure: map[string]FailureAction{PreAcq: HandOver, PostAcq: Continue},
	}
	seen := map[string]text{}
	for _, r := range raw.stages {
		if first, twice := seen[r.key.value]; twice {
			s.errorf(r.key.at, fmt.Sprintf("the first is on line %d", first.at.Start.Line), "there are two blocks for stage %s", quote(r.key.value))
			continue
		}
		seen[r.key.value] = r.key
		if s.checkStage(r.key) && r.value.ok {
			h.OnFailure[r.key.value] = s.failureAction(r.value)
		}
	}
	return h
}

// checkStage refuses a stage that doesn't exist or has no failure action.
func (s *source) checkStage(t text) bool {
	switch t.value {
	case PreAcq, PostAcq:
		return true
	case "Test":
		s.errorf(t.at, "a failing Test always makes its node ineligible: leave the block out", "stage %s has no on_failure", quote(t.value))
	case "PreRel", "PostRel":
		s.errorf(t.at, "a script that fails never stops a release: leave the block out", "stage %s has no on_failure", quote(t.value))
	default:
		s.errorf(t.at, suggest(t.value, []string{PreAcq, PostAcq}), "unknown stage %s", quote(t.value))
	}
	return false
}

func (s *source) failureAction(t text) FailureAction {
	a := FailureAction(t.value)
	if a != Continue && a != HandOver {
		s.errorf(t.at, suggest(t.value, []string{string(Continue), string(HandOver)}), "unknown on_failure %s", quote(t.value))
	}
	return a
}
