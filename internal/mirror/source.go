package mirror

import (
	"fmt"
	"slices"

	"had/cluster"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// source is whom a run copies from: the owner of one epoch, who leads. The zero
// value is nobody.
type source struct {
	owner string
	epoch uint64
}

// source returns whom this node may copy from now; it is this node itself while
// that owns. Without one, why says what is missing.
//
// The owner leads, and a node that doesn't hear its leader notices within the
// time in which it notices a dead one. So a run ends, on a node that is cut off
// as well, before a successor of the owner could be up: that waits for the
// owner's word, or for its lease.
func (m *Mirror) source(view cluster.View) (src source, why string) {
	l := m.cfg.Log.Leadership()
	leader := l.Leader
	if l.Leading {
		leader = m.cfg.Self.GetName()
	}
	c := view.Newest()
	owner := c.GetInstance().GetNode()
	switch {
	case c == nil:
		return source{}, "nobody owns"
	case leader == "":
		return source{}, "no leader is known, so who owns isn't"
	case leader != owner:
		return source{}, fmt.Sprintf("%s leads and %s owned last: the owner is changing", leader, owner)
	case c.GetProgress() != hadv1.Progress_OUTCOME_SERVING:
		return source{}, owner + " doesn't serve yet"
	case c.GetSecured() != nil:
		return source{}, owner + " lets go"
	}
	return source{owner: owner, epoch: c.GetEpoch()}, ""
}

func sameSync(a, b policy.Sync) bool {
	return a.Name == b.Name && slices.Equal(a.Command, b.Command) && a.Every == b.Every && a.Timeout == b.Timeout && a.MaxAge == b.MaxAge
}
