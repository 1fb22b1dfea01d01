package cluster

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// tokenCmd sets a token as an operator does.
func tokenCmd(name string, expected uint64, keep uint32) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: &hadv1.TokenSet{
		Name: name, ExpectedVersion: expected, Sealed: []byte{1, 2, byte(expected)}, KeyId: "k1", Size: 80, Keep: keep, By: "root on alpha", Reason: "first",
	}}}
}

// serviceCmd sets a token as the service of an epoch's owner does.
func serviceCmd(name string, expected uint64, in *hadv1.Instance, epoch uint64) *hadv1.Command {
	c := tokenCmd(name, expected, 0)
	r := c.GetTokenSet()
	r.Epoch, r.Instance, r.By = epoch, in, "the service on "+in.GetNode()
	return c
}

func forgetCmd(name string, expected uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_TokenForget{TokenForget: &hadv1.TokenForget{Name: name, ExpectedVersion: expected}}}
}

func TestTokenVersionsAreCountedAndNoneIsSkipped(t *testing.T) {
	l := bornLog(t)
	l.must(1, tokenCmd("tickets", 0, 1))
	for _, wrong := range []uint64{0, 2, 7} {
		if why := l.refused(1, tokenCmd("tickets", wrong, 1)); !strings.Contains(why, "at version 1, not") {
			t.Errorf("after version %d: %s", wrong, why)
		}
	}
	l.must(1, tokenCmd("tickets", 1, 1))
	l.must(1, tokenCmd("afp", 0, 0))
	l.must(1, tokenCmd("tickets", 2, 1))
	tok := l.state.View().Token("tickets")
	if tok.GetCurrent().GetVersion() != 3 || len(tok.GetEarlier()) != 1 || tok.GetEarlier()[0].GetVersion() != 2 {
		t.Errorf("kept are %v", tok)
	}
	l.must(1, tokenCmd("tickets", 3, 0))
	if tok := l.state.View().Token("tickets"); len(tok.GetEarlier()) != 0 {
		t.Errorf("nothing is to be kept: %v", tok)
	}
}

// A change of a former owner is never accepted, whatever way its epoch ended.
func TestOnlyTheNewestOwnersServiceChangesATokenFile(t *testing.T) {
	alpha, beta := instance("alpha", 1), instance("beta", 1)
	l := bornLog(t)
	l.refused(1, serviceCmd("tickets", 0, alpha, 9))
	first := l.must(1, acquireCmd(alpha, 1))
	l.must(1, serviceCmd("tickets", 0, alpha, first))
	l.refused(1, serviceCmd("tickets", 1, instance("alpha", 2), first)) // another run
	l.refused(1, serviceCmd("tickets", 1, beta, first))

	// Handed over, but not let go of yet.
	l.must(1, moveCmd("op", first, "beta"))
	handed := acquireCmd(beta, 2, &hadv1.Evidence{Epoch: first, Kind: hadv1.Evidence_KIND_HANDED_OVER})
	handed.GetAcquire().MoveOperation = "op"
	second := l.must(2, handed)
	if why := l.refused(2, serviceCmd("tickets", 1, alpha, first)); !strings.Contains(why, "has a successor") {
		t.Error(why)
	}
	l.must(2, serviceCmd("tickets", 1, beta, second))
	l.must(2, deliverCmd(released("alpha", 1, first)))
	if why := l.refused(2, serviceCmd("tickets", 2, alpha, first)); !strings.Contains(why, "is closed") {
		t.Error(why)
	}
	l.must(2, tokenCmd("tickets", 2, 0)) // an operator may at any time
}

func TestTokensAreBounded(t *testing.T) {
	l := bornLog(t)
	for _, damage := range []func(*hadv1.TokenSet){
		func(r *hadv1.TokenSet) { r.Name = "" },
		func(r *hadv1.TokenSet) { r.Name = strings.Repeat("x", maxTokenName+1) },
		func(r *hadv1.TokenSet) { r.Sealed = nil },
		func(r *hadv1.TokenSet) { r.Sealed = make([]byte, maxTokenBytes+1) },
		func(r *hadv1.TokenSet) { r.Size = maxTokenSize + 1 },
		func(r *hadv1.TokenSet) { r.KeyId = "" },
		func(r *hadv1.TokenSet) { r.Keep = maxTokensKept + 1 },
		func(r *hadv1.TokenSet) { r.Instance = instance("alpha", 1) }, // a service without an epoch
	} {
		cmd := tokenCmd("tickets", 0, 0)
		damage(cmd.GetTokenSet())
		l.refused(1, cmd)
	}
	for i := range maxTokens {
		l.must(1, tokenCmd(fmt.Sprintf("t%d", i), 0, 0))
	}
	l.refused(1, tokenCmd("another", 0, 0))
	l.refused(1, forgetCmd("another", 0))
	l.refused(1, forgetCmd("t0", 2))
	l.must(1, forgetCmd("t0", 1))
	l.must(1, tokenCmd("another", 0, 0))
}

// Nothing of a content, sealed or not, is in the history, and a View shares what
// it shows.
func TestTokensInTheHistory(t *testing.T) {
	l := bornLog(t)
	cmd := tokenCmd("tickets", 0, 1)
	cmd.GetTokenSet().Sealed = []byte("SEALED CONTENT")
	l.must(1, cmd)
	before := l.state.View()
	kept := proto.CloneOf(before.Token("tickets"))
	l.must(1, tokenCmd("tickets", 1, 1))
	l.must(1, forgetCmd("tickets", 2))
	if !proto.Equal(before.Token("tickets"), kept) {
		t.Error("a View's token was changed in place")
	}
	events, _ := l.state.History(0)
	changes := 0
	for _, e := range events {
		data, err := proto.Marshal(e)
		if err != nil || strings.Contains(string(data), "SEALED") {
			t.Errorf("%v (%v)", e, err)
		}
		if e.GetTokenChanged() != nil {
			changes++
		}
	}
	if changes != 3 {
		t.Errorf("%d changes are in the history", changes)
	}
}

// What an epoch uses is in its claim, and a policy that changes it meanwhile
// changes that.
func TestClaimsNameTheirTokens(t *testing.T) {
	l := bornLog(t)
	cmd := acquireCmd(instance("alpha", 1), 1)
	cmd.GetAcquire().Tokens = []*hadv1.HeldToken{{Name: "afp", Location: "/srv/token/AFP.conf"}}
	epoch := l.must(1, cmd)
	if got := l.state.View().Claim(epoch).GetTokens(); len(got) != 1 || got[0].GetLocation() != "/srv/token/AFP.conf" {
		t.Errorf("the claim has %v", got)
	}
	p := progress("alpha", 1, epoch, hadv1.Progress_OUTCOME_SERVING)
	p.GetProgress().Tokens = []*hadv1.HeldToken{{Name: "afp", Location: "/srv/elsewhere"}}
	l.must(1, deliverCmd(p))
	if got := l.state.View().Claim(epoch).GetTokens(); len(got) != 1 || got[0].GetLocation() != "/srv/elsewhere" {
		t.Errorf("the claim has %v", got)
	}
}
