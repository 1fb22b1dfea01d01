package notify

import (
	"context"
	"time"

	hadv1 "had/proto/had/v1"
)

// Trouble is what a node can't keep as it should be: a sync that failed again
// and again, or a token that isn't in place.
type Trouble struct {
	Kind   hadv1.Notice_Kind // KIND_SYNC_FAILS or KIND_TOKEN_AMISS
	Name   string            // of the sync or token
	Detail string            // why
}

// syncPatience is how long a sync fails before people are told, and tokenPatience
// how long a token isn't in place: a change of one is under way for a moment.
const (
	syncPatience  = 5 * time.Minute
	tokenPatience = 30 * time.Second
)

// kept reports what stays amiss of the nodes' syncs and tokens, and which tokens
// are in place again. Of a node that doesn't answer nothing is known.
func (w *watcher) kept(ctx context.Context) {
	now := time.Now()
	amiss := map[matter]time.Time{}
	for node, all := range w.n.cfg.Troubles() {
		found := map[matter]bool{}
		for _, t := range all {
			key := matterOf(t.Kind, t.Name, node)
			found[key] = true
			since := w.amiss[key]
			if since.IsZero() {
				since = now
			}
			amiss[key] = since
			patience := tokenPatience
			if t.Kind == hadv1.Notice_KIND_SYNC_FAILS {
				patience = syncPatience
			}
			if now.Sub(since) >= patience && !w.story.toldOf(key) {
				w.report(ctx, "amiss "+key.String(), &hadv1.Notice{Kind: t.Kind, Node: node, Name: t.Name, Since: protoTime(since), Detail: line(t.Detail, maxText/2)})
			}
		}
		for _, key := range w.story.tokensAmiss(node) {
			if found[key] {
				delete(w.placed, key)
				continue
			}
			if w.placed[key].IsZero() {
				w.placed[key] = now
			}
			if now.Sub(w.placed[key]) >= backAfter {
				w.report(ctx, "placed "+key.String(), &hadv1.Notice{Kind: hadv1.Notice_KIND_TOKEN_PLACED, Node: node, Name: key.name, Since: protoTime(w.placed[key])})
			}
		}
	}
	w.amiss = amiss
}
