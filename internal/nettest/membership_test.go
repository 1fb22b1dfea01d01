package nettest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"had/internal/lab"
	hadv1 "had/proto/had/v1"
)

// A cluster of one grows to three and five and shrinks to three, while clients ask
// for its addresses all the time. The owner leaves it, too, and a node is replaced
// by one with an empty disk.
func TestClusterGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	s := newSilentSite(t, lab.Config{Names: []string{"alpha", "beta", "gamma", "delta", "epsilon"}, Founders: 1, Detect: steady})
	begin := time.Now()
	must(t, s.Host("alpha").StartDaemon())
	eventually(t, "alpha is a cluster of its own", func() error {
		_, err := s.nodes(t, "alpha")
		return err
	})
	s.apply(t, "alpha", s.policy(s.vips...))
	must(t, s.Observer.Await(within(t), s.vips[0], "alpha"))
	must(t, s.answers(t, "alpha"))

	// The next one waits for a person, and forms no cluster of its own.
	must(t, s.Host("beta").StartDaemon())
	s.says(t, "beta", []string{"status"}, 0, "beta isn't a member", "hactl node add beta --address "+s.Host("beta").ClusterPort())

	serving := time.Now()
	s.add(t, "alpha", "beta", "together with a third node")
	s.add(t, "alpha", "gamma", "gamma is a member and votes")
	s.voters(t, "beta", "alpha", "beta", "gamma")
	s.add(t, "gamma", "delta", "delta is a member and votes") // any node takes the request
	s.add(t, "delta", "epsilon", "epsilon is a member and votes")
	s.voters(t, "epsilon", "alpha", "beta", "gamma", "delta", "epsilon")
	s.stayed(t, "alpha", serving)

	// It must be of use: the first one dies, and one that was added takes over.
	s.kill(t, "alpha")
	owner := s.holder(t, "alpha")
	must(t, s.answers(t, owner))
	s.says(t, owner, []string{"node", "remove", owner}, 3, owner+" owns")
	must(t, s.Host("alpha").StartDaemon())
	s.voters(t, "alpha", "alpha", "beta", "gamma", "delta", "epsilon")

	// Two leave, the owner among them: what it owns is moved first.
	s.says(t, owner, []string{"node", "remove", owner, "--yes"}, 0, owner+" is no member any more")
	left := s.others(owner)
	second := s.holder(t, owner)
	must(t, s.answers(t, second))
	other := slices.DeleteFunc(slices.Clone(left), func(n string) bool { return n == second || n == "alpha" })[0]
	s.says(t, second, []string{"node", "remove", other, "--yes"}, 0, other+" is no member any more")
	left = s.others(owner, other)
	s.voters(t, second, left...)

	// What was removed can't come back as it is; with an empty disk it can.
	<-s.Host(other).Daemon().Done() // all the others have told it
	s.says(t, second, []string{"node", "add", other, "--address", s.Host(other).ClusterPort()}, 3, "doesn't answer")
	s.gap(t, "a node is replaced by one with an empty disk", func() {
		must(t, os.RemoveAll(s.Host(other).DataDir()))
		must(t, os.Mkdir(s.Host(other).DataDir(), 0o700))
		must(t, s.Host(other).StartDaemon())
		s.add(t, second, other, other+" is a member and votes")
	})
	for _, vip := range s.vips {
		s.neverTwoHolders(t, vip, begin)
		if gap, ok := s.clients[vip].Report().LongestGap(begin, time.Now()); ok {
			t.Logf("the longest time without an answer of %s: %v", vip, gap)
		}
	}
}

// nodes is what hactl node list asks for.
func (s *site) nodes(t *testing.T, node string) (r *hadv1.NodeListResponse, err error) {
	t.Helper()
	err = s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		r, err = ha.NodeList(ctx, &hadv1.NodeListRequest{})
		return err
	})
	return r, err
}

