package failover

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
	"had/storage"
)

// Foresee says what another policy would do to what is served. It must be called
// on the leader: only an owner knows how far it can change what it holds.
func (c *Controller) Foresee(p *policy.Policy) (owner string, restarts bool, effects []*hadv1.PolicyEffect) {
	view, _ := c.cfg.Log.View()
	old, _ := c.parsed.of(view.Policy)
	f := foresight{old: old, next: p}
	if f.old == nil {
		f.old = new(policy.Policy)
	}
	if h := c.executor.held(); h.Phase == PhaseServing && view.Claim(h.Epoch) != nil {
		f.owner, f.held = c.self.GetName(), len(view.Claim(h.Epoch).GetVolumes()) > 0
		_, f.remount = c.executor.volumeChange(view.Claim(h.Epoch), p, 0)
	}
	f.all()
	return f.owner, f.restarts(), f.out
}

// foresight compares two policies by what they do.
type foresight struct {
	old, next *policy.Policy
	owner     string // who serves; empty: nobody
	remount   string // why the volumes need an epoch of their own; empty: they don't
	held      bool   // the epoch has volumes
	out       []*hadv1.PolicyEffect
}

const (
	stays   = hadv1.PolicyEffect_KIND_STAYS
	added   = hadv1.PolicyEffect_KIND_ADDED
	dropped = hadv1.PolicyEffect_KIND_DROPPED
	changed = hadv1.PolicyEffect_KIND_CHANGED
	later   = hadv1.PolicyEffect_KIND_LATER
	moves   = hadv1.PolicyEffect_KIND_MOVES
)

func (f *foresight) say(kind hadv1.PolicyEffect_Kind, what, format string, args ...any) {
	f.out = append(f.out, &hadv1.PolicyEffect{Kind: kind, What: what, Text: fmt.Sprintf(format, args...)})
}

func (f *foresight) restarts() bool {
	return f.owner != "" && (f.remount != "" || ownsNothing(f.next))
}

func (f *foresight) all() {
	switch {
	case f.owner == "":
		f.say(later, "", "nobody owns at present: the next owner takes the policy on")
	case ownsNothing(f.next):
		f.say(dropped, "", "%s releases everything: the policy names nothing to own", f.owner)
	case f.remount != "":
		f.say(moves, "", "%s releases everything and takes it on again, services and all: the volumes need an epoch of their own (%s)", f.owner, f.remount)
	}
	f.addresses()
	f.volumes()
	f.scripts()
	f.parts()
	f.steering()
}

func (f *foresight) addresses() {
	byAddress := func(p *policy.Policy, v policy.VIP) *policy.VIP {
		i := slices.IndexFunc(p.VIPs, func(o policy.VIP) bool { return o.Address == v.Address })
		if i < 0 {
			return nil
		}
		return &p.VIPs[i]
	}
	for _, v := range f.next.VIPs {
		what := v.Address.String()
		old := byAddress(f.old, v)
		was, is := "", v.InterfaceOn(f.owner)
		if old != nil {
			was = old.InterfaceOn(f.owner)
		}
		switch {
		case old == nil:
			f.say(added, what, "is added: PreAcq, the address, PostAcq")
		case f.restarts():
			f.say(changed, what, "is away until it is taken on again")
		case was != is:
			f.say(changed, what, "is released on %s and taken on again on %s, if those differ", orDerived(was), orDerived(is))
		case old.Name != v.Name:
			f.say(stays, what, "stays; its block is called %s now", v.Name)
		default:
			f.say(stays, what, "stays")
		}
	}
	for _, v := range f.old.VIPs {
		if byAddress(f.next, v) == nil {
			f.say(dropped, v.Address.String(), "is dropped: PreRel, the address, PostRel")
		}
	}
}

func orDerived(iface string) string {
	if iface == "" {
		return "the interface of its subnet"
	}
	return iface
}

