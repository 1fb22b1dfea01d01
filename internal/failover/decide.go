package failover

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"had/cluster"
	"had/internal/check"
	"had/internal/clock"
	"had/internal/evidence"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Inputs is everything a decision rests on, gathered at one moment.
type Inputs struct {
	Now        clock.Instant
	Instance   *hadv1.Instance
	Witness    bool
	Margin     time.Duration // a forced release starts this long before the lease ends
	Leadership cluster.Leadership
	View       cluster.View
	LastLease  clock.Instant  // cluster.Node.LastLease
	ReadySince clock.Instant  // when this node first saw itself lead and be ready, in this term
	Policy     *policy.Policy // of View.Policy; nil when there is none or this version can't read it
	PolicySeen clock.Instant  // when this node first saw that version
	Holding    Holding
	Reported   uint64       // the newest epoch whose release this instance has reported
	Earlier    *hadv1.Claim // of an earlier run of had on this node, which never had anything of it; nil: none
	Stuck      string       // why this instance can't report anything released any more; empty: it can
	LeaseEpoch uint64       // 0: no lease
	LeaseUntil clock.Instant
	InGrace    bool                      // the lease of the held epoch has ended, and its services are being stopped
	LeaseLost  string                    // why this node ended the held epoch's lease before its time; empty: it didn't
	Blockers   []string                  // why this node can't own at present, whole sentences
	Peers      map[string]Peer           // the other nodes, by name
	Fencing    map[uint64]evidence.Tried // what was tried against the owners of open epochs, and with which result
	HandOver   string                    // why the owner must give up at once; empty: it needn't
	Retire     string                    // why the owner should give up, while it still can serve; empty: it needn't
	Stopping   bool
	Remount    string // why the policy's volumes need another epoch than the held one; empty: they don't
	Unproven   bool   // it was tried to end the held epoch's volumes by force, and it isn't proven that they are unmounted
	Prepared   bool   // what the next turn needs beforehand has just been done
	NoMove     bool   // the held epoch could not be moved in order when it was tried: release it instead
	// What people, checks and wishes say: see steer.go.
	FreezeOver bool              // the freeze's time is over by one of this node's clocks
	Failing    []check.Result    // the checks that speak against this node, which serves
	Flapping   string            // why the limits allow no failover for checks or scripts; empty: they do
	FailBack   string            // the preferred node, which could have owned for long enough; empty: there is none
	Declined   map[string]string // nodes that could not take over when they were asked, and why
	// Backoff of this node, so that leadership doesn't wander and a failing
	// turn isn't tried again at once.
	TransferAfter clock.Instant
	TurnAfter     clock.Instant
}

// Holding is what this node has taken on and not yet finished with.
type Holding struct {
	Epoch         uint64 // 0: nothing
	Phase         Phase
	PolicyVersion uint64        // the policy the held things were made from
	Forced        bool          // PhaseLeaving: the release was a forced one
	Cause         string        // PhaseLeaving: why it was released
	Target        string        // PhaseYielding: who takes over
	FinishAt      clock.Instant // PhaseLeaving: what remains is not begun before; 0: at once
	Failed        string        // PhaseServing: the script that failed on the way there, by a policy that carries on
	Kept          bool          // PhaseServing: Failed would have been handed over, but for the limits
	Left          Predecessor
}

// Predecessor is the epoch beside which this node's was opened (StepTakeOver),
// once nothing of it can be in its owner's kernel; the zero value is none. It
// stays open in the log until its owner reports it, which may have been lost
// with its host.
type Predecessor struct {
	Epoch   uint64
	Lease   clock.Instant // what the wait counts from; no lease of Epoch came after it
	CloseAt clock.Instant // not before the wait is over
}

// Phase is how far the holder of an epoch is.
type Phase int

