package reconnect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"had/internal/policy"
	"had/internal/token"
	hadv1 "had/proto/had/v1"
)

// Trouble says why this node could not put a policy's tokens in place: then it
// must not own. A location that isn't replicated is no such reason: without its
// token, clients connect anew, and without an owner they can't.
func (k *Keeper) Trouble(p *policy.Policy) (out []string) {
	tokens := replicated(p)
	add := func(name string, err error) {
		if err != nil {
			out = append(out, fmt.Sprintf("reconnect token %q: %v", name, err))
		}
	}
	if len(tokens) > 0 {
		key, err := k.key()
		if err != nil {
			return []string{err.Error()}
		}
		view, _ := k.cfg.Log.View()
		for _, t := range tokens {
			if c := view.Token(t.Name).GetCurrent(); c != nil && c.GetKeyId() != key.ID() {
				add(t.Name, fmt.Errorf("it was %w (%s) than this node has (%s): copy the key's file from a node that has the other", token.ErrOtherKey, c.GetKeyId(), key.ID()))
				continue
			}
			add(t.Name, fileOf(t).Check())
		}
	}
	for _, t := range p.Tokens {
		if t.Template == "" || onVolume(t.Template, p.Volumes) {
			continue
		}
		if _, err := os.Stat(t.Template); err != nil {
			add(t.Name, fmt.Errorf("its template can't be read: %w", err))
		}
	}
	return out
}

func onVolume(path string, volumes []policy.Volume) bool {
	return slices.ContainsFunc(volumes, func(v policy.Volume) bool { return strings.HasPrefix(path, v.Path+"/") })
}

// Health is what this node has of a policy's tokens, and what a person should
// know of it; nil without tokens.
func (k *Keeper) Health(p *policy.Policy) (*hadv1.TokenHealth, []string) {
	if len(p.Tokens) == 0 {
		return nil, nil
	}
	h := &hadv1.TokenHealth{}
	var problems []string
	if key, err := token.ReadKey(k.cfg.KeyFile); err == nil {
		h.KeyId = key.ID()
	}
	view, _ := k.cfg.Log.View()
	k.mu.Lock()
	defer k.mu.Unlock()
	owner := k.hold.ctx != nil && k.hold.ctx.Err() == nil
	for _, t := range p.Tokens {
		place := &hadv1.TokenPlace{Name: t.Name, Shared: k.looked[t.Name].Shared}
		h.Places = append(h.Places, place)
		if !t.Replicate {
			found := k.looked[t.Name]
			place.Wrong = strings.Join(found.Wrong, "; ")
			problems = append(problems, found.Wrong...)
			if found.Absent && owner {
				problems = append(problems, fmt.Sprintf("reconnect token %q: there is no file at %s although this node owns: its service makes it, or you do", t.Name, t.Location))
			}
			continue
		}
		if v := view.Token(t.Name); v == nil {
			if t.Bytes == 0 {
				problems = append(problems, fmt.Sprintf("reconnect token %q has no content yet: hactl token set %s --file FILE", t.Name, t.Name))
			}
		} else {
			place.Version = k.version(t.Name)
		}
		place.Wrong = k.changing[t.Name]
		for _, why := range []string{k.changing[t.Name], k.reloads[t.Name]} {
			if why != "" {
				problems = append(problems, why)
			}
		}
	}
	return h, problems
}

// lookAround looks at what isn't replicated.
func (k *Keeper) lookAround(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *Keeper) look(ctx context.Context) {
	p, err := k.cfg.Policy()
	if err != nil || p == nil || k.cfg.Look == nil {
		return
	}
	h := k.held()
	owner := h.ctx != nil && h.ctx.Err() == nil
	shared := slices.DeleteFunc(slices.Clone(p.Tokens), func(t policy.Token) bool {
		return t.Replicate || !owner && onVolume(t.Location, p.Volumes)
	})
	if len(shared) == 0 {
		return
	}
	limited, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	places, err := k.cfg.Look(limited, shared, p.Volumes)
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.looked)
	for i, t := range shared {
		switch {
		case err != nil:
			k.looked[t.Name] = Place{Wrong: []string{fmt.Sprintf("reconnect token %q: %v", t.Name, err)}}
		case i < len(places):
			k.looked[t.Name] = places[i]
		}
	}
}

// LookAt is Config.Look without its promise to return: it may hang.
func LookAt(t policy.Token, volumes []policy.Volume) (p Place) {
	add := func(err error) {
		if err != nil {
			p.Wrong = append(p.Wrong, fmt.Sprintf("reconnect token %q: %v", t.Name, err))
		}
	}
	if !onVolume(t.Location, volumes) {
		var err error
		p.Shared, err = token.Shared(t.Location)
		add(err)
	}
	err := fileOf(t).Wrong()
	if p.Absent = errors.Is(err, token.ErrAbsent); !p.Absent {
		add(err)
	}
	return p
}

// reloadLimit is how long a service has to notice a new content.
const reloadLimit = 10 * time.Second

// reload tells a service that its token was replaced while it runs.
func (k *Keeper) reload(ctx context.Context, t policy.Token) {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	err := k.cfg.Reload(ctx, t.Reload)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.reloads, t.Name)
	if err != nil {
		k.reloads[t.Name] = fmt.Sprintf("reconnect token %q was replaced, and its service may not know: %v", t.Name, err)
		k.cfg.Logger.Warn("a service could not be told of its new token", "token", t.Name, "error", err)
	}
}

// version is what is in place; k.mu is held, and not k.files: a comparison may
// be waiting for the log.
func (k *Keeper) version(name string) uint64 { return k.known[name] }
