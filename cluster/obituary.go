package cluster

import (
	"context"
	"sync"
	"time"
)

// obituary says that a node's process has died.
type obituary struct {
	node    string
	certain bool // it is known to be the run that leads
}

// tellGone notes that a node's process is said to have died.
func (d *detector) tellGone(o obituary) {
	select {
	case d.farewells <- o:
	default: // so many have come that one is as good as the other
	}
	if o.certain {
		d.word.of(o.node)
	}
}

// interruption ends what somebody does to find out whether a node has died, once
// it is certain that it has.
type interruption struct {
	mu   sync.Mutex
	node string             // that is asked about
	end  context.CancelFunc // nil: nothing is done
}

// interrupts returns a context that ends after a time, or with a word about the
// node that comes before cancel.
func (i *interruption) interrupts(ctx context.Context, node string, limit time.Duration) (_ context.Context, cancel func()) {
	ctx, end := context.WithTimeout(ctx, limit)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.node, i.end = node, end
	return ctx, func() {
		end()
		i.mu.Lock()
		defer i.mu.Unlock()
		i.node, i.end = "", nil
	}
}

// of ends what is done to find out about a node.
func (i *interruption) of(node string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.end != nil && i.node == node {
		i.end()
	}
}
