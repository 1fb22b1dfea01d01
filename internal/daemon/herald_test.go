package daemon

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"had/cluster"
	"had/internal/failover"
)

func TestHerald(t *testing.T) {
	var out bytes.Buffer
	l, s := cluster.Leadership{}, failover.Answers{}
	h := &herald{
		leadership: func() cluster.Leadership { return l }, answers: func() failover.Answers { return s }, self: "alpha",
		logger: hclog.New(&hclog.LoggerOptions{Output: &out, DisableTime: true}),
	}
	for _, step := range []struct {
		l     cluster.Leadership
		fresh map[string]bool
		err   string
		want  string
	}{
		{want: ""},
		{l: cluster.Leadership{Leader: "beta", Term: 2}, want: "[INFO]  beta leads: term=2"},
		{l: cluster.Leadership{Leader: "beta", Term: 2}, want: ""},
		{l: cluster.Leadership{Term: 2}, want: "[WARN]  no leader is known: an election is under way, or no majority of the nodes can reach each other: term=2"},
		{l: cluster.Leadership{Leading: true, Term: 3}, fresh: map[string]bool{"beta": false, "gamma": true}, want: "[INFO]  this node leads: term=3"},
		{l: cluster.Leadership{Leading: true, Term: 3}, fresh: map[string]bool{"beta": false, "gamma": true}, err: "connection refused", want: `[WARN]  beta doesn't answer: error="connection refused"`},
		{l: cluster.Leadership{Leading: true, Term: 3}, fresh: map[string]bool{"beta": false, "gamma": true}, err: "connection refused", want: ""},
		{l: cluster.Leadership{Leading: true, Term: 3}, fresh: map[string]bool{"beta": true, "gamma": true}, want: "[INFO]  beta answers again"},
	} {
		l, s = step.l, failover.Answers{Fresh: step.fresh, Peers: map[string]failover.PeerHealth{"beta": {Err: step.err}}}
		out.Reset()
		h.leader()
		h.others()
		if got := strings.TrimSpace(out.String()); got != step.want {
			t.Errorf("of %+v, %v it says %q, want %q", step.l, step.fresh, got, step.want)
		}
	}
}
