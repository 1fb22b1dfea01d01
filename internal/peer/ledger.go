package peer

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// strangers is the name under which refusals of non-members are kept.
const strangers = "a stranger"

// direction says who refuses whom.
type direction int

const (
	weRefuse direction = iota
	refusesUs
)

type ledgerKey struct {
	peer string
	by   direction
}

type ledgerEntry struct {
	refusal
	from net.Addr
	at   time.Time
}

type loggedKey struct {
	ledgerKey
	code code
}

// ledger keeps the latest refusal of each member in each direction, logs them
// at a bounded rate, and notices when this node has been ruled out.
//
// Keys are member names and the one for strangers, so it is bounded.
type ledger struct {
	log     Logger
	members func() int // of the cluster, with this node
	fatal   chan error
	ended   func(by, sentence string) error // makes it durable that the cluster has gone on without this node

	mu      sync.Mutex
	entries map[ledgerKey]ledgerEntry
	logged  map[loggedKey]time.Time
	told    bool // fatal was sent
}

func newLedger(log Logger, members func() int, ended func(by, sentence string) error) *ledger {
	return &ledger{
		log: log, members: members, ended: ended, fatal: make(chan error, 1),
		entries: make(map[ledgerKey]ledgerEntry),
		logged:  make(map[loggedKey]time.Time),
	}
}

// logEvery is how often the same refusal is logged.
const logEvery = time.Minute

// note files a refusal and logs it when it is new, when its reason has
// changed, and then once a minute.
func (l *ledger) note(peer string, by direction, r *refusal, from net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	k := ledgerKey{peer, by}
	l.entries[k] = ledgerEntry{refusal: *r, from: from, at: now}
	if l.due(loggedKey{k, r.Code}, now) {
		l.log.Warn(headline(k), "reason", r.Sentence, "from", from.String())
	}
	if err := l.ruledOut(); err != nil && !l.told {
		l.told = true
		l.fatal <- err
	}
}

// strangerShown is how long a stranger's latest try is worth a sentence: a node that
// waits to be added tries again every second.
const strangerShown = 10 * time.Second

// joined forgets what this node and others said while it belonged to no cluster.
func (l *ledger) joined() {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.entries, func(_ ledgerKey, e ledgerEntry) bool { return !e.ForGood })
}

// leftBehind returns an error when a member of a later generation has been met:
// its word alone is enough, for what is left of this generation may still be a
// quorum of it.
func (l *ledger) leftBehind() error {
	for k, e := range l.entries {
		if k.by == refusesUs && e.Code == codeFormer || k.by == weRefuse && e.Code == codeLater {
			err := &RefusedError{Peer: k.peer, Sentence: e.Sentence, ForGood: true}
			return errors.Join(err, l.ended(k.peer, e.Sentence))
		}
	}
	return nil
}

// due reports whether k may be logged again, and counts it as logged.
func (l *ledger) due(k loggedKey, now time.Time) bool {
	if last, ok := l.logged[k]; ok && now.Sub(last) < logEvery {
		return false
	}
	l.logged[k] = now
	return true
}

// garbage logs, once a minute, a connection that never got to a preamble.
func (l *ledger) garbage(from net.Addr, err error) {
	if err == errRefused { //nolint:errorlint // our own value, never wrapped: it has been noted already
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due(loggedKey{ledgerKey{peer: strangers}, "garbage"}, time.Now()) {
		l.log.Warn("closed a connection that brought no valid preamble", "from", from.String(), "error", err)
	}
}

// turnedAway logs, once a minute, an operator who wasn't let in. It isn't filed:
// a person's mistake is no problem of the cluster's.
func (l *ledger) turnedAway(r *refusal, from net.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due(loggedKey{ledgerKey{peer: strangers}, r.Code}, time.Now()) {
		l.log.Warn("an operator was not let in", "reason", r.Sentence, "from", from.String())
	}
}

// clear forgets the refusal: the other side has just been accepted.
func (l *ledger) clear(peer string, by direction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := ledgerKey{peer, by}
	if _, ok := l.entries[k]; !ok {
		return
	}
	delete(l.entries, k)
	for lk := range l.logged {
		if lk.ledgerKey == k {
			delete(l.logged, lk) // if it comes back, that is news
		}
	}
	l.log.Info("no longer: "+headline(k), "node", peer)
}

func headline(k ledgerKey) string {
	if k.by == refusesUs {
		return k.peer + " refuses this node"
	}
	return "this node refuses " + k.peer
}

// hopeless returns an error when waiting to be born is pointless. Before this
// node is bound to a certificate one refusal for good is enough, since a birth
// takes all members; a bound node goes on while a quorum might be born.
func (l *ledger) hopeless(now phase) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now == gathering {
		if r := l.forGood(); len(r) > 0 {
			return r[0]
		}
		return nil
	}
	return l.ruledOut()
}

// ruledOut returns an error when the members that don't refuse this node for
// good are, with it, fewer than a quorum.
func (l *ledger) ruledOut() error {
	if err := l.leftBehind(); err != nil {
		return err
	}
	r := l.forGood()
	members := l.members()
	if quorum := members/2 + 1; members-len(r) >= quorum {
		return nil
	}
	return r[0]
}

// forGood returns the refusals for good of this node, by member name.
func (l *ledger) forGood() []*RefusedError {
	var out []*RefusedError
	for k, e := range l.entries {
		if k.by == refusesUs && e.ForGood {
			out = append(out, &RefusedError{Peer: k.peer, Sentence: e.Sentence, ForGood: true})
		}
	}
	slices.SortFunc(out, func(a, b *RefusedError) int { return strings.Compare(a.Peer, b.Peer) })
	return out
}

func (l *ledger) sentences(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for k, e := range l.entries {
		if k.peer == strangers && now.Sub(e.at) > strangerShown {
			continue // it has given up, or been added
		}
		out = append(out, fmt.Sprintf("%s (%s ago, %s): %s", headline(k), now.Sub(e.at).Round(time.Second), e.from, e.Sentence))
	}
	slices.Sort(out)
	return out
}