// voters waits until a node says that exactly these vote.
func (s *site) voters(t *testing.T, asked string, want ...string) {
	t.Helper()
	slices.Sort(want)
	eventually(t, fmt.Sprintf("%s says that %v vote", asked, want), func() error {
		r, err := s.nodes(t, asked)
		if err != nil {
			return err
		}
		var got []string
		for _, n := range r.GetNodes() {
			if n.GetVoter() && n.GetMember().GetStanding() == hadv1.Member_STANDING_UNSPECIFIED {
				got = append(got, n.GetMember().GetName())
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			return fmt.Errorf("it says %v: %v", got, r)
		}
		return nil
	})
}

// add starts a node and has it added.
func (s *site) add(t *testing.T, asked, node, words string) {
	t.Helper()
	if !s.Host(node).Running() {
		must(t, s.Host(node).StartDaemon())
	}
	s.says(t, asked, []string{"node", "add", node, "--address", s.Host(node).ClusterPort()}, 0, words)
}

// stayed checks that one host had every address since then, and that no client
// missed an answer for longer than this machine stalls.
func (s *site) stayed(t *testing.T, owner string, since time.Time) {
	t.Helper()
	for _, vip := range s.vips {
		h := s.neverTwoHolders(t, vip, since)
		if last := h.Transitions[len(h.Transitions)-1]; last.At.After(since) || !slices.Equal(h.Holders(), []string{owner}) {
			t.Errorf("%s was touched while the cluster grew:\n%s", vip, h)
		}
		if gap, ok := s.clients[vip].Report().LongestGap(since, time.Now()); ok && gap.Duration() > time.Second {
			t.Errorf("the client got no answer of %s for %v", vip, strings.TrimSpace(fmt.Sprint(gap)))
		}
	}
}

// Whoever is killed while a node is added or removed: in the end all nodes have the
// same members, the new ones, for the change had begun, and the address has one owner
// all the while.
func TestKilledWhileMembersChange(t *testing.T) {
	t.Parallel()
	s := newSilentSite(t, lab.Config{Names: []string{"alpha", "beta", "gamma", "delta"}, Founders: 3, Detect: detect})
	begin := time.Now()
	for _, n := range []string{"alpha", "beta", "gamma"} {
		must(t, s.Host(n).StartDaemon())
	}
	eventually(t, "the cluster is born", func() error { _, err := s.nodes(t, "alpha"); return err })
	s.apply(t, "alpha", s.policy(s.vips...))
	const subject = "delta"
	for _, kill := range []struct {
		leader bool // otherwise the node that is added or removed
		after  time.Duration
	}{{true, 0}, {true, 60 * time.Millisecond}, {true, 250 * time.Millisecond}, {false, 0}, {false, 100 * time.Millisecond}} {
		must(t, s.Host(subject).StartDaemon())
		s.killedDuring(t, kill.leader, kill.after, subject, func(ctx context.Context, ha hadv1.HAClient) error {
			_, err := ha.NodeAdd(ctx, &hadv1.NodeAddRequest{Name: subject, Address: s.Host(subject).ClusterPort()})
			return err
		})
		for _, n := range s.others() {
			s.voters(t, n, "alpha", "beta", "gamma", subject)
		}
		s.notOwner(t, subject)
		s.killedDuring(t, kill.leader, kill.after, subject, func(ctx context.Context, ha hadv1.HAClient) error {
			_, err := ha.NodeRemove(ctx, &hadv1.NodeRemoveRequest{Name: subject})
			return err
		})
		for _, n := range s.others(subject) {
			s.voters(t, n, "alpha", "beta", "gamma")
		}
		<-s.Host(subject).Daemon().Done() // the others have told it
		must(t, os.RemoveAll(s.Host(subject).DataDir()))
		must(t, os.Mkdir(s.Host(subject).DataDir(), 0o700))
	}
	for _, vip := range s.vips {
		s.neverTwoHolders(t, vip, begin)
	}
}

// killedDuring asks the owner, which leads, for a change, kills somebody a moment
// after it was accepted, and starts that one again.
func (s *site) killedDuring(t *testing.T, leader bool, after time.Duration, subject string, change func(context.Context, hadv1.HAClient) error) {
	t.Helper()
	owner := s.holder(t)
	eventually(t, "the change is accepted", func() error {
		owner = s.holder(t)
		return s.ask(t, owner, change)
	})
	victim := subject
	if leader {
		victim = owner
	}
	<-time.After(after)
	s.kill(t, victim)
	s.holder(t)
	must(t, s.Host(victim).StartDaemon())
}

// notOwner moves the addresses away from a node that owns.
func (s *site) notOwner(t *testing.T, node string) {
	t.Helper()
	if s.holder(t) == node {
		s.moveTo(t, node, "alpha")
		s.holder(t, node)
	}
}