// The phases of an epoch on its owner.
const (
	PhaseNone      Phase = iota
	PhaseAcquiring       // some of it may be in the kernel, the hooks are not through
	PhaseServing         // all of it is up
	PhaseYielding        // PreRel has run; the addresses serve on until the next owner asks for them
	PhaseLeaving         // nothing of it is left in the kernel; hooks have still to run
)

// Peer is what is known of another node.
type Peer struct {
	Witness  bool
	Fresh    bool // it answered within the last seconds
	Eligible bool // by its own account
	Reasons  []string
	Applied  uint64 // log index up to which that account goes
}

func (p Peer) canOwn() bool { return p.Fresh && p.Eligible && !p.Witness }

// Plan is what to do next. Without steps there is nothing to do until
// something changes or Again comes.
type Plan struct {
	Steps []Step
	Why   string        // for status: why nothing is done, or what is waited for
	Again clock.Instant // decide again then at the latest; 0: at any change
}

// Step is one thing for the Executor to do.
type Step struct {
	Kind     StepKind
	Epoch    uint64
	Target   string // StepTransfer, StepOrderMove, StepYield
	Cause    string
	Evidence []*hadv1.Evidence // StepAcquire
	Soft     bool              // StepOrderMove: if it comes to nothing, the owner stays
	Checks   []string          // StepOrderMove: that fail on the owner, for which it moves
}

// StepKind names a step.
type StepKind string

// The steps a plan is made of.
const (
	StepPrepare     StepKind = "prepare"     // do ahead what the next turn needs and what changes nothing
	StepAcquire     StepKind = "acquire"     // open an epoch and take everything on
	StepReconfigure StepKind = "reconfigure" // make what is held match a new policy
	StepTakeOver    StepKind = "take-over"   // open an epoch beside that of an owner who moves to this node
	StepOrderMove   StepKind = "order-move"  // ask another node whether it is ready, and order the move to it
	StepYield       StepKind = "yield"       // PreRel, then leadership to the target, the addresses up meanwhile
	StepRelease     StepKind = "release"     // orderly: PreRel, addresses down, report
	StepForce       StepKind = "force"       // addresses gone at once, report
	StepFinish      StepKind = "finish"      // the hooks that remain after a release
	StepReportClean StepKind = "report-clean"
	StepTransfer    StepKind = "transfer" // of leadership
	StepEndMove     StepKind = "end-move"
	StepCloseLeft   StepKind = "close-left" // what a takeover left open in the log
	StepUnfreeze    StepKind = "unfreeze"   // say that a freeze's time is over
	StepHold        StepKind = "hold"       // say that the owner stays, by the policy's limits
)

