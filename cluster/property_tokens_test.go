package cluster

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// TestRandomTokenChangesKeepTheInvariants mixes changes of tokens, by operators
// and by services of present and former owners, with everything else that
// happens to a state.
func TestRandomTokenChangesKeepTheInvariants(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			runRandomTokens(t, rand.New(rand.NewPCG(seed, 2)), 600)
		})
	}
}

// tokenModel is what must be true of tokens.
type tokenModel struct {
	version  map[string]uint64
	content  map[string][][]byte // sealed, all versions since the last forget, oldest first
	services int
}

func runRandomTokens(t *testing.T, r *rand.Rand, commands int) {
	l := bornLog(t)
	m := &model{t: t, owner: map[uint64]*hadv1.Instance{}, open: map[uint64]*openEpoch{}, hooks: map[string]uint64{}, farewells: map[string]uint64{}, guards: map[uint64]bool{}, mounting: map[uint64]bool{}}
	g := &generator{r: r, term: 1, seq: map[string]uint64{}, run: map[string]int{"alpha": 1, "beta": 1, "gamma": 1}}
	tokens := &tokenModel{version: map[string]uint64{}, content: map[string][][]byte{}}
	refused := 0
	for range commands {
		if r.IntN(20) == 0 {
			g.term++
		}
		cmd := g.command(l, m)
		if r.IntN(2) == 0 {
			cmd = g.token(l, m, tokens)
		}
		before := encodeAt(t, l.state, 0)
		switch v := l.apply(g.term, cmd); {
		case v.Refused == "":
			m.accepted(l, g.term, cmd)
			tokens.accepted(l, m, cmd)
		case !bytes.Equal(before, encodeAt(t, l.state, 0)):
			t.Fatalf("entry %d was refused (%s) and changed the state: %v", l.index, v.Refused, cmd)
		case cmd.GetTokenSet() != nil || cmd.GetTokenForget() != nil:
			refused++
		}
		if r.IntN(30) == 0 {
			l.state = restored(t, l.state)
		}
		tokens.mustBe(l)
	}
	if tokens.services < 10 || refused < 10 {
		t.Errorf("%d changes of services were accepted and %d changes refused: the mix tests too little", tokens.services, refused)
	}
}

// token is a change, or the removal, of a token.
func (g *generator) token(l *log, m *model, tokens *tokenModel) *hadv1.Command {
	name := []string{"tickets", "afp"}[g.r.IntN(2)]
	expected := g.near(tokens.version[name])
	if g.r.IntN(20) == 0 {
		return forgetCmd(name, expected)
	}
	cmd := tokenCmd(name, expected, uint32(g.r.IntN(4))) //nolint:gosec // 0 to 3
	cmd.GetTokenSet().Sealed = fmt.Appendf(nil, "%s %d", name, l.index)
	if g.r.IntN(3) > 0 {
		epoch := g.near(g.pick(m))
		in := m.owner[epoch]
		if in == nil || g.wrong() {
			in = g.instance(g.node())
		}
		cmd.GetTokenSet().Epoch, cmd.GetTokenSet().Instance = epoch, in
	}
	return cmd
}

func (tm *tokenModel) accepted(l *log, m *model, cmd *hadv1.Command) {
	if f := cmd.GetTokenForget(); f != nil {
		delete(tm.version, f.GetName())
		delete(tm.content, f.GetName())
	}
	s := cmd.GetTokenSet()
	if s == nil {
		return
	}
	if s.GetEpoch() != 0 || s.GetInstance() != nil {
		e := m.open[s.GetEpoch()]
		if e == nil || e.handed || e.secured || s.GetEpoch() != m.lastEpoch || !proto.Equal(s.GetInstance(), m.owner[s.GetEpoch()]) {
			m.t.Fatalf("entry %d: a change by %v of epoch %d (%+v); the newest is %d", l.index, s.GetInstance(), s.GetEpoch(), e, m.lastEpoch)
		}
		tm.services++
	}
	if s.GetExpectedVersion() != tm.version[s.GetName()] {
		m.t.Fatalf("entry %d: a version after %d, which is at %d", l.index, s.GetExpectedVersion(), tm.version[s.GetName()])
	}
	tm.version[s.GetName()]++
	tm.content[s.GetName()] = append(tm.content[s.GetName()], s.GetSealed())
}

// mustBe finds every token at its version, with the contents in their order.
func (tm *tokenModel) mustBe(l *log) {
	if n := len(l.state.View().Tokens); n != len(tm.version) {
		l.t.Fatalf("entry %d: %d tokens, want %d", l.index, n, len(tm.version))
	}
	for name, version := range tm.version {
		tok := l.state.View().Token(name)
		all := append([]*hadv1.TokenVersion{tok.GetCurrent()}, tok.GetEarlier()...)
		for i, v := range all {
			if v.GetVersion() != version-uint64(i) || !bytes.Equal(v.GetSealed(), tm.content[name][len(tm.content[name])-1-i]) {
				l.t.Fatalf("entry %d: token %q has %v, want version %d", l.index, name, all, version)
			}
		}
	}
}
