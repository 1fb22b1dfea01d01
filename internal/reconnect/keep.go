package reconnect

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"had/internal/hook"
	"had/internal/policy"
	"had/internal/token"
	hadv1 "had/proto/had/v1"
)

// keep makes one token's files as the log has them, or the log as the service
// has its file: that only if this node owns, and if the file was as the log has
// it before. put reports that the file's content was replaced. k.files is held.
func (k *Keeper) keep(ctx context.Context, t policy.Token, h hold) (put bool, err error) {
	defer func() { k.note(t.Name, err) }()
	k.watch(t)
	view, _ := k.cfg.Log.View()
	logged := view.Token(t.Name)
	content, err := fileOf(t).Read()
	defer clear(content)
	if err != nil && !errors.Is(err, token.ErrAbsent) {
		if logged == nil || h.owns(t.Name) && k.placed[t.Name] == logged.GetCurrent().GetVersion() {
			return false, err // its service's doing
		}
		k.cfg.Logger.Warn("what is in a token's place is replaced", "token", t.Name, "error", err)
	}
	if logged == nil {
		if content == nil || !h.owns(t.Name) {
			return false, nil
		}
		if err := k.submit(ctx, t, h, 0, content, "found in its place"); err != nil {
			return false, err
		}
		view, _ = k.cfg.Log.View()
		if logged = view.Token(t.Name); logged == nil {
			return false, nil
		}
	}
	current := logged.GetCurrent()
	same, err := k.holds(t, current, content)
	if err != nil {
		return false, err
	}
	if !same && k.placed[t.Name] == current.GetVersion() && h.owns(t.Name) {
		if content == nil {
			return false, nil // its service is writing it, or has removed it: the next owner finds it in place
		}
		if err := k.submit(ctx, t, h, current.GetVersion(), content, "its service has changed it"); err != nil {
			return false, err
		}
		view, _ = k.cfg.Log.View()
		logged, same = view.Token(t.Name), true
		if v := logged.GetCurrent(); v != nil && v.GetVersion() != current.GetVersion()+1 { // and somebody else has since
			if same, err = k.holds(t, v, content); err != nil {
				return false, err
			}
		}
	}
	if logged == nil {
		return false, nil // forgotten meanwhile
	}
	if err := k.arrange(t, logged, same); err != nil {
		return false, err
	}
	if k.placed[t.Name] != logged.GetCurrent().GetVersion() {
		k.cfg.Logger.Info("a reconnect token is in place", "token", t.Name, "version", logged.GetCurrent().GetVersion())
	}
	k.placed[t.Name] = logged.GetCurrent().GetVersion()
	return !same, nil
}

