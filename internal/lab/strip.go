package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Strip is a power strip: whoever may open its socket switches hosts off, and asks
// whether they are.
type Strip struct {
	lab    *Lab
	path   string
	listen net.Listener
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu     sync.Mutex
	broken bool     // it answers, and does nothing
	cuts   []string // whom it has switched off
}

// PowerStrip plugs the servers into a strip. Close it before the lab.
func (l *Lab) PowerStrip() (*Strip, error) {
	s := &Strip{lab: l, path: filepath.Join(l.dir, "power.sock")}
	var err error
	if s.listen, err = net.Listen("unix", s.path); err != nil {
		return nil, fmt.Errorf("plug the hosts into a power strip: %w", err)
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.tasks.Go(func() {
		for {
			conn, err := s.listen.Accept()
			if err != nil {
				return // closed
			}
			s.tasks.Go(func() { s.serve(ctx, conn) })
		}
	})
	return s, nil
}

// Close unplugs it. Who is off stays off.
func (s *Strip) Close() error {
	s.cancel()
	err := s.listen.Close()
	s.tasks.Wait()
	return err
}

// Socket returns its path.
func (s *Strip) Socket() string { return s.path }

func (s *Strip) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	line, _ := bufio.NewReader(conn).ReadString('\n')
	what, node, _ := strings.Cut(strings.TrimSpace(line), " ")
	s.mu.Lock()
	broken := s.broken
	s.mu.Unlock()
	var err error
	switch {
	case broken:
		err = errors.New("the strip is out of order")
	case s.lab.check(node) != nil:
		err = s.lab.check(node)
	case what == "off":
		s.mu.Lock()
		s.cuts = append(s.cuts, node)
		s.mu.Unlock()
		err = s.lab.Host(node).PowerOff(ctx)
	case !s.lab.Host(node).Dark():
		err = fmt.Errorf("%s is on", node)
	}
	if err != nil {
		fmt.Fprintln(conn, err)
		return
	}
	fmt.Fprintln(conn, stripDone)
}

const stripDone = "yes"

// AskStrip asks the strip at a socket to switch a node "off", or whether it
// "is-off".
func AskStrip(socket, what, node string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(context.Background(), "unix", socket)
	if err != nil {
		return fmt.Errorf("ask the power strip: %w", err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, what, node)
	answer, err := io.ReadAll(conn)
	if text := strings.TrimSpace(string(answer)); err == nil && text != stripDone {
		err = errors.New(text)
	}
	return err
}

// BreakDown lets the strip do nothing, or work again.
func (s *Strip) BreakDown(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// Switched returns whom it has switched off since it was last asked.
func (s *Strip) Switched() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	cuts := s.cuts
	s.cuts = nil
	return cuts
}

// Fence returns the block of a policy's fence for a node, with a program that,
// called with "power" and the arguments of AskStrip, does that.
func (s *Strip) Fence(program, node string) string {
	return fmt.Sprintf("command %q {\n  command = [%q, \"power\", %q, \"off\", %q]\n  verify = [%q, \"power\", %q, \"is-off\", %q]\n  timeout = \"20s\"\n}\n",
		node, program, s.path, node, program, s.path, node)
}
