package bench

import (
	"context"
	"net/netip"
	"time"

	"had/internal/lab"
)

// Subject is a product with the settings it is measured with.
type Subject struct {
	Key   string `json:"key"`
	Title string `json:"title"`
	// Group is the product; subjects of a group share a colour.
	Group string `json:"group"`
	// Interval is the one setting that decides how fast a silent owner is
	// noticed: detect of had, the advertisement interval of keepalived.
	Interval time.Duration `json:"interval_ns"`
	// Scaled: it is measured with many addresses too.
	Scaled bool `json:"scaled"`
}

// The products, which are also the Groups of subjects.
const (
	ours   = "had"
	theirs = "keepalived"
)

// subjects returns everything there is to measure.
func subjects() []Subject {
	return []Subject{
		{Key: "had-200", Title: "had, detect 200 ms", Group: ours, Interval: 200 * time.Millisecond, Scaled: true},
		{Key: "keepalived-0.1", Title: "keepalived, advertisements 0.1 s", Group: theirs, Interval: 100 * time.Millisecond, Scaled: true},
		{Key: "had-500", Title: "had, detect 500 ms", Group: ours, Interval: 500 * time.Millisecond},
		{Key: "keepalived-1", Title: "keepalived, advertisements 1 s", Group: theirs, Interval: time.Second},
	}
}

// product is the software of a subject, in one lab.
type product interface {
	// configure installs the program on every server and writes its files;
	// nothing runs yet.
	configure(vips []netip.Addr) error
	// command is what starts the daemon of a server.
	command(h *lab.Host) []string
	// begin does, once all daemons have been started for the first time, what
	// is needed for an owner to come.
	begin(ctx context.Context) error
	// well returns nil when every daemon is ready to take over, as far as the
	// product can tell, and else what is missing.
	well(ctx context.Context) error
	// move hands the addresses to another server as an operator would.
	move(ctx context.Context, owner *lab.Host) error
	// daemon picks, of all processes of a server, those that must be hit to
	// hit the daemon.
	daemon(first int, all []int) []int
}

func (r *runner) newProduct(s Subject, l *lab.Lab) product {
	if s.Group == ours {
		return &had{lab: l, hactl: r.cfg.Hactl, binary: r.cfg.Had}
	}
	return &keepalived{lab: l, binary: r.cfg.Keepalived, interval: s.Interval}
}