// Decide says what this node should do now. It is pure, and it is the whole
// policy of ownership on a node's side; State.Apply refuses what would break
// the promise even if this were wrong.
func Decide(in Inputs) Plan {
	self := in.Instance.GetNode()
	if in.Holding.Epoch != 0 {
		return decideHolder(in)
	}
	own := ownClaim(in)
	if own != nil && own.GetEpoch() > in.Reported && in.Stuck == "" {
		// Its Acquire was committed after this node had given up on it.
		// Nobody else can close it without a wait.
		return do(Step{Kind: StepReportClean, Epoch: own.GetEpoch(), Cause: "the epoch was opened after its proposer had given up on it"})
	}
	if c := in.Earlier; c != nil && c.GetEpoch() > in.Reported && in.Stuck == "" {
		return do(Step{Kind: StepReportClean, Epoch: c.GetEpoch(), Cause: "had ended before it took anything of the epoch on"})
	}
	switch {
	case in.Leadership.Standing && preparesStanding(in):
		return do(Step{Kind: StepPrepare, Cause: causeOf(in)})
	case !in.Leadership.Leading && in.Leadership.Leader == "":
		return Plan{Why: "no leader is known: without a quorum nobody may take over"}
	case !in.Leadership.Leading:
		return Plan{Why: fmt.Sprintf("%s leads", in.Leadership.Leader)}
	case !in.Leadership.Ready:
		return Plan{Why: "this node has just been elected and reads the log"}
	case in.Stopping:
		return transferOr(in, "stopping", "this node is stopping")
	}
	if thaws(in) {
		return do(Step{Kind: StepUnfreeze, Cause: "its time is over"})
	}
	if own != nil && in.Stuck != "" {
		return transferOr(in, in.Stuck, in.Stuck)
	}
	if own != nil {
		return Plan{Why: fmt.Sprintf("this node has released epoch %d; the report is on its way into the log", own.GetEpoch())}
	}
	if why := nothingToOwn(in); why != "" {
		return Plan{Why: why}
	}
	blockers := in.Blockers
	if in.Witness {
		blockers = []string{self + " is a witness and never owns"}
	}
	if len(blockers) > 0 {
		return transferOr(in, blockers[0], nobodyCan(in, blockers))
	}
	if m := in.View.Move.GetOrder(); m != nil && m.GetTarget() != self {
		if p := in.Peers[m.GetTarget()]; p.canOwn() && !in.Now.Before(in.TransferAfter) {
			return do(Step{Kind: StepTransfer, Target: m.GetTarget(), Cause: "move"})
		}
		if until := in.ReadySince.Add(targetLimit); !in.Peers[m.GetTarget()].Fresh && in.Now.Before(until) {
			return Plan{Again: until, Why: fmt.Sprintf("%s, to which the owner moves, is being asked whether it can own", m.GetTarget())}
		}
	}
	if why := frozenOut(in); why != "" {
		if last := in.View.LastOwner; in.Peers[last].canOwn() && !in.Now.Before(in.TransferAfter) {
			return do(Step{Kind: StepTransfer, Target: last, Cause: why})
		}
		return Plan{Why: why}
	}
	if to := betterThan(in, self); to != "" && in.View.Frozen == nil && !in.Now.Before(in.TransferAfter) {
		return do(Step{Kind: StepTransfer, Target: to, Cause: "it is the better owner"})
	}
	if name := unheard(in, self); name != "" {
		return Plan{Again: in.PolicySeen.Add(hearLimit), Why: fmt.Sprintf("the policy prefers %s, which is being asked whether it can own", name)}
	}
	if c := handedToUs(in); c != nil && !in.Now.Before(in.TurnAfter) {
		return do(Step{Kind: StepTakeOver, Epoch: c.GetEpoch(), Cause: causeOf(in)})
	}
	unsafe := unsecured(in)
	if at := cluster.TakeoverAt(in.LastLease, in.View.Open); len(in.View.Open) > 0 && in.Now.Before(at) {
		c := in.View.Newest()
		if ahead := at.Add(-prepareAhead); !in.Prepared && in.Now.Before(ahead) {
			at = ahead
		} else if !in.Prepared && !in.Now.Before(in.TurnAfter) && unsafe == "" {
			return do(Step{Kind: StepPrepare, Cause: causeOf(in)})
		}
		why := fmt.Sprintf("waiting until the lease of %s (epoch %d) and the lifetime of its addresses are over; it has not said that it released them", c.GetInstance().GetNode(), c.GetEpoch())
		if unsafe != "" {
			why += "; " + unsafe
		}
		return Plan{Again: at, Why: why}
	}
	if unsafe != "" {
		return Plan{Why: unsafe}
	}
	if in.Now.Before(in.TurnAfter) {
		return Plan{Again: in.TurnAfter, Why: "the last turn failed; trying again soon"}
	}
	return do(Step{Kind: StepAcquire, Cause: causeOf(in), Evidence: waitedOut(in)})
}