// arrange puts the current content and the earlier ones that stay beside it in
// place, the earlier ones first: at every moment a service that looks finds what
// it needs for what was current until now. There are always as many files as the
// policy says, so that a service's configuration can name them from the first
// day on.
func (k *Keeper) arrange(t policy.Token, logged *hadv1.Token, same bool) error {
	versions := append([]*hadv1.TokenVersion{logged.GetCurrent()}, logged.GetEarlier()...)
	for n := t.Keep; n >= 0; n-- {
		f := fileOf(t).Previous(n)
		v := versions[min(n, len(versions)-1)]
		if n == 0 && same && f.Wrong() == nil {
			continue
		}
		if n > 0 {
			there, _ := f.Read()
			ok, err := k.holds(t, v, there)
			clear(there)
			if err != nil {
				return err
			}
			if ok && f.Wrong() == nil {
				continue
			}
		}
		content, err := k.open(t.Name, v)
		if err != nil {
			return err
		}
		err = f.Put(content)
		clear(content)
		if err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether content is that of a version.
func (k *Keeper) holds(t policy.Token, v *hadv1.TokenVersion, content []byte) (bool, error) {
	want, err := k.open(t.Name, v)
	if err != nil {
		return false, err
	}
	defer clear(want)
	return bytes.Equal(want, content), nil
}

// open decrypts a version of a token. The caller clears what it gets.
func (k *Keeper) open(name string, v *hadv1.TokenVersion) ([]byte, error) {
	key, err := k.key()
	if err != nil {
		return nil, err
	}
	return key.Open(k.placeOf(name, v.GetVersion()), v.GetKeyId(), v.GetSealed())
}

func (k *Keeper) key() (*token.Key, error) {
	key, err := token.ReadKey(k.cfg.KeyFile)
	if errors.Is(err, token.ErrNoKey) {
		return nil, fmt.Errorf("%w: copy the file from a node that has it, or make the cluster's first one with: hactl token key", err)
	}
	return key, err
}

func (k *Keeper) placeOf(name string, version uint64) token.Place {
	view, _ := k.cfg.Log.View()
	return token.Place{Cluster: view.Birth.GetClusterId(), Name: name, Version: version}
}

// Seal makes the record that sets a token's next version after expected. Of the
// operator's, epoch is 0.
func (k *Keeper) Seal(t policy.Token, expected uint64, content []byte) (*hadv1.TokenSet, error) {
	key, err := k.key()
	if err != nil {
		return nil, err
	}
	view, _ := k.cfg.Log.View()
	if old := view.Token(t.Name).GetCurrent(); old != nil && old.GetKeyId() != key.ID() {
		return nil, fmt.Errorf("token %q: %w (%s) than this node has (%s): copy the key's file from a node that has the other", t.Name, token.ErrOtherKey, old.GetKeyId(), key.ID())
	}
	sealed, err := key.Seal(k.placeOf(t.Name, expected+1), content)
	if err != nil {
		return nil, err
	}
	return &hadv1.TokenSet{
		Name: t.Name, ExpectedVersion: expected, Sealed: sealed, KeyId: key.ID(),
		Size: uint32(len(content)), Keep: uint32(t.Keep), //nolint:gosec // both are bounded
	}, nil
}

// Open decrypts the current content of a token, for an operator who asks for
// it. The caller clears it.
func (k *Keeper) Open(name string) ([]byte, error) {
	view, _ := k.cfg.Log.View()
	t := view.Token(name)
	if t == nil {
		return nil, fmt.Errorf("the log has no content of a token %q", name)
	}
	return k.open(name, t.GetCurrent())
}

// submit has the log take what this owner's service wrote. The log refuses it
// once the epoch has a successor.
func (k *Keeper) submit(ctx context.Context, t policy.Token, h hold, expected uint64, content []byte, why string) error {
	r, err := k.Seal(t, expected, content)
	if err != nil {
		return err
	}
	r.Epoch, r.Instance, r.By, r.Reason = h.epoch, k.cfg.Instance, "the service on "+k.cfg.Instance.GetNode(), why
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()
	if _, err := k.cfg.Log.Propose(ctx, &hadv1.Command{Record: &hadv1.Command_TokenSet{TokenSet: r}}); err != nil {
		return fmt.Errorf("put version %d into the log: %w", expected+1, err)
	}
	return nil
}

// Locations are where a policy's tokens are, by name.
func Locations(p *policy.Policy) map[string]string {
	out := map[string]string{}
	for _, t := range p.Tokens {
		out[t.Name] = t.Location
	}
	return out
}

// render writes the configurations that name locations.
func (k *Keeper) render(p *policy.Policy) error {
	vars := map[string]string{"HAD_CLUSTER": k.cfg.Cluster, "HAD_NODE": k.cfg.Instance.GetNode()}
	for name, location := range Locations(p) {
		vars[hook.TokenVariable(name)] = location
	}
	var errs []error
	for _, t := range p.Tokens {
		if t.RenderTo == "" {
			continue
		}
		text, err := token.Render(t.Template, vars)
		if err == nil {
			err = token.PutRendered(t.RenderTo, text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reconnect token %q: %w", t.Name, err))
		}
	}
	return errors.Join(errs...)
}

// note remembers why a token could not be kept.
func (k *Keeper) note(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.changing, name)
	k.known[name] = k.placed[name]
	if err != nil {
		k.changing[name] = fmt.Sprintf("reconnect token %q: %v", name, err)
	}
}
