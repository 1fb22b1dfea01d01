package cluster

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// What tokens may be is bounded here too, whatever a proposer believes: every
// snapshot holds them.
const (
	maxTokens     = 64
	maxTokenName  = 63
	maxTokenSize  = 64 << 10           // of a content
	maxTokenBytes = maxTokenSize + 256 // sealed
	maxTokensKept = 3
)

// Token returns the content of a replicated token; nil: there is none.
func (v View) Token(name string) *hadv1.Token { return findToken(v.Tokens, name) }

func findToken(tokens []*hadv1.Token, name string) *hadv1.Token {
	i, ok := searchToken(tokens, name)
	if !ok {
		return nil
	}
	return tokens[i]
}

func searchToken(tokens []*hadv1.Token, name string) (int, bool) {
	return slices.BinarySearchFunc(tokens, name, func(t *hadv1.Token, name string) int { return strings.Compare(t.GetName(), name) })
}

// applyTokenSet makes a new version of a token's content. Versions are counted
// and none is skipped, so that no two writers take each other's change for
// their own; and only the owner of the newest epoch may say what a service has
// written, so that nothing of a former owner comes after it.
func (s *State) applyTokenSet(e Entry, cmd *hadv1.Command, t *hadv1.TokenSet) string {
	old := findToken(s.tokens, t.GetName())
	switch current := old.GetCurrent().GetVersion(); {
	case s.birth == nil:
		return refuse("the cluster isn't born yet")
	case t.GetName() == "" || len(t.GetName()) > maxTokenName:
		return refuse("%q can't be a token's name", t.GetName())
	case t.GetExpectedVersion() != current:
		return refuse("token %q is at version %d, not %d: somebody changed it meanwhile; look at it and set it again", t.GetName(), current, t.GetExpectedVersion())
	case len(t.GetSealed()) == 0 || len(t.GetSealed()) > maxTokenBytes || t.GetSize() > maxTokenSize || t.GetKeyId() == "":
		return refuse("the content of token %q has %d bytes: at most %d travel in the log, sealed with a key", t.GetName(), t.GetSize(), maxTokenSize)
	case t.GetKeep() > maxTokensKept:
		return refuse("%d earlier versions of token %q: at most %d are kept", t.GetKeep(), t.GetName(), maxTokensKept)
	case old == nil && len(s.tokens) >= maxTokens:
		return refuse("there are %d tokens already: hactl token forget NAME removes one that no policy has", len(s.tokens))
	}
	if t.GetEpoch() != 0 || t.GetInstance() != nil {
		if why := s.notTheOwner(t); why != "" {
			return why
		}
	}
	next := &hadv1.Token{Name: t.GetName(), Current: &hadv1.TokenVersion{
		Version: t.GetExpectedVersion() + 1, Sealed: t.GetSealed(), KeyId: t.GetKeyId(), Size: t.GetSize(),
		At: cmd.GetAt(), By: t.GetBy(), Reason: t.GetReason(), Index: e.Index,
	}}
	if old != nil {
		next.Earlier = append([]*hadv1.TokenVersion{old.GetCurrent()}, old.GetEarlier()...)
		next.Earlier = slices.Clip(next.Earlier[:min(len(next.Earlier), int(t.GetKeep()))])
	}
	s.replaceToken(t.GetName(), next)
	s.recordToken(e, cmd, &hadv1.TokenChanged{
		Name: t.GetName(), Version: next.GetCurrent().GetVersion(), Size: t.GetSize(), By: t.GetBy(), Reason: t.GetReason(), Service: t.GetEpoch() != 0,
	}, t.GetEpoch())
	return ""
}

// notTheOwner says why a service's change isn't that of the owner.
func (s *State) notTheOwner(t *hadv1.TokenSet) string {
	c := findClaim(s.open, t.GetEpoch())
	switch {
	case c == nil:
		return refuse("epoch %d is closed: what its service wrote to token %q comes too late", t.GetEpoch(), t.GetName())
	case c.GetEpoch() != s.lastEpoch || c.GetHandedTo() != 0 || c.GetSecured() != nil:
		return refuse("epoch %d has a successor: what its service wrote to token %q comes too late", t.GetEpoch(), t.GetName())
	case !proto.Equal(c.GetInstance(), t.GetInstance()):
		return refuse("epoch %d belongs to another run of had on %s", t.GetEpoch(), c.GetInstance().GetNode())
	}
	return ""
}

func (s *State) applyTokenForget(e Entry, cmd *hadv1.Command, t *hadv1.TokenForget) string {
	switch old := findToken(s.tokens, t.GetName()); {
	case old == nil:
		return refuse("the log has no content of a token %q", t.GetName())
	case old.GetCurrent().GetVersion() != t.GetExpectedVersion():
		return refuse("token %q is at version %d, not %d: somebody changed it meanwhile", t.GetName(), old.GetCurrent().GetVersion(), t.GetExpectedVersion())
	}
	s.replaceToken(t.GetName(), nil)
	s.recordToken(e, cmd, &hadv1.TokenChanged{Name: t.GetName(), By: t.GetBy(), Reason: t.GetReason()}, 0)
	return ""
}

// replaceToken swaps in another token of that name; nil removes it.
func (s *State) replaceToken(name string, t *hadv1.Token) {
	i, found := searchToken(s.tokens, name)
	tokens := slices.Clone(s.tokens)
	if found {
		tokens = slices.Delete(tokens, i, i+1)
	}
	if t != nil {
		tokens = slices.Insert(tokens, i, t)
	}
	s.tokens = tokens
}

func (s *State) recordToken(e Entry, cmd *hadv1.Command, t *hadv1.TokenChanged, epoch uint64) {
	s.record(e, cmd, &hadv1.Event{Node: cmd.GetProposer(), Epoch: epoch, Body: &hadv1.Event_TokenChanged{TokenChanged: t}})
}
