package simtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// health is what the checks of a host find.
type health struct {
	mu  sync.Mutex
	ill map[string]bool // by name of the check
}

func (h *health) fall(check string, ill bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ill == nil {
		h.ill = map[string]bool{}
	}
	h.ill[check] = ill
}

func (h *health) recover() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ill = nil
}

// probe is a look at this process's host.
func (p *process) probe(_ context.Context, c policy.Check) (string, error) {
	if err := p.pass(); err != nil {
		return "", err
	}
	p.h.health.mu.Lock()
	defer p.h.health.mu.Unlock()
	if p.h.health.ill[c.Name] {
		return "", errors.New("HTTP 503")
	}
	return "HTTP 200", nil
}

const checksText = `
check "http" "site" {
  url          = "http://127.0.0.1/"
  interval     = "500ms"
  failures     = 2
  start_period = "1s"
}
check "tcp" "replica" {
  address  = "127.0.0.1:5432"
  on       = "standby"
  interval = "500ms"
}
`

const failbackText = `
failback {
  mode  = "auto"
  delay = "5s"
}
`

// drawSteerFaults makes what people and checks do in the schedule of a seed.
func drawSteerFaults(l layout, length time.Duration) []fault {
	r := rng(l.seed, "steer faults")
	var out []fault
	for t := time.Duration(0); t < length; {
		f := drawSteerFault(l, r)
		f.after = time.Duration(r.Int64N(int64(8 * time.Second)))
		t += f.after
		out = append(out, f)
	}
	return out
}

func drawSteerFault(l layout, r *rand.Rand) fault {
	v := victim{owner: r.IntN(2) == 0, index: r.IntN(l.nodes())}
	length := time.Duration(r.Int64N(int64(10 * time.Second)))
	kind := r.IntN(8)
	return fault{what: fmt.Sprintf("%s: steer %d for %v", v, kind, length), do: func(w *world) {
		h := v.host(w)
		ill := func(check string, hosts ...*host) {
			for _, h := range hosts {
				h.health.fall(check, true)
				w.after(length, func() { h.health.fall(check, false) })
			}
		}
		switch kind {
		case 0, 1:
			w.say(&hadv1.Command{Record: &hadv1.Command_Freeze{Freeze: &hadv1.Freeze{
				ForNs: int64(length + 1), Until: timestamppb.New(time.Now().Add(length)), By: "root",
			}}})
		case 2:
			w.say(&hadv1.Command{Record: &hadv1.Command_Drain{Drain: &hadv1.Drain{Node: h.name, By: "root"}}})
			w.after(length, func() { w.undrain(h.name) })
		case 3:
			ill("site", w.hosts...)
		case 4:
			ill("replica", h)
		case 5:
			w.say(&hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{By: "root"}}})
		default:
			ill("site", h)
		}
	}}
}

// say has an operator's word proposed by the leader, if there is one. Its answer
// may get lost.
func (w *world) say(cmd *hadv1.Command) {
	p := w.leader()
	if p == nil {
		return
	}
	w.tasks.Go(func() {
		if p.pass() == nil {
			v, err := p.node.Propose(p.hard, cmd)
			w.checker.proposed(p, cmd, v, err)
		}
	})
}

func (w *world) undrain(node string) {
	w.say(&hadv1.Command{Record: &hadv1.Command_Undrain{Undrain: &hadv1.Undrain{Node: node, By: "root"}}})
}

// unsteer takes back what people have said, until the log has it.
func (w *world) unsteer() {
	for _, h := range w.hosts {
		h.health.recover()
	}
	w.after(time.Second, func() {
		p := w.leader()
		if p == nil || len(p.view().Drained) > 0 || p.view().Frozen != nil {
			w.unsteer()
		}
		if p == nil {
			return
		}
		for node := range p.view().Drained {
			w.undrain(node)
		}
		if p.view().Frozen != nil {
			w.say(&hadv1.Command{Record: &hadv1.Command_Unfreeze{Unfreeze: &hadv1.Unfreeze{By: "root"}}})
		}
	})
}
