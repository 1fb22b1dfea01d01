package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newWatch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch",
		Short: "Show the status live",
		Long: `Show the status and every change of it until Ctrl-C. When stdout isn't a
terminal each change is one line; with -o json each is one status in JSON.`,
		Example: `  hactl watch
  hactl watch | tee failover.log`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.watch(cmd.Context()) },
	}
}

// sighting is one status, or why there is none.
type sighting struct {
	status *hadv1.StatusResponse
	lost   error
	at     time.Time // on this side
}

func (c *cli) watch(ctx context.Context) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	defer cl.close()

	ctx, cancel := context.WithCancel(ctx)
	seen := make(chan sighting)
	done := make(chan error, 1)
	tell := func(s sighting) {
		s.at = time.Now()
		select {
		case seen <- s:
		case <-ctx.Done():
		}
	}
	sub := &subscription[hadv1.WatchResponse]{
		client: cl,
		open: func(ctx context.Context, opts ...grpc.CallOption) (grpc.ServerStreamingClient[hadv1.WatchResponse], error) {
			return cl.Watch(ctx, &hadv1.WatchRequest{}, opts...)
		},
		patience: c.limit(readTimeout),
		handle: func(m *hadv1.WatchResponse) (bool, error) {
			tell(sighting{status: m.GetStatus()})
			return false, nil
		},
		lost: func(err error) {
			if err == nil {
				err = fail(exitUnreachable, "the daemon ended the answer")
			}
			tell(sighting{lost: err})
		},
	}
	var subscriber sync.WaitGroup
	subscriber.Go(func() { done <- sub.run(ctx) })

	var end error
	if c.isTerminal && !c.json() {
		end = c.watchScreen(seen, done)
	} else {
		end = c.watchLines(seen, done)
	}
	cancel()
	subscriber.Wait()
	return end
}

// watchLines prints a line for every change until the subscription is done.
func (c *cli) watchLines(seen <-chan sighting, done <-chan error) error {
	last := ""
	for {
		select {
		case err := <-done:
			return err
		case s := <-seen:
			line, err := c.watchLine(s)
			if err != nil {
				return err
			}
			if line == last {
				continue
			}
			last = line
			if !c.json() {
				line = s.at.In(c.zone).Format(toTheMilli) + "  " + line
			}
			if err := c.print(line + "\n"); err != nil {
				return err
			}
		}
	}
}

// lossDocument stands in for a status while there is none.
type lossDocument struct {
	SchemaVersion int    `json:"schema_version"`
	Error         string `json:"error"`
}

func (c *cli) watchLine(s sighting) (string, error) {
	if s.lost != nil {
		text := oneLine(asFailure(s.lost).Error())
		if !c.json() {
			return "UNKNOWN: " + text, nil
		}
		line, err := json.Marshal(lossDocument{schemaVersion, text})
		return string(line), err
	}
	if c.json() {
		return string(document(s.status)), nil
	}
	v := judge(s.status)
	return v.level.String() + ": " + summary(s.status, v), nil
}

// Control sequences of xterm and its kin (XTerm Control Sequences, "CSI ? Pm h").
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // alternate buffer, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	eraseLine   = "\x1b[K" // to its end
	eraseBelow  = "\x1b[J"
)

// watchScreen redraws the status at every change and every second, so that
// what is shown as age grows.
func (c *cli) watchScreen(seen <-chan sighting, done <-chan error) (err error) {
	if err := c.print(enterScreen); err != nil {
		return err
	}
	defer func() {
		if e := c.print(leaveScreen); err == nil {
			err = e
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var current sighting
	var lost error
	for {
		select {
		case err := <-done:
			return err
		case s := <-seen:
			lost = s.lost
			if s.status != nil {
				current = s
			}
		case <-tick.C:
		}
		_, rows := c.size()
		if err := c.print(frame(renderWatch(current, lost, time.Now(), c.view()), rows)); err != nil {
			return err
		}
	}
}

// frame draws text over the previous frame without flicker, as far as it fits
// into rows: one line more would scroll the first away.
func frame(text string, rows int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	lines = lines[:min(len(lines), max(rows, 1))]
	return home + strings.Join(lines, eraseLine+"\n") + eraseLine + eraseBelow
}

// renderWatch lays out the newest status as it has aged by now. Without a
// connection it is never shown as if it still held.
func renderWatch(s sighting, lost error, now time.Time, v view) string {
	p := &page{view: v}
	if s.status == nil && lost == nil {
		p.entry("", faint, "waiting for the first answer (Ctrl-C ends)")
		return p.b.String()
	}
	text := ""
	if s.status != nil {
		old := aged(s.status, now.Sub(s.at))
		if lost != nil {
			old.Freshness = &hadv1.Freshness{Note: "the connection broke since"}
		}
		text = renderStatus(old, v)
	}
	p.blank()
	if lost != nil {
		p.entry("", red, "UNKNOWN: "+oneLine(asFailure(lost).Error()))
	} else {
		p.entry("", faint, "received "+s.at.In(v.zone).Format(toTheSecond)+"; Ctrl-C ends")
	}
	return text + p.b.String()
}

// aged returns s as it reads d after it was received. What counts down or is
// renewed all the time is left out: it is known for the moment of the answer
// only.
func aged(s *hadv1.StatusResponse, d time.Duration) *hadv1.StatusResponse {
	old := proto.CloneOf(s)
	if f := old.GetFreshness(); f.GetConfirmed() {
		f.AgeMs += float64(d) / float64(time.Millisecond)
	}
	if o := old.GetOwnership(); o != nil {
		o.LeaseRemainingMs, o.WaitRemainingMs = 0, 0
	}
	for _, n := range old.GetNodes() {
		if !n.GetReachable() && n.GetLastSeenMs() > 0 {
			n.LastSeenMs += float64(d) / float64(time.Millisecond)
		}
	}
	return old
}