// preparesStanding reports whether a candidate prepares the turn that it takes
// if it is elected: the look at the network takes as long as the election. One
// that has long to wait afterwards prepares then.
func preparesStanding(in Inputs) bool {
	self := in.Instance.GetNode()
	if in.Prepared || in.Stopping || in.Stuck != "" || in.Witness || len(in.Blockers) > 0 || in.View.Move != nil ||
		nothingToOwn(in) != "" || unsecured(in) != "" || in.Now.Before(in.TurnAfter) || frozenOut(in) != "" || betterThan(in, self) != "" {
		return false
	}
	return len(in.View.Open) == 0 || !in.Now.Add(prepareAhead).Before(cluster.TakeoverAt(in.LastLease, in.View.Open))
}

// ownClaim returns the open claim of this very instance, nil when there is
// none.
func ownClaim(in Inputs) *hadv1.Claim {
	for _, c := range in.View.Open {
		if proto.Equal(c.GetInstance(), in.Instance) {
			return c
		}
	}
	return nil
}

// unsecured says which owners of open epochs may still write to volumes, and what
// was tried about it; empty: none.
func unsecured(in Inputs) string {
	var all []string
	for _, c := range in.View.Open {
		why := cluster.WhyNotSecured(c)
		if why == "" {
			continue
		}
		if tried := in.Fencing[c.GetEpoch()].Text; tried != "" {
			why += " (" + tried + ")"
		}
		all = append(all, why)
	}
	return strings.Join(all, "; ")
}

// handedToUs returns the open claim of an owner that moves to this node; nil
// when there is none. The order says that it is willing: it serves on under
// its lease, and lets go when it is asked. One with volumes doesn't: it releases
// first.
func handedToUs(in Inputs) *hadv1.Claim {
	m := in.View.Move.GetOrder()
	if len(in.View.Open) != 1 || m.GetTarget() != in.Instance.GetNode() {
		return nil
	}
	c := in.View.Open[0]
	if c.GetEpoch() != m.GetFromEpoch() || c.GetHandedTo() != 0 || len(c.GetVolumes()) > 0 || c.GetInstance().GetNodeId() == in.Instance.GetNodeId() {
		return nil
	}
	return c
}

