package reconnect

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"had/cluster"
	"had/internal/policy"
	"had/internal/token"
	hadv1 "had/proto/had/v1"
)

// Log is the replicated log as this node sees it. cluster.Node is one.
type Log interface {
	View() (cluster.View, <-chan struct{})
	Propose(ctx context.Context, cmd *hadv1.Command) (cluster.Verdict, error)
}

// Place is what a look at a location found that isn't replicated.
type Place struct {
	Shared string   // which place it is on, to be compared between nodes; empty: none that is shared
	Wrong  []string // whole sentences
	Absent bool     // there is no file
}

// Config is what a Keeper needs.
type Config struct {
	Cluster  string // its name
	Instance *hadv1.Instance
	Witness  bool   // keeps nothing
	KeyFile  string // of the key that seals contents
	Log      Log
	Policy   func() (*policy.Policy, error) // in force; nil: none yet
	// Look looks at locations that aren't replicated, which may hang on a server
	// that doesn't answer; it returns when ctx ends all the same.
	Look   func(ctx context.Context, tokens []policy.Token, volumes []policy.Volume) ([]Place, error)
	Reload func(ctx context.Context, argv []string) error // runs a policy's reload
	Logger hclog.Logger
}

// Keeper keeps the tokens of one node. Its files are written by one goroutine at
// a time.
type Keeper struct {
	cfg     Config
	watcher *token.Watcher // nil: the kernel gives none, and changes are found by looking
	wake    chan struct{}  // capacity 1

	files  sync.Mutex        // held while files are compared and written
	placed map[string]uint64 // by token: the version that is in place for certain

	mu       sync.Mutex
	hold     hold
	changing map[string]string // by token: why it could not be kept; whole sentences
	reloads  map[string]string // by token: why its service doesn't know of the latest content
	looked   map[string]Place  // by token
	known    map[string]uint64 // placed, for those who can't wait for files
}

// hold is what the held epoch uses. Its context ends with the lease.
type hold struct {
	ctx    context.Context
	epoch  uint64
	tokens []policy.Token
}

// owns reports whether a service on this host may change a token.
func (h hold) owns(name string) bool {
	return h.ctx != nil && h.ctx.Err() == nil && slices.ContainsFunc(h.tokens, func(t policy.Token) bool { return t.Name == name })
}

// New returns a keeper. Run makes it work.
func New(cfg Config) *Keeper {
	k := &Keeper{
		cfg: cfg, wake: make(chan struct{}, 1), placed: map[string]uint64{},
		changing: map[string]string{}, reloads: map[string]string{}, looked: map[string]Place{}, known: map[string]uint64{},
	}
	w, err := token.NewWatcher()
	if err != nil {
		cfg.Logger.Warn("changes of tokens are found by looking every few seconds", "error", err)
		return k
	}
	k.watcher = w
	return k
}

const (
	// rescan is how often files are looked at that nothing was said about.
	rescan = 5 * time.Second
	// again is how soon a change is tried again that the log didn't take.
	again = 500 * time.Millisecond
	// lookEvery and lookLimit are for places that aren't replicated.
	lookEvery, lookLimit = 20 * time.Second, 15 * time.Second
)

// endWait is how long a look at files may take to end. After that it hangs in the
// kernel, and its goroutine is left alone: the daemon must be able to end.
const endWait = time.Second

// Run keeps files and log the same until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	if k.cfg.Witness {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	if k.watcher != nil {
		g.Go(func() error { return k.watcher.Run(ctx) })
	}
	g.Go(func() error {
		ended := make(chan struct{})
		go func() { defer close(ended); k.follow(ctx) }()
		<-ctx.Done()
		timer := time.NewTimer(endWait)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
			k.cfg.Logger.Warn("a reconnect token's folder or key hangs in the kernel: its disk or server doesn't answer")
		}
		return nil
	})
	g.Go(func() error { k.lookAround(ctx); return nil })
	return g.Wait()
}

// follow compares files and log whenever one of them may have changed.
func (k *Keeper) follow(ctx context.Context) {
	var files <-chan struct{}
	if k.watcher != nil {
		files = k.watcher.Changed()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen basis
	for {
		view, changed := k.cfg.Log.View()
		due := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			due = true
		case <-files:
			due = true
		case <-k.wake:
			due = true
		case <-changed:
			view, _ = k.cfg.Log.View()
		}
		if now := basisOf(view); !due && seen.same(now) {
			continue // a lease was renewed
		}
		seen = basisOf(view)
		pause := rescan
		if err := k.compare(ctx); err != nil && ctx.Err() == nil {
			k.cfg.Logger.Warn("reconnect tokens are not as the log has them", "error", err)
			pause = again
		}
		timer.Reset(pause)
	}
}

