package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

// leftBehind is a raft folder of testBirth's cluster with these commands in its
// log, all of term 3, after the entry that names the voters.
func leftBehind(t *testing.T, cmds ...*hadv1.Command) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "raft")
	s := openTestStorage(t, dir)
	var members raft.Configuration
	for _, m := range testBirth().GetMembers() {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(m.GetNodeId()), Address: raft.ServerAddress(m.GetName())})
	}
	entries := []*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(members)}}
	for i, cmd := range cmds {
		cmd.At = timestamppb.New(time.Unix(int64(i), 0))
		if cmd.Proposer == "" {
			cmd.Proposer = "alpha"
		}
		data, err := encodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, &raft.Log{Index: uint64(i + 2), Term: 3, Data: data, AppendedAt: time.Unix(int64(1000+i), 0)})
	}
	checked := &checkedLog{LogStore: s.Log, leaseAppended: func() {}}
	if err := errors.Join(checked.StoreLogs(entries), s.Stable.SetUint64([]byte(keyCurrentTerm), 7), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// recoverOn is the recovery on a node of testBirth's cluster.
func recoverOn(node string) Recovery {
	rec := Recovery{
		Birth:     &hadv1.Birth{Cluster: "office", ClusterId: "c-2", Former: []string{"c-1"}},
		Recovered: &hadv1.Recovered{ClusterId: "c-2", FormerId: "c-1", Generation: 2, Node: node, By: "anna on " + node, Reason: "fire"},
		At:        time.Unix(5000, 0), Grace: 20 * time.Second,
	}
	for _, m := range testBirth().GetMembers() {
		if m.GetName() == node {
			m.Witness = false
			rec.Birth.Members = append(rec.Birth.Members, m)
		} else {
			rec.Recovered.Lost = append(rec.Recovered.Lost, m)
		}
	}
	return rec
}

func readRemains(t *testing.T, dir string) *Remains {
	t.Helper()
	r, err := ReadRemains(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func volumesCmd(in *hadv1.Instance, term uint64, evidence ...*hadv1.Evidence) *hadv1.Command {
	cmd := acquireCmd(in, term, evidence...)
	cmd.GetAcquire().Volumes = []*hadv1.HeldVolume{{Name: "web", Device: "UUID=2b22", Path: "/srv/web"}}
	cmd.GetAcquire().Terms.FenceMethods = []string{MethodAgent}
	return cmd
}

// What may be held goes on to be held: nothing about owners goes backwards.
func TestRecoveryForgetsNoHolder(t *testing.T) {
	r := readRemains(t, leftBehind(t,
		birthCmd(testBirth()), policyCmd(0, `vip "web" { address = "192.0.2.10" }`),
		volumesCmd(instance("alpha", 1), 3), renewCmd(instance("alpha", 1), 3, 4),
		&hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{Node: "alpha", By: "anna"}}},
		moveCmd("op", 4, "beta"),
	))
	if r.LastIndex != 7 || r.LastTerm != 3 || !r.LastAt.Equal(time.Unix(1005, 0)) || len(r.Voters) != 3 || !r.Voters[0].Votes {
		t.Fatalf("the remains are %+v", r)
	}
	dir := filepath.Join(t.TempDir(), "raft-2")
	rec := recoverOn("beta")
	rec.Delivered = &hadv1.DeliveredStream{NodeId: "id-beta", Stream: "journal-beta", Seq: 12}
	if err := r.Write(dir, rec); err != nil {
		t.Fatal(err)
	}
	got := readRemains(t, dir)
	v := got.View()
	if got.LastIndex != 7+EpochGap || got.LastTerm != 7 || len(got.Voters) != 1 || got.Voters[0].Name != "beta" {
		t.Fatalf("the next generation begins with %+v", got)
	}
	if !proto.Equal(v.Birth, rec.Birth) || v.Move != nil || v.LastMove == nil || len(v.Drained) != 0 {
		t.Errorf("birth %v, move %v, drained %v", v.Birth, v.Move, v.Drained)
	}
	if m := v.Roster.GetMembers(); len(m) != 1 || m[0].GetName() != "beta" || len(v.Roster.GetDeparted()) != 2 {
		t.Errorf("the members are %v", v.Roster)
	}
	// Alpha's epoch as it was, and one for what may be missing of alpha. Gamma is
	// a witness and never owned.
	if len(v.Open) != 2 {
		t.Fatalf("open are %v", v.Open)
	}
	known, unknown := v.Open[0], v.Open[1]
	if known.GetEpoch() != 4 || known.GetLastLeaseIndex() != 5 || known.GetSecured().GetKind() != hadv1.Secured_KIND_CONFIRMED || known.GetSecured().GetBy() != "anna on beta" {
		t.Errorf("alpha's epoch is %v", known)
	}
	if unknown.GetInstance().GetNodeId() != "id-alpha" || unknown.GetEpoch() <= EpochGap || unknown.GetEpoch() >= got.LastIndex || v.LastEpoch != unknown.GetEpoch() || v.Doubted != unknown.GetEpoch() {
		t.Errorf("what may be missing is %v; last epoch %d, doubted %d", unknown, v.LastEpoch, v.Doubted)
	}
	if wait := TakeoverWait(unknown.GetTerms()); wait < 15*time.Second+20*time.Second+AddressLifetime || wait != UnknownWait(20*time.Second) {
		t.Errorf("it is waited for for %v", wait)
	}
	if got.state.delivered[streamKey{"id-beta", "journal-beta"}] != 12 {
		t.Error("beta's journal would not be heard any more")
	}
	var told []string
	for _, e := range got.state.history {
		if e.GetIndex() == got.LastIndex {
			told = append(told, e.ProtoReflect().WhichOneof(e.ProtoReflect().Descriptor().Oneofs().ByName("body")).TextName())
		}
	}
	if s := strings.Join(told, " "); s != "recovered move_ended secured" {
		t.Errorf("the history tells %s", s)
	}

	// On it goes: an Acquire has to account for both, and the old ones' renewals,
	// farewells and reports are refused.
	l := &log{t: t, state: got.state, index: got.LastIndex}
	l.refused(8, acquireCmd(instance("beta", 5), 8))
	l.refused(8, acquireCmd(instance("beta", 5), 8, waited(4, 5)))
	l.refused(8, renewCmd(instance("alpha", 1), 8, 4))
	l.refused(8, deliverCmd(released("alpha", 1, 4)))
	l.refused(8, addCmd(&hadv1.Member{Name: "alpha", Address: "192.0.2.1:7400", NodeId: "id-alpha"})) // with its old folder
	l.must(8, addCmd(&hadv1.Member{Name: "alpha", Address: "192.0.2.1:7400", NodeId: "id-alpha-2"}))
	l.must(8, deliverCmd(hookResult("beta", 13, 4)))
	epoch := l.must(8, acquireCmd(instance("beta", 5), 8, waited(4, 5), waited(unknown.GetEpoch(), unknown.GetLastLeaseIndex())))
	if open := l.open(); len(open) != 1 || open[0] != epoch {
		t.Errorf("open are %v", open)
	}
}

// A survivor's own epoch stays its own to release.
func TestRecoveryLeavesTheSurvivorsEpochOpen(t *testing.T) {
	r := readRemains(t, leftBehind(t, birthCmd(testBirth()), policyCmd(0, "x"), volumesCmd(instance("alpha", 1), 3)))
	s, err := r.next(recoverOn("alpha"))
	if err != nil {
		t.Fatal(err)
	}
	if c := s.View().Claim(4); c == nil || c.GetSecured() != nil {
		t.Errorf("its epoch is %v", c)
	}
	l := &log{t: t, state: s, index: r.NextIndex()}
	l.must(8, deliverCmd(released("alpha", 1, 4)))
	if s.View().Claim(4) != nil {
		t.Error("it isn't released")
	}
}

// A witness that survives votes alone, and owns nothing before somebody says so.
func TestRecoveryOfAWitness(t *testing.T) {
	r := readRemains(t, leftBehind(t, birthCmd(testBirth())))
	s, err := r.next(recoverOn("gamma"))
	if err != nil {
		t.Fatal(err)
	}
	if v := s.View(); v.Drained["gamma"] == nil || len(v.Open) != 2 {
		t.Errorf("drained %v, open %v", v.Drained, v.Open)
	}
}

// The folder is one on which a node starts, elects itself and goes on; also after
// its log was cut off by a snapshot of its own.
func TestANodeStartsOnWhatRecoveryWrote(t *testing.T) {
	r := readRemains(t, leftBehind(t, birthCmd(testBirth()), policyCmd(0, "x"), acquireCmd(instance("alpha", 1), 3)))
	dir := filepath.Join(t.TempDir(), "raft-2")
	rec := recoverOn("beta")
	if err := r.Write(dir, rec); err != nil {
		t.Fatal(err)
	}
	for run := range 3 {
		const detect = 200 * time.Millisecond
		network := newNetwork()
		n, err := Open(Config{
			Birth: rec.Birth, Instance: instance("beta", run), Timing: TimingFor(detect), Storage: openTestStorage(t, dir),
			Transport: NewTransport("beta", network.join(t, "beta"), TimingFor(detect), hclog.NewNullLogger()), Clock: clock.Now, Logger: hclog.NewNullLogger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		for !n.Leadership().Ready {
			changed := n.LeadershipChanged()
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
				t.Fatal("it never leads")
			}
		}
		v, err := n.Propose(ctx, policyCmd(uint64(run+1), "y"))
		if err != nil || v.Index <= r.NextIndex() {
			t.Errorf("run %d: entry %d, %v", run, v.Index, err)
		}
		if run == 1 {
			if err := n.raft.Snapshot().Error(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := readRemains(t, dir).View(); got.Policy.GetVersion() != 4 || len(got.Open) != 2 {
		t.Errorf("policy version %d, open %v", got.Policy.GetVersion(), got.Open)
	}
}

// A second recovery begins above the first, from a snapshot.
func TestRecoveryOfARecoveredCluster(t *testing.T) {
	first := filepath.Join(t.TempDir(), "raft-2")
	if err := readRemains(t, leftBehind(t, birthCmd(testBirth()))).Write(first, recoverOn("beta")); err != nil {
		t.Fatal(err)
	}
	again := readRemains(t, first)
	if again.NextIndex() != 2+2*EpochGap {
		t.Errorf("the next generation begins at %d", again.NextIndex())
	}
	if 30*EpochGap >= 1<<keyEpochBits {
		t.Error("a reservation key has no room for the epochs of 30 generations")
	}
}

func TestNothingToRecover(t *testing.T) {
	if _, err := ReadRemains(leftBehind(t)); err == nil || !strings.Contains(err.Error(), "no record of the cluster's birth") {
		t.Errorf("an unborn log: %v", err)
	}
	newer := leftBehind(t, birthCmd(testBirth()), &hadv1.Command{})
	if _, err := ReadRemains(newer); err == nil || !strings.Contains(err.Error(), "update had") {
		t.Errorf("a record of a newer had: %v", err)
	}
	// One whose checksum doesn't match what raft wrote.
	dir := leftBehind(t, birthCmd(testBirth()))
	s := openTestStorage(t, dir)
	bad := &raft.Log{Index: 3, Term: 3, Data: []byte("x"), Extensions: binary.BigEndian.AppendUint32(nil, 1)}
	if err := errors.Join(s.Log.StoreLog(bad), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRemains(dir); !errors.Is(err, ErrDamagedCommand) {
		t.Errorf("a damaged entry: %v", err)
	}
}