// decideHolder is for a node that has something of an epoch.
func decideHolder(in Inputs) Plan {
	h, self := in.Holding, in.Instance.GetNode()
	finish := Step{Kind: StepFinish, Epoch: h.Epoch, Cause: h.Cause}
	force := func(cause string) Plan {
		return do(Step{Kind: StepForce, Epoch: h.Epoch, Cause: cause}, Step{Kind: StepFinish, Epoch: h.Epoch, Cause: cause})
	}
	release := func(cause string, then ...Step) Plan {
		steps := append([]Step{{Kind: StepRelease, Epoch: h.Epoch, Cause: cause}}, then...)
		return do(append(steps, Step{Kind: StepFinish, Epoch: h.Epoch, Cause: cause})...)
	}
	endOfLease := in.LeaseUntil.Add(-in.Margin)
	grace := time.Duration(in.View.Claim(h.Epoch).GetTerms().GetReleaseGraceNs())
	giveUp := force
	if grace > 0 {
		// There is time to stop services in order, though others wait for it.
		giveUp = func(cause string) Plan { return release(cause) }
	}
	switch {
	case h.Phase == PhaseLeaving && in.Now.Before(h.FinishAt):
		return Plan{Again: h.FinishAt, Why: fmt.Sprintf("%s takes over; the release is finished when it has", h.Target)}
	case h.Phase == PhaseLeaving:
		return do(finish)
	case in.LeaseEpoch != h.Epoch || !in.Now.Before(endOfLease.Add(grace)):
		p := force(whyLeaseEnded(in))
		if in.Unproven && in.Leadership.Leading && !in.Now.Before(in.TransferAfter) {
			// While this node leads, nobody may say that it is off: another must
			// lead to find the evidence that it can't give.
			p.Steps = append(transferTo(in, "it isn't proven here that the volumes are unmounted"), p.Steps...)
		}
		return p
	case in.View.Claim(h.Epoch) == nil:
		return force("the epoch was closed in the log")
	case in.View.Claim(h.Epoch).GetSecured() != nil:
		return force("the log gives its volumes to the next owner: " + whoSecured(in.View.Claim(h.Epoch).GetSecured()))
	case in.InGrace || !in.Now.Before(endOfLease):
		return giveUp(whyLeaseEnded(in))
	case h.Phase == PhaseYielding && (!in.Leadership.Leading || !in.Leadership.Ready) && (in.Leadership.Leader == "" || in.Leadership.Leader == h.Target):
		return Plan{Again: endOfLease, Why: fmt.Sprintf("%s takes over; serving until it asks for the addresses", h.Target)}
	case !in.Leadership.Leading && in.Leadership.Leader != "" && in.Leadership.Leader != self:
		return giveUp(fmt.Sprintf("%s leads now", in.Leadership.Leader))
	case !in.Leadership.Ready:
		return Plan{Again: endOfLease, Why: "leadership is in doubt; serving until the lease ends"}
	case h.Phase == PhaseAcquiring:
		return release("the turn failed", transferTo(in, "the turn failed")...)
	case h.Phase == PhaseYielding:
		return release("leadership could not be handed to "+h.Target, endMove(in, "leadership could not be handed to "+h.Target)...)
	case in.HandOver != "" && in.View.Frozen == nil:
		return release(in.HandOver, transferTo(in, in.HandOver)...)
	}
	if why := retiring(in); why != "" && in.View.Move == nil {
		if best := candidates(in); len(best) > 0 && !in.NoMove && (in.View.Frozen == nil || !in.Stopping) {
			return do(Step{Kind: StepOrderMove, Epoch: h.Epoch, Target: best[0], Cause: why})
		}
		return release(why, transferTo(in, why)...)
	}
	if plan, ok := steered(in); ok {
		return plan
	}
	if m := in.View.Move.GetOrder(); m != nil {
		if m.GetTarget() == self {
			return do(Step{Kind: StepEndMove, Cause: self + " owns already"})
		}
		// The target was asked whether it is ready before the order was given,
		// and the order itself forgives its failed turns: what it said of
		// itself before it knew the order doesn't count.
		p := in.Peers[m.GetTarget()]
		if !p.Fresh || p.Witness || !p.Eligible && p.Applied >= in.View.Move.GetIndex() {
			return do(Step{Kind: StepEndMove, Cause: fmt.Sprintf("%s can't take over any more: %s", m.GetTarget(), reasonOf(p))})
		}
		cause := "moved to " + m.GetTarget()
		if len(in.View.Claim(h.Epoch).GetVolumes()) > 0 {
			return release(cause, Step{Kind: StepTransfer, Target: m.GetTarget(), Cause: cause})
		}
		return do(Step{Kind: StepYield, Epoch: h.Epoch, Target: m.GetTarget(), Cause: cause})
	}
	if v := in.View.Policy.GetVersion(); v != h.PolicyVersion && in.Policy != nil {
		switch {
		case ownsNothing(in.Policy):
			return release("the policy names no address any more")
		case in.Remount != "":
			return release(fmt.Sprintf("policy version %d has other volumes: %s", v, in.Remount))
		}
		return do(Step{Kind: StepReconfigure, Epoch: h.Epoch, Cause: fmt.Sprintf("policy version %d", v)})
	}
	if l := h.Left; in.View.Claim(l.Epoch) != nil {
		if in.Now.Before(l.CloseAt) {
			return Plan{Why: "serving", Again: l.CloseAt}
		}
		return do(Step{Kind: StepCloseLeft, Epoch: l.Epoch, Cause: "its owner never reported it"})
	}
	return Plan{Why: "serving"}
}