func (f *foresight) volumes() {
	was, is := StorageVolumes(f.old), StorageVolumes(f.next)
	come, gone := without(is, was), without(was, is)
	for _, v := range is {
		i := slices.IndexFunc(gone, func(o storage.Volume) bool { return o.Name == v.Name })
		switch isNew := slices.ContainsFunc(come, func(o storage.Volume) bool { return o.Name == v.Name }); {
		case i >= 0:
			f.say(changed, "volume "+v.Name, "is unmounted from %s, and mounted anew on %s", gone[i].Path, v.Path)
			gone = slices.Delete(gone, i, i+1)
		case isNew:
			f.say(added, "volume "+v.Name, "is mounted on %s", v.Path)
		case f.restarts():
			f.say(changed, "volume "+v.Name, "is unmounted and mounted again")
		default:
			f.say(stays, "volume "+v.Name, "stays mounted")
		}
	}
	for _, v := range gone {
		f.say(dropped, "volume "+v.Name, "is unmounted from %s; if something uses it, everything is released and taken on again", v.Path)
	}
}

func (f *foresight) scripts() {
	switch was, is := f.old.Hooks, f.next.Hooks; {
	case same(was, is):
	case was.Dir != is.Dir:
		f.say(changed, "scripts", "are those of %s from now on; for addresses that stay none runs now", orNone(is.Dir))
	default:
		f.say(changed, "scripts", "have other limits, from the next one on")
	}
}

func orNone(dir string) string {
	if dir == "" {
		return "no folder"
	}
	return dir
}

// parts are the blocks that have a name and begin anew when they change.
func (f *foresight) parts() {
	compare(f, "check", f.old.Checks, f.next.Checks, func(c policy.Check) string { return c.Name }, "begins", "begins anew", "ends")
	compare(f, "sync", f.old.Syncs, f.next.Syncs, func(s policy.Sync) string { return s.Name }, "runs on the nodes that don't own", "is another from the next run on", "runs no more")
	compare(f, "reconnect token", f.old.Tokens, f.next.Tokens, func(t policy.Token) string { return t.Name }, "is put in place", "is put in place anew", "is left where it is")
	compare(f, "notify", f.old.Channels, f.next.Channels, policy.Channel.ID, "is told from now on", "is another from the next message on", "is told no more")
}

func compare[T any](f *foresight, kind string, was, is []T, name func(T) string, begins, differs, ends string) {
	at := func(all []T, n string) int { return slices.IndexFunc(all, func(x T) bool { return name(x) == n }) }
	for _, x := range is {
		what := kind + " " + name(x)
		switch i := at(was, name(x)); {
		case i < 0:
			f.say(added, what, "%s", begins)
		case !same(was[i], x):
			f.say(changed, what, "%s", differs)
		}
	}
	for _, x := range was {
		if at(is, name(x)) < 0 {
			f.say(dropped, kind+" "+name(x), "%s", ends)
		}
	}
}

// steering is what decides about owners to come.
func (f *foresight) steering() {
	if f.held && !f.restarts() && !same(f.old.Fence, f.next.Fence) {
		f.say(later, "fence", "what it names counts from now on; which methods are evidence, from the next owner on")
	}
	if f.owner != "" && !f.restarts() && f.old.ReleaseGrace != f.next.ReleaseGrace {
		f.say(later, "release_grace", "counts from the next owner on")
	}
	if !same(f.old.Limits, f.next.Limits) {
		f.say(changed, "limits", "count from now on")
	}
	first := ""
	if len(f.next.Prefer) > 0 {
		first = f.next.Prefer[0]
	}
	switch b := f.next.Failback; {
	case same(f.old.Failback, b) && slices.Equal(f.old.Prefer, f.next.Prefer):
	case f.owner != "" && b.Auto && first != "" && first != f.owner && !ownsNothing(f.next):
		f.say(moves, "", "failback is auto: everything moves to %s once it could have owned for %s", first, b.Delay)
	case !slices.Equal(f.old.Prefer, f.next.Prefer):
		f.say(stays, "owner", "stays; prefer (%s) counts for the next change of it", strings.Join(f.next.Prefer, ", "))
	default:
		f.say(stays, "owner", "stays")
	}
}

// same compares parts of policies by what they say.
func same[T any](a, b T) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(x) == string(y)
}
