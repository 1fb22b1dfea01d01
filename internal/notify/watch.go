package notify

import (
	"context"
	"fmt"
	"time"

	"had/internal/clock"
	hadv1 "had/proto/had/v1"
)

const (
	watchEvery = 2 * time.Second
	// silentAfter is how long a node doesn't answer before people are told, and
	// backAfter how long it answers before they are told that.
	silentAfter = 30 * time.Second
	backAfter   = 10 * time.Second
	// waitAfter is how long volumes are waited for before people are told;
	// personAfter where nothing but a person ends it.
	waitAfter   = 30 * time.Second
	personAfter = 5 * time.Second
	// toldFor is how long a report may take to come back in the history before
	// it is made again.
	toldFor = time.Minute
)

// watcher sees what no event of the history tells, and has it put there.
type watcher struct {
	n        *Notifier
	story    *story
	silent   map[string]time.Time // since when a node doesn't answer, as this leader sees it
	answers  map[string]time.Time
	waiting  map[uint64]time.Time
	amiss    map[matter]time.Time // since when, as this leader sees it
	placed   map[matter]time.Time // tokens that were amiss
	reported map[string]time.Time
}

// watch looks until ctx ends.
func (n *Notifier) watch(ctx context.Context, s *story) {
	w := &watcher{
		n: n, story: s, silent: map[string]time.Time{}, answers: map[string]time.Time{},
		waiting: map[uint64]time.Time{}, placed: map[matter]time.Time{}, reported: map[string]time.Time{},
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(clock.UntilBeat(watchEvery)):
			w.nodes(ctx)
			w.volumes(ctx)
			w.kept(ctx)
			w.certificates(ctx)
		}
	}
}

func (w *watcher) nodes(ctx context.Context) {
	now := time.Now()
	for node, silent := range w.n.cfg.Silent() {
		since, other := w.silent, w.answers
		if !silent {
			since, other = other, since
		}
		delete(other, node)
		if since[node].IsZero() {
			since[node] = now
		}
		told, _ := w.story.told(node, 0)
		switch {
		case silent && !told && now.Sub(since[node]) >= silentAfter:
			w.report(ctx, "silent "+node, &hadv1.Notice{
				Kind: hadv1.Notice_KIND_SILENT, Node: node, Since: protoTime(since[node]),
				Detail: "If it is not meant to be off, look at it before another node fails.",
			})
		case !silent && told && now.Sub(since[node]) >= backAfter:
			w.report(ctx, "back "+node, &hadv1.Notice{Kind: hadv1.Notice_KIND_BACK, Node: node, Since: protoTime(since[node])})
		}
	}
}

func (w *watcher) volumes(ctx context.Context) {
	now := time.Now()
	waiting := map[uint64]time.Time{}
	for _, at := range w.n.cfg.Waiting() {
		since := w.waiting[at.Epoch]
		if since.IsZero() {
			since = now
		}
		waiting[at.Epoch] = since
		patience := waitAfter
		if at.Person {
			patience = personAfter
		}
		if _, told := w.story.told("", at.Epoch); !told && now.Sub(since) >= patience {
			w.report(ctx, fmt.Sprintf("waiting %d", at.Epoch), &hadv1.Notice{
				Kind: hadv1.Notice_KIND_WAITING, Node: at.Node, Epoch: at.Epoch, Since: protoTime(since), Detail: line(at.Detail, maxText/2),
			})
		}
	}
	w.waiting = waiting
}

// report makes a report once; one that got lost is made again.
func (w *watcher) report(ctx context.Context, key string, r *hadv1.Notice) {
	if last, ok := w.reported[key]; ok && time.Since(last) < toldFor {
		return
	}
	w.reported[key] = time.Now()
	if err := w.n.cfg.Report(ctx, r); err != nil && ctx.Err() == nil {
		w.n.cfg.Logger.Warn("what people are to be told could not be reported", "about", r.GetNode(), "error", err)
	}
}
