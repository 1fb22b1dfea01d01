package cluster

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	hadv1 "had/proto/had/v1"
)

// The cluster of these tests: two data nodes, alpha and beta, and gamma, a
// witness.

func testBirth() *hadv1.Birth {
	return &hadv1.Birth{Cluster: "office", ClusterId: "c-1", Members: []*hadv1.Member{
		{Name: "alpha", Address: "10.0.0.11:7400", NodeId: "id-alpha"},
		{Name: "beta", Address: "10.0.0.12:7400", NodeId: "id-beta"},
		{Name: "gamma", Address: "10.0.0.13:7400", NodeId: "id-gamma", Witness: true},
	}}
}

// instance is one run of had on a node.
func instance(node string, run int) *hadv1.Instance {
	return &hadv1.Instance{Node: node, NodeId: "id-" + node, BootId: "boot-" + node, Nonce: fmt.Sprintf("run-%d", run)}
}

func terms(ttl time.Duration) *hadv1.Terms {
	return &hadv1.Terms{TtlNs: int64(ttl), AddressLifetimeNs: int64(2 * time.Second), Layers: []string{LayerLifetime}}
}

func waited(epoch, leaseIndex uint64) *hadv1.Evidence {
	return &hadv1.Evidence{Epoch: epoch, Kind: hadv1.Evidence_KIND_WAITED, LeaseIndex: leaseIndex}
}

func birthCmd(b *hadv1.Birth) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Birth{Birth: b}}
}

func policyCmd(expected uint64, text string) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{ExpectedVersion: expected, Text: text}}}
}

func acquireCmd(in *hadv1.Instance, term uint64, evidence ...*hadv1.Evidence) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Acquire{Acquire: &hadv1.Acquire{
		Term: term, Instance: in, Terms: terms(time.Second), PolicyVersion: 1, Evidence: evidence,
		Addresses: []*hadv1.HeldAddress{{Vip: "web", Address: "192.0.2.10", Interface: "eth0"}},
	}}}
}

func renewCmd(in *hadv1.Instance, term, epoch uint64) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_LeaseRenew{LeaseRenew: &hadv1.LeaseRenew{Term: term, Epoch: epoch, Instance: in}}}
}

func deliverCmd(reports ...*hadv1.Report) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_Deliver{Deliver: &hadv1.Deliver{Reports: reports}}}
}

func moveCmd(op string, from uint64, target string) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_MoveOrder{MoveOrder: &hadv1.MoveOrder{Operation: op, FromEpoch: from, Target: target}}}
}

func moveEndCmd(op string) *hadv1.Command {
	return &hadv1.Command{Record: &hadv1.Command_MoveEnd{MoveEnd: &hadv1.MoveEnd{Operation: op, Why: "it took too long"}}}
}

func report(node string, seq uint64) *hadv1.Report {
	return &hadv1.Report{NodeId: "id-" + node, Node: node, Stream: "journal-" + node, Seq: seq}
}

func released(node string, seq, epoch uint64) *hadv1.Report {
	r := report(node, seq)
	r.Body = &hadv1.Report_Released{Released: &hadv1.Released{
		Epoch: epoch, Reporter: instance(node, 9), Kind: hadv1.Evidence_KIND_RELEASED,
	}}
	return r
}

func progress(node string, seq, epoch uint64, outcome hadv1.Progress_Outcome) *hadv1.Report {
	r := report(node, seq)
	r.Body = &hadv1.Report_Progress{Progress: &hadv1.Progress{Epoch: epoch, Outcome: outcome, Reason: "PreAcq failed"}}
	return r
}

func hookResult(node string, seq, epoch uint64) *hadv1.Report {
	r := report(node, seq)
	r.Body = &hadv1.Report_HookResult{HookResult: &hadv1.HookResult{
		Epoch: epoch, Stage: "PostAcq", Script: fmt.Sprintf("%s-%d", node, seq), Outcome: hadv1.HookResult_OUTCOME_EXITED,
	}}
	return r
}

// log is a State with the log it was made from: each command takes the next
// index and goes through its encoded form, as in a cluster.
type log struct {
	t     *testing.T
	state *State
	index uint64
}

func newLog(t *testing.T) *log { return &log{t: t, state: NewState()} }

// bornLog has a birth record (entry 1) and a policy at version 1 (entry 2).
func bornLog(t *testing.T) *log {
	l := newLog(t)
	l.must(1, birthCmd(testBirth()))
	l.must(1, policyCmd(0, `vip "web" { address = "192.0.2.10" }`))
	return l
}

func (l *log) apply(term uint64, cmd *hadv1.Command) Verdict {
	l.t.Helper()
	l.index++
	cmd.At = timestamppb.New(time.Unix(int64(l.index), 0))
	if cmd.GetProposer() == "" {
		cmd.Proposer = "alpha"
	}
	data, err := encodeCommand(cmd)
	if err != nil {
		l.t.Fatal(err)
	}
	own, err := decodeCommand(data)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.state.Apply(Entry{Index: l.index, Term: term}, own)
}

// must applies a command that is to be accepted and returns its index.
func (l *log) must(term uint64, cmd *hadv1.Command) uint64 {
	l.t.Helper()
	if v := l.apply(term, cmd); v.Refused != "" {
		l.t.Fatalf("entry %d was refused: %s\n%v", l.index, v.Refused, cmd)
	}
	return l.index
}

// refused applies a command that is to be refused and checks that it changed
// nothing.
func (l *log) refused(term uint64, cmd *hadv1.Command) string {
	l.t.Helper()
	before := encodeAt(l.t, l.state, 0)
	v := l.apply(term, cmd)
	if v.Refused == "" {
		l.t.Fatalf("entry %d was accepted: %v", l.index, cmd)
	}
	if string(before) != string(encodeAt(l.t, l.state, 0)) {
		l.t.Fatalf("entry %d was refused (%s) and yet changed the state", l.index, v.Refused)
	}
	if v.Index != l.index || l.state.applied != l.index {
		l.t.Fatalf("entry %d: the verdict names %d and the state %d", l.index, v.Index, l.state.applied)
	}
	return v.Refused
}

func (l *log) open() []uint64 {
	var epochs []uint64
	for _, c := range l.state.View().Open {
		epochs = append(epochs, c.GetEpoch())
	}
	return epochs
}

// encodeAt encodes the state as if it had applied the entry of that index.
func encodeAt(t *testing.T, s *State, applied uint64) []byte {
	t.Helper()
	c := *s
	c.applied = applied
	data, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func encode(t *testing.T, s *State) []byte {
	t.Helper()
	return encodeAt(t, s, s.applied)
}
