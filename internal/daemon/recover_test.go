package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/clock"
	"had/internal/durable"
	"had/internal/journal"
	"had/internal/peer"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// formerCluster is what three nodes have left behind that worked together once:
// gamma's data folder, and had.hcl.
func formerCluster(t *testing.T) (*policy.NodeFile, string) {
	t.Helper()
	dir := t.TempDir()
	f := &policy.NodeFile{Cluster: "office", Detect: 200 * time.Millisecond, Node: "gamma"}
	subnet := fmt.Sprintf("127.%d.%d", 16+rand.IntN(200), 1+rand.IntN(250))
	for i, name := range []string{"alpha", "beta", "gamma"} {
		f.Members = append(f.Members, policy.Member{Name: name, Address: fmt.Sprintf("%s.%d:7400", subnet, i+1)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	worked := make(chan struct{}, len(f.Members))
	for _, m := range f.Members {
		g.Go(func() error {
			return workOnce(running, f, m, filepath.Join(dir, m.Name), func() { worked <- struct{}{} })
		})
	}
	for range f.Members {
		select {
		case <-worked:
		case <-running.Done():
			t.Fatal(g.Wait())
		}
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	f.DataDir = filepath.Join(dir, "gamma")
	return f, dir
}

// workOnce is a node without a kernel: it is born with the others, and the leader
// applies a policy. It calls done when that is in this node's log.
func workOnce(ctx context.Context, f *policy.NodeFile, m policy.Member, dir string, done func()) error {
	id, err := peer.OpenIdentity(dir, f.Cluster, m.Name, peerMembers(f))
	if err != nil {
		return err
	}
	port, err := peer.Listen(peer.PortConfig{Identity: id, Listen: m.Address, Logger: hclog.NewNullLogger(), Version: "test"})
	if err != nil {
		return err
	}
	defer background(context.WithoutCancel(ctx), port.Run)()
	birth, err := port.Meet(ctx)
	if err != nil {
		return err
	}
	j, err := journal.Open(filepath.Join(dir, "journal.db"), id.NodeID())
	if err != nil {
		return err
	}
	defer j.Close()
	storage, err := cluster.OpenStorage(filepath.Join(dir, "raft"), hclog.DefaultOutput)
	if err != nil {
		return err
	}
	if err := id.MarkRaftStarted(); err != nil {
		return err
	}
	timing := cluster.TimingFor(f.Detect)
	n, err := cluster.Open(cluster.Config{
		Birth: birthRecord(birth), Instance: &hadv1.Instance{Node: m.Name, NodeId: id.NodeID(), BootId: "b", Nonce: "n"}, Timing: timing, Storage: storage,
		Transport: cluster.NewTransport(m.Name, port, timing, hclog.NewNullLogger()), Clock: clock.Now, Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		return err
	}
	end := background(context.WithoutCancel(ctx), n.Run)
	for told := false; ctx.Err() == nil; {
		v, changed := n.View()
		if v.Policy != nil && !told {
			told = true
			done()
		}
		if v.Policy == nil && v.Birth != nil && n.Leadership().Ready {
			_, _ = n.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_PolicyApply{PolicyApply: &hadv1.PolicyApply{Text: "vip \"v\" { address = \"192.0.2.10\" }\n"}}}) // tried again
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-n.LeadershipChanged():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return end()
}

// Who has to be confirmed is who belongs to the cluster now: one was added, one has
// another machine since the birth, and one was removed.
func TestOthersAreTheMembersThereAre(t *testing.T) {
	birth := peer.Birth{Members: []peer.BornMember{
		{Member: peer.Member{Name: "alpha"}, NodeID: "1"}, {Member: peer.Member{Name: "beta"}, NodeID: "2"},
		{Member: peer.Member{Name: "gamma"}, NodeID: "3"}, {Member: peer.Member{Name: "old"}, NodeID: "4"},
	}}
	listed := []policy.Member{{Name: "alpha", Address: "a.new"}, {Name: "beta", Address: "b.old"}, {Name: "gamma", Address: "g"}, {Name: "old", Address: "o"}}
	members := []*hadv1.Member{
		{Name: "alpha", NodeId: "1", Address: "a"}, {Name: "gamma", NodeId: "3", Address: "g"},
		{Name: "beta", NodeId: "22", Address: "b.new"}, {Name: "delta", NodeId: "5", Address: "d", Witness: true, Standing: hadv1.Member_STANDING_JOINING},
	}
	var got []string
	for _, m := range others("3", members, birth, listed) {
		got = append(got, fmt.Sprintf("%s %s %s %v", m.GetName(), m.GetNodeId(), m.GetAddress(), m.GetWitness()))
	}
	if want := "alpha 1 a.new false, beta 22 b.new false, delta 5 d true"; strings.Join(got, ", ") != want {
		t.Errorf("they are %s; want %s", strings.Join(got, ", "), want)
	}
}

// recoverSteps are those of Run, in order.
var recoverSteps = []string{
	"copy the data folder", "name the copy", "remove what an earlier attempt has left", "write the next generation's log",
	"read it again", "make it the one in force", "remove the former log", "done",
}

const killAt = "HAD_TEST_KILL_AT" // in the environment of a recovery that is to be killed

func TestMain(m *testing.M) {
	if at := os.Getenv(killAt); at != "" {
		fmt.Fprintln(os.Stderr, recoverAndDie(at))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// recoverAndDie is the process that is killed. It returns why it wasn't.
func recoverAndDie(at string) error {
	f := &policy.NodeFile{Cluster: "office", Detect: 200 * time.Millisecond, Node: "gamma", DataDir: os.Getenv("HAD_TEST_DIR")}
	for m := range strings.FieldsSeq(os.Getenv("HAD_TEST_MEMBERS")) {
		name, address, _ := strings.Cut(m, "=")
		f.Members = append(f.Members, policy.Member{Name: name, Address: address})
	}
	r, err := OpenRecovery(Config{File: f, Logger: hclog.NewNullLogger()})
	if err != nil {
		return err
	}
	r.step = func(name string) {
		if name == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing comes after it
			select {}
		}
	}
	return fmt.Errorf("there is no step %q: %w", at, r.Run(context.Background(), "anna on gamma", ""))
}

func TestRecoveryKilledAtEveryStep(t *testing.T) {
	f, dir := formerCluster(t)
	var members []string
	for _, m := range f.Members {
		members = append(members, m.Name+"="+m.Address)
	}
	for i, at := range recoverSteps {
		t.Run(at, func(t *testing.T) {
			own := *f
			own.DataDir = filepath.Join(dir, fmt.Sprintf("killed-%d", i))
			if err := durable.CopyDir(own.DataDir, f.DataDir); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), killAt+"="+at, "HAD_TEST_DIR="+own.DataDir, "HAD_TEST_MEMBERS="+strings.Join(members, " "))
			out, err := cmd.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the recovery ended with %v:\n%s", err, out)
			}
			if i < 6 {
				oldAndWhole(t, &own)
				recoverNow(t, &own)
			}
			newAndWhole(t, &own)
		})
	}
}

// oldAndWhole checks that the node is one of the old cluster, as it was.
func oldAndWhole(t *testing.T, f *policy.NodeFile) {
	t.Helper()
	id, err := peer.ReadIdentity(f.DataDir, f.Cluster, f.Node, peerMembers(f))
	if err != nil {
		t.Fatal(err)
	}
	wantGeneration(t, f, id, 1, 3)
	if r := readCopy(t, f.DataDir, "raft"); len(r.View().Open) != 0 || r.View().Policy.GetVersion() != 1 {
		t.Errorf("its log has changed")
	}
}

// newAndWhole checks that the node is the next generation.
func newAndWhole(t *testing.T, f *policy.NodeFile) {
	t.Helper()
	alone := *f
	alone.Members = f.Members[2:]
	id, err := peer.ReadIdentity(f.DataDir, f.Cluster, f.Node, peerMembers(&alone))
	if err != nil {
		t.Fatal(err)
	}
	wantGeneration(t, f, id, 2, 1)
	v := readCopy(t, f.DataDir, "raft-2").View()
	birth, _ := id.Birth()
	if v.Birth.GetClusterId() != birth.ID || len(v.Open) != 2 || v.Policy.GetVersion() != 1 {
		t.Errorf("it has cluster %s, open %v, policy version %d", v.Birth.GetClusterId(), v.Open, v.Policy.GetVersion())
	}
	if _, err := OpenRecovery(Config{File: f, Logger: hclog.NewNullLogger()}); err == nil || !strings.Contains(err.Error(), "is the only member") {
		t.Errorf("recovered once more: %v", err)
	}
	backups, err := filepath.Glob(f.DataDir + ".before-generation-2-*Z")
	if err != nil || len(backups) == 0 {
		t.Fatalf("no copy was kept: %v", err)
	}
	kept := *f
	kept.DataDir = backups[0]
	oldAndWhole(t, &kept)
}

func wantGeneration(t *testing.T, f *policy.NodeFile, id *peer.Identity, generation, members int) {
	t.Helper()
	b, born := id.Birth()
	if !born || b.Generation() != generation || len(b.Members) != members || !id.RaftStarted() {
		t.Fatalf("%s is of %+v", f.DataDir, b)
	}
	if err := cluster.CheckStorage(filepath.Join(f.DataDir, b.RaftFolder())); err != nil {
		t.Error(err)
	}
}

func readCopy(t *testing.T, dataDir, folder string) *cluster.Remains {
	t.Helper()
	to := filepath.Join(t.TempDir(), folder)
	if err := durable.CopyDir(to, filepath.Join(dataDir, folder)); err != nil {
		t.Fatal(err)
	}
	r, err := cluster.ReadRemains(to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func recoverNow(t *testing.T, f *policy.NodeFile) {
	t.Helper()
	r, err := OpenRecovery(Config{File: f, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	r.at = r.at.Add(time.Second) // the copy of the attempt that was killed may be there
	if err := errors.Join(r.Run(t.Context(), "anna on gamma", ""), r.Close()); err != nil {
		t.Fatal(err)
	}
}

// had.hcl may have been changed already.
func TestRecoveryWithTheNewList(t *testing.T) {
	f, _ := formerCluster(t)
	alone := *f
	alone.Members = f.Members[2:]
	r, err := OpenRecovery(Config{File: &alone, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range r.Loss().Lost {
		if want := f.Members[i]; m.GetName() != want.Name || m.GetAddress() != want.Address {
			t.Errorf("lost is %v, want %v", m, want)
		}
	}
	if err := errors.Join(r.Run(t.Context(), "anna", ""), r.Close()); err != nil {
		t.Fatal(err)
	}
	newAndWhole(t, f)
}

// What isn't lost isn't given up, and looking changes nothing.
func TestRecoveryIsRefused(t *testing.T) {
	f, _ := formerCluster(t)
	r, err := OpenRecovery(Config{File: f, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRecovery(Config{File: f, Logger: hclog.NewNullLogger()}); err == nil {
		t.Error("two recoveries at once")
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", f.Members[1].Address)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context(), "anna", ""); err == nil || !strings.Contains(err.Error(), "without beta ("+f.Members[1].Address+"): something answers there") {
		t.Errorf("beta answers: %v", err)
	}
	if err := errors.Join(l.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	oldAndWhole(t, f)
	if _, err := os.Stat(filepath.Join(f.DataDir, scratch)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its scratch folder: %v", err)
	}
}

// A node that was removed brings nothing back, and of one that was being removed that
// is known.
func TestWhoMayRecover(t *testing.T) {
	f := &policy.NodeFile{Cluster: "office", Node: "gamma"}
	members := []*hadv1.Member{{Name: "alpha", NodeId: "a"}, {Name: "gamma", NodeId: "g"}}
	if leaving, err := stillMember(f, "g", members); leaving || err != nil {
		t.Errorf("a member: %v, %v", leaving, err)
	}
	for _, gone := range [][]*hadv1.Member{members[:1], {members[0], {Name: "gamma", NodeId: "another"}}} {
		if _, err := stillMember(f, "g", gone); err == nil || !strings.Contains(err.Error(), `gamma was removed from the cluster "office"`) {
			t.Errorf("of %v it was removed: %v", gone, err)
		}
	}
	members[1].Standing = hadv1.Member_STANDING_LEAVING
	if leaving, err := stillMember(f, "g", members); !leaving || err != nil {
		t.Errorf("being removed: %v, %v", leaving, err)
	}
}