// basis is what of the log a comparison depends on.
type basis struct {
	policy uint64
	tokens []uint64 // log indexes
}

func basisOf(v cluster.View) basis {
	b := basis{policy: v.Policy.GetVersion()}
	for _, t := range v.Tokens {
		b.tokens = append(b.tokens, t.GetCurrent().GetIndex())
	}
	return b
}

func (b basis) same(o basis) bool { return b.policy == o.policy && slices.Equal(b.tokens, o.tokens) }

// compare makes every replicated token of the policy in force as the log has
// it, or the log as a service of this owner has it.
func (k *Keeper) compare(ctx context.Context) error {
	p, _ := k.cfg.Policy()
	if p == nil { // none yet, or none that this version reads: that is said elsewhere
		return nil
	}
	k.files.Lock()
	h := k.held()
	var errs []error
	var stale []policy.Token // whose services don't know what is in place now
	for _, t := range replicated(p) {
		put, err := k.keep(ctx, t, h)
		errs = append(errs, err)
		if put && h.owns(t.Name) && len(t.Reload) > 0 {
			stale = append(stale, t)
		}
	}
	k.files.Unlock()
	for _, t := range stale {
		k.reload(ctx, t)
	}
	return errors.Join(errs...)
}

// Place puts the tokens of a policy in place for an epoch that has just been
// opened, and from then on takes what its services change. leased ends when the
// epoch may not be held any more. What is there already counts for nothing, for
// it may be of an earlier epoch of this host; only a token the log knows nothing
// of yet is taken from its file.
func (k *Keeper) Place(ctx, leased context.Context, epoch uint64, p *policy.Policy) error {
	k.files.Lock()
	defer k.files.Unlock()
	h := hold{ctx: leased, epoch: epoch, tokens: replicated(p)}
	k.mu.Lock()
	// What was held before, by this epoch under another policy or by an earlier
	// one, ends here, and nothing counts as this epoch's until it is in place.
	again := k.hold.epoch == epoch
	k.hold = hold{}
	k.mu.Unlock()
	var errs []error
	for _, t := range h.tokens {
		if !again {
			delete(k.placed, t.Name)
		}
		if err := k.begin(ctx, t, h); err != nil {
			errs = append(errs, fmt.Errorf("reconnect token %q: %w", t.Name, err))
		}
	}
	errs = append(errs, k.render(p))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	k.mu.Lock()
	k.hold = h
	k.mu.Unlock()
	k.poke()
	return nil
}

// begin puts one token in place for an epoch; one that nobody has set yet is
// what its service has made, or random.
func (k *Keeper) begin(ctx context.Context, t policy.Token, h hold) error {
	view, _ := k.cfg.Log.View()
	if view.Token(t.Name) == nil && t.Bytes > 0 {
		if content, err := fileOf(t).Read(); errors.Is(err, token.ErrAbsent) {
			if content, err = token.Random(t.Bytes); err != nil {
				return err
			}
			defer clear(content)
			if err := k.submit(ctx, t, h, 0, content, "drawn by its first owner"); err != nil {
				return err
			}
		} else {
			clear(content)
		}
	}
	_, err := k.keep(ctx, t, h)
	return err
}

// Flush takes what services have changed and nobody has noticed yet, before the
// epoch is given up.
func (k *Keeper) Flush(ctx context.Context, epoch uint64) error {
	k.files.Lock()
	defer k.files.Unlock()
	h := k.held()
	if h.epoch != epoch {
		return nil
	}
	var errs []error
	for _, t := range h.tokens {
		if _, err := k.keep(ctx, t, h); err != nil {
			errs = append(errs, fmt.Errorf("reconnect token %q: %w", t.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Keeper) held() hold {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hold
}

func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// replicated are the tokens of a policy whose content is in the log.
func replicated(p *policy.Policy) []policy.Token {
	return slices.DeleteFunc(slices.Clone(p.Tokens), func(t policy.Token) bool { return !t.Replicate })
}

func fileOf(t policy.Token) token.File {
	return token.File{Path: t.Location, Owner: t.Owner, Mode: t.Mode}
}

// watch has the kernel tell of changes of a token's file.
func (k *Keeper) watch(t policy.Token) {
	if k.watcher == nil {
		return
	}
	if err := k.watcher.Watch(filepath.Dir(t.Location)); err != nil {
		k.cfg.Logger.Debug("changes of a token are found by looking", "token", t.Name, "error", err)
	}
}
