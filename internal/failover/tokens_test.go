package failover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// notedTokens writes down what it is asked for.
type notedTokens struct {
	diary   *diary
	fail    error
	trouble []string
	leased  func() error // why the lease of what was placed has ended
}

func (n *notedTokens) Place(_, leased context.Context, _ uint64, p *policy.Policy) error {
	for _, t := range p.Tokens {
		n.diary.add("token %s", t.Name)
		n.leased = leased.Err
	}
	return n.fail
}

func (n *notedTokens) Flush(context.Context, uint64) error {
	if n.leased != nil {
		n.diary.add("flush")
	}
	return n.fail
}

func (n *notedTokens) Trouble(*policy.Policy) []string { return n.trouble }

func (n *notedTokens) Health(*policy.Policy) (*hadv1.TokenHealth, []string) {
	return &hadv1.TokenHealth{KeyId: "k1"}, []string{"a token's problem"}
}

const tokenBlock = "reconnect_token \"afp\" {\n location = \"/srv/AFP.conf\"\n}\n"

// runTokens is run with tokens.
func runTokens(t *testing.T, play func(r *rig, n *notedTokens)) {
	t.Helper()
	run(t, func(r *rig) {
		n := &notedTokens{diary: r.diary}
		r.controller.cfg.Tokens, r.controller.executor.tokens = n, n // nothing is owned yet
		play(r, n)
	})
}

// Tokens are in place before PreAcq, and what a service has changed last is taken
// once PreRel has stopped it, while this node can still put it into the log.
func TestTokensAreInPlaceBeforeServicesStart(t *testing.T) {
	runTokens(t, func(r *rig, n *notedTokens) {
		r.policy("", tokenBlock)
		time.Sleep(time.Second)
		r.expect(join(own[:2], []string{"token afp"}, own[2:])...)
		for _, s := range []hook.Stage{hook.Test, hook.PreAcq, hook.PostAcq} {
			if got := r.envs[s].Tokens["afp"]; got != "/srv/AFP.conf" {
				t.Errorf("%s was told %q", s, got)
			}
		}
		view, _ := r.log.View()
		if got := view.Newest().GetTokens(); len(got) != 1 || got[0].GetLocation() != "/srv/AFP.conf" {
			t.Errorf("the claim has %v", got)
		}
		if h := r.controller.Health(); h.GetTokens().GetKeyId() != "k1" || !strings.Contains(strings.Join(h.GetProblems(), " "), "a token's problem") {
			t.Errorf("health: %v", h)
		}
		r.term()
		time.Sleep(100 * time.Millisecond)
		r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "flush", "transfer to beta")
		if n.leased() != nil {
			t.Error("its service isn't heard any more, though nobody has taken over")
		}
		r.controller.HandOver(t.Context(), &hadv1.HandOverRequest{FromEpoch: 3})
		if n.leased() == nil {
			t.Error("its service is heard after another has taken over")
		}
		if got := r.envs[hook.PreRel].Tokens["afp"]; got != "/srv/AFP.conf" {
			t.Errorf("PreRel was told %q", got)
		}
	})
}

func TestATokenThatCantBePlacedIsAFailedTurn(t *testing.T) {
	runTokens(t, func(r *rig, n *notedTokens) {
		n.fail = errors.New("no space left on device")
		r.policy("", tokenBlock)
		time.Sleep(time.Second)
		if r.outcomes() != "FAILED" || r.kernel.holds() != 0 {
			t.Errorf("outcomes %q, %d addresses up", r.outcomes(), r.kernel.holds())
		}
	})
}

func TestWhoCantKeepATokenIsNotEligible(t *testing.T) {
	runTokens(t, func(r *rig, n *notedTokens) {
		n.trouble = []string{"this node has no token key"}
		r.policy("", tokenBlock)
		time.Sleep(time.Second)
		if h := r.controller.Health(); h.GetEligible() || r.kernel.holds() != 0 {
			t.Errorf("eligible %t, %d addresses up", h.GetEligible(), r.kernel.holds())
		}
	})
}