// whyLeaseEnded says why a lease wasn't renewed in time.
func whyLeaseEnded(in Inputs) string {
	h := in.Holding
	switch {
	case h.Phase == PhaseYielding:
		return fmt.Sprintf("%s; %s did not ask for the addresses before the lease ended", h.Cause, h.Target)
	case in.LeaseLost != "":
		return "the lease was given up: " + in.LeaseLost
	}
	return "the lease ended: no quorum confirmed it in time"
}

// retiring says why an owner that can still serve should give up; empty: it
// need not.
func retiring(in Inputs) string {
	if in.Stopping {
		return "had is stopping"
	}
	return in.Retire
}

// endMove is the step that ends the move under way, if there is one.
func endMove(in Inputs, why string) []Step {
	if in.View.Move == nil {
		return nil
	}
	return []Step{{Kind: StepEndMove, Cause: why}}
}

func do(steps ...Step) Plan { return Plan{Steps: steps} }

// transferOr hands leadership on if somebody else could own; otherwise it
// says why nothing happens.
func transferOr(in Inputs, cause, otherwise string) Plan {
	steps := transferTo(in, cause)
	switch {
	case len(steps) == 0:
		return Plan{Why: otherwise}
	case in.Now.Before(in.TransferAfter):
		return Plan{Why: otherwise, Again: in.TransferAfter}
	}
	return do(steps...)
}

// transferTo is the step that hands leadership to the best other node; none
// when no other node could own.
func transferTo(in Inputs, cause string) []Step {
	best := candidates(in)
	if len(best) == 0 {
		return nil
	}
	return []Step{{Kind: StepTransfer, Target: best[0], Cause: cause}}
}

// whoSecured says on whose word the volumes of an epoch count as safe.
func whoSecured(s *hadv1.Secured) string {
	switch s.GetKind() {
	case hadv1.Secured_KIND_GUARD:
		return "this node's own guard says that it has ended the epoch"
	case hadv1.Secured_KIND_CONFIRMED:
		return s.GetBy() + " has confirmed that this node is off"
	case hadv1.Secured_KIND_UNSPECIFIED, hadv1.Secured_KIND_FENCED, hadv1.Secured_KIND_WATCHDOG,
		hadv1.Secured_KIND_RESERVED, hadv1.Secured_KIND_LEASE:
	}
	return s.GetBy() + " says that this node can't write to them any more"
}

// waitedOut closes every open epoch by the wait that has just passed.
func waitedOut(in Inputs) []*hadv1.Evidence {
	var out []*hadv1.Evidence
	for _, c := range in.View.Open {
		out = append(out, &hadv1.Evidence{
			Epoch: c.GetEpoch(), Kind: hadv1.Evidence_KIND_WAITED,
			LeaseIndex: c.GetLastLeaseIndex(), WaitedNs: int64(in.Now.Sub(in.LastLease)),
		})
	}
	return out
}

// tested reports that this turn completes a move for which this node has
// just run its Test scripts and probed the network: once is enough.
func (in Inputs) tested() bool {
	return in.View.Move.GetOrder().GetTarget() == in.Instance.GetNode() && len(in.View.Open) == 0
}

// causeOf says why the owner changes, for the history.
func causeOf(in Inputs) string {
	self := in.Instance.GetNode()
	m := in.View.Move.GetOrder()
	switch {
	case m != nil && m.GetTarget() == self && len(m.GetChecks()) > 0:
		return fmt.Sprintf("%s: %s", in.View.LastOwner, m.GetReason())
	case m != nil && m.GetTarget() == self && m.GetReason() != "":
		return fmt.Sprintf("moved by %s: %s", m.GetBy(), m.GetReason())
	case m != nil && m.GetTarget() == self:
		return "moved by " + m.GetBy()
	case in.View.LastEpoch == 0:
		return "the first owner"
	case len(in.View.Open) > 0:
		return fmt.Sprintf("%s fell silent", in.View.Newest().GetInstance().GetNode())
	case in.View.LastOwner == self:
		return "nobody owned; this node was the last that did"
	}
	return in.View.LastOwner + " released"
}
