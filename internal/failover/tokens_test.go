package failover

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// notedTokens writes down what it is asked for.
type notedTokens struct {
	diary   *diary
	fail    error
	trouble []string
	leased  func() error // why the lease of what was placed has ended
	stuck   atomic.Pointer[string]
	mended  chan struct{} // whatever is stuck returns
}

// hang returns at the end of the test if what is named is stuck.
func (n *notedTokens) hang(what string) {
	if s := n.stuck.Load(); s != nil && *s == what {
		<-n.mended
	}
}

func (n *notedTokens) Place(_, leased context.Context, _ uint64, p *policy.Policy) error {
	n.hang("place")
	for _, t := range p.Tokens {
		n.diary.add("token %s", t.Name)
		n.leased = leased.Err
	}
	return n.fail
}

func (n *notedTokens) Flush(context.Context, uint64) error {
	n.hang("flush")
	if n.leased != nil {
		n.diary.add("flush")
	}
	return n.fail
}

func (n *notedTokens) Trouble(*policy.Policy) []string {
	n.hang("trouble")
	return n.trouble
}

func (n *notedTokens) Health(*policy.Policy) (*hadv1.TokenHealth, []string) {
	return &hadv1.TokenHealth{KeyId: "k1"}, []string{"a token's problem"}
}

const tokenBlock = "reconnect_token \"afp\" {\n location = \"/srv/AFP.conf\"\n}\n"

// runTokens is run with tokens.
func runTokens(t *testing.T, play func(r *rig, n *notedTokens)) {
	t.Helper()
	run(t, func(r *rig) {
		n := &notedTokens{diary: r.diary, mended: make(chan struct{})}
		defer close(n.mended)
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

// The lease is renewed whatever the disk of a token does: an owner that waited for
// it would keep every other node from owning.
func TestATokensDiskThatHangsHoldsNothingUp(t *testing.T) {
	for what, play := range map[string]func(r *rig){
		"place": func(r *rig) {
			r.policy("", tokenBlock)
			time.Sleep(tokenLimit + time.Second)
			if got := r.took(); r.outcomes() != "FAILED" || !strings.Contains(got, "transfer to beta") {
				r.t.Errorf("outcomes %q, %s", r.outcomes(), got)
			}
		},
		"flush": func(r *rig) {
			r.policy("", tokenBlock)
			time.Sleep(time.Second)
			r.took()
			r.term()
			time.Sleep(tokenFlush + 100*time.Millisecond)
			r.expect("PreRel 192.0.2.11", "PreRel 192.0.2.10", "transfer to beta")
		},
		"trouble": func(r *rig) {
			r.policy("", tokenBlock)
			time.Sleep(2*tokenLook + time.Second)
			r.expect("transfer to beta")
			if h := r.controller.Health(); h.GetEligible() || !strings.Contains(h.GetReasons()[0], "hangs") {
				r.t.Errorf("eligible %t, reasons %q", h.GetEligible(), h.GetReasons())
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			runTokens(t, func(r *rig, n *notedTokens) {
				n.stuck.Store(&what)
				play(r)
			})
		})
	}
}

// An owner without volumes hands over by a policy that has come with some: a token
// on one of them waits for it.
func TestATokenIsNotPutBelowAVolumesMount(t *testing.T) {
	runTokens(t, func(r *rig, _ *notedTokens) {
		turn := &turn{policy: &policy.Policy{Tokens: []policy.Token{{Name: "afp"}}}, volumes: []storage.Volume{{Name: "data"}}}
		before := func(context.Context, uint64) error { r.diary.add("before"); return nil }
		if err := r.controller.executor.equip(t.Context(), 3, turn, before); err == nil {
			t.Error("it mounted for an epoch that it doesn't hold")
		}
		r.expect("before")
	})
}
