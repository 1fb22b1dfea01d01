package nettest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// strip is a power strip: whoever may open its socket switches hosts off, and
// asks whether they are.
type strip struct {
	site   *site
	path   string
	listen net.Listener
	tasks  sync.WaitGroup

	mu     sync.Mutex
	broken bool     // it answers, and does nothing
	cuts   []string // whom it has switched off
}

func newStrip(t *testing.T, s *site) *strip {
	t.Helper()
	p := &strip{site: s, path: filepath.Join(s.Dir(), "power.sock")}
	var err error
	p.listen, err = net.Listen("unix", p.path)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p.tasks.Go(func() {
		for {
			conn, err := p.listen.Accept()
			if err != nil {
				return
			}
			p.tasks.Go(func() { p.serve(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = p.listen.Close()
		p.tasks.Wait()
	})
	return p
}

func (p *strip) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	line, _ := bufio.NewReader(conn).ReadString('\n')
	what, node, _ := strings.Cut(strings.TrimSpace(line), " ")
	p.mu.Lock()
	broken := p.broken
	p.mu.Unlock()
	var err error
	switch {
	case broken:
		err = fmt.Errorf("the strip is out of order")
	case what == "off":
		p.mu.Lock()
		p.cuts = append(p.cuts, node)
		p.mu.Unlock()
		err = p.site.Host(node).PowerOff(ctx)
	case !p.site.Host(node).Off():
		err = fmt.Errorf("%s is on", node)
	}
	if err != nil {
		fmt.Fprintln(conn, err)
		return
	}
	fmt.Fprintln(conn, "yes")
}

// breakDown lets the strip do nothing, or work again.
func (p *strip) breakDown(broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = broken
}

// switched returns whom it has switched off since it was last asked.
func (p *strip) switched() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	cuts := p.cuts
	p.cuts = nil
	return cuts
}

// policy returns the commands for a host, for a fence block.
func (p *strip) policy(exe, node string) string {
	return fmt.Sprintf("command %q {\n  command = [%q, \"power\", %q, \"off\", %q]\n  verify = [%q, \"power\", %q, \"is-off\", %q]\n  timeout = \"20s\"\n}\n",
		node, exe, p.path, node, exe, p.path, node)
}

// power asks the strip at the socket args[0] to do args[1] with the host args[2].
func power(args []string) int {
	conn, err := net.DialTimeout("unix", args[0], time.Second)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer conn.Close()
	fmt.Fprintln(conn, args[1], args[2])
	answer, _ := io.ReadAll(conn)
	fmt.Fprint(os.Stderr, string(answer))
	if string(answer) != "yes\n" {
		return 1
	}
	return 0
}
