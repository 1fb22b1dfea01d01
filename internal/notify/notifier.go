package notify

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Log is the replicated log as this node sees it. cluster.Node is one.
type Log interface {
	history
	Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error)
	Leadership() cluster.Leadership
	LeadershipChanged() <-chan struct{}
}

// Config is what a Notifier needs.
type Config struct {
	Cluster string
	Self    *hadv1.Instance
	Log     Log
	Policy  func() (*policy.Policy, error) // in force; nil when there is none
	// Record has a command committed through whoever leads. A
	// *cluster.RefusedError says that the log has it otherwise.
	Record func(ctx context.Context, cmd *hadv1.Command) error
	Report func(ctx context.Context, r *hadv1.Notice) error // durably, into the log when it can be reached
	// The rest is asked while this node leads.
	Silent  func() map[string]bool         // members, and whether they don't answer
	Waiting func() []Waiting               // epochs whose volumes are waited for
	Runs    func(*hadv1.Instance) Presence // whether a run of had still goes on
	// Troubles are those of each node that answers; one that is well has none.
	Troubles func() map[string][]Trouble
	// Certificates are those in use on each node that answers.
	Certificates func() map[string][]*hadv1.Certificate
	Logger       hclog.Logger
}

// Waiting is an open epoch whose volumes nobody may mount yet.
type Waiting struct {
	Epoch  uint64
	Node   string // its owner
	Person bool   // nothing that had does by itself ends the wait
	Detail string // what is missing, whole sentences
}

// Presence is what is known of another run of had.
type Presence int

// What may be known of a run.
const (
	Unknown Presence = iota // it was not asked yet
	Gone                    // it doesn't answer, or another run does
	There                   // it answers
)

// Notifier tells what happens, while this node leads; and that this node is cut
// off, while it is. It is safe for concurrent use.
type Notifier struct {
	cfg       Config
	transport func(policy.Channel) transport

	mu       sync.Mutex
	story    *story            // nil while another leads
	boards   map[string]*board // by channel
	problems []string          // what would keep this node from sending
}

// board is what this node knows of a channel beyond the log.
type board struct {
	claim    uint64 // log index of the message that the rest is about; 0: none
	done     bool   // its fate is known, and isn't in the log yet
	outcome  hadv1.NotifyMark_Outcome
	why      string
	attempts int       // in vain
	unsure   bool      // one of them may have arrived
	failed   error     // the latest
	next     time.Time // try
	note     string    // what was wrong with a message that was taken
}

// New returns a notifier; nothing happens before Run.
func New(cfg Config) *Notifier {
	return &Notifier{cfg: cfg, transport: newTransport, boards: map[string]*board{}}
}

// checkEvery is how often a node looks whether it could send.
const checkEvery = 30 * time.Second

// Run works until life ends. Once stopping is done, no message is begun any more.
func (n *Notifier) Run(life, stopping context.Context) error {
	var g errgroup.Group
	g.Go(func() error { n.leadAgain(life, stopping); return nil })
	g.Go(func() error { n.watchQuorum(life, stopping); return nil })
	g.Go(func() error { n.watchFiles(life); return nil })
	return g.Wait()
}

// leadAgain sends while this node leads.
func (n *Notifier) leadAgain(life, stopping context.Context) {
	for life.Err() == nil && stopping.Err() == nil {
		leadership := n.cfg.Log.LeadershipChanged()
		_, changed := n.cfg.Log.View()
		l := n.cfg.Log.Leadership()
		p, err := n.cfg.Policy()
		if err == nil && p != nil && l.Ready {
			n.lead(life, stopping, l.Term, p)
			continue
		}
		select {
		case <-life.Done():
		case <-stopping.Done():
		case <-leadership:
		case <-changed:
		}
	}
}

// lead sends in one term, by one policy. What is being sent when that ends is
// still sent and settled, for no other node knows how far it has come.
func (n *Notifier) lead(life, stopping context.Context, term uint64, p *policy.Policy) {
	ctx, end := context.WithCancel(life)
	defer end()
	defer context.AfterFunc(stopping, end)()
	s := newStory()
	s.read(n.cfg.Log)
	n.setStory(s)
	defer n.setStory(nil)
	n.closeOthers(ctx, term, p)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { n.watch(ctx, s) })
	for _, c := range p.Channels {
		sender := &sender{n: n, channel: c, id: c.ID(), transport: n.transport(c), story: s, term: term}
		wg.Go(func() { sender.run(ctx, life) })
	}
	for ctx.Err() == nil {
		leadership := n.cfg.Log.LeadershipChanged()
		_, changed := n.cfg.Log.View()
		l := n.cfg.Log.Leadership()
		if now, err := n.cfg.Policy(); !l.Ready || l.Term != term || err != nil || now != p {
			end()
			break
		}
		select {
		case <-ctx.Done():
		case <-leadership:
		case <-changed:
		}
	}
}

// closeOthers forgets the channels that the policy no longer names: should one
// come back, it begins anew.
func (n *Notifier) closeOthers(ctx context.Context, term uint64, p *policy.Policy) {
	view, _ := n.cfg.Log.View()
	for _, c := range view.Notify {
		if slices.ContainsFunc(p.Channels, func(named policy.Channel) bool { return named.ID() == c.GetChannel() }) {
			continue
		}
		_, err := n.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_NotifyMark{NotifyMark: &hadv1.NotifyMark{
			Channel: c.GetChannel(), Outcome: hadv1.NotifyMark_OUTCOME_CLOSED, By: n.cfg.Self.GetNode(), Term: term,
		}}})
		if err != nil && ctx.Err() == nil {
			n.cfg.Logger.Debug("a channel that is gone could not be closed; the next leader tries again", "channel", c.GetChannel(), "error", err)
		}
	}
}

func (n *Notifier) setStory(s *story) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.story = s
}

// onBoard changes or reads what is known of a channel.
func (n *Notifier) onBoard(id string, f func(b *board)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.boards[id]
	if b == nil {
		b = new(board)
		n.boards[id] = b
	}
	f(b)
}

// watchFiles looks now and then whether this node could send what it would have
// to as a leader.
func (n *Notifier) watchFiles(life context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		n.checkFiles()
		select {
		case <-life.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Notifier) checkFiles() {
	p, err := n.cfg.Policy()
	if err != nil || p == nil {
		return
	}
	var problems []string
	for _, c := range p.Channels {
		if err := n.transport(c).check(); err != nil {
			problems = append(problems, "notify "+c.ID()+": if this node leads it can't send: "+oneLine(err))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problems = problems
}

// Problems are what would keep this node from sending if it led, whole sentences.
func (n *Notifier) Problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.problems
}

// refusedByLog reports whether an error says that the log has it otherwise.
func refusedByLog(err error) bool {
	var refused *cluster.RefusedError
	return errors.As(err, &refused)
}

// oneLine is an error in a bounded line.
func oneLine(err error) string { return line(err.Error(), 300) }

// sleep waits until ctx ends, or d has passed.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
