package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// syncBuffer is a bytes.Buffer that a test may read while hactl writes, and
// that tells when it was written.
type syncBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	written chan struct{} // holds at most one signal
}

func newSyncBuffer() *syncBuffer { return &syncBuffer{written: make(chan struct{}, 1)} }

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.written <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// await returns once the text has been written.
func (s *syncBuffer) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.written:
		case <-limit:
			t.Fatalf("no %q in %q", text, s)
		}
	}
}

func testApp(socket string) (a app, out, errOut *syncBuffer) {
	out, errOut = newSyncBuffer(), newSyncBuffer()
	return app{
		in: strings.NewReader(""), out: out, err: errOut,
		size: func() (int, int) { return plainWidth, 24 },
		env: func(name string) string {
			return map[string]string{"HACTL_SOCKET": socket}[name]
		},
		user: "operator", zone: time.UTC,
	}, out, errOut
}

const (
	ownedByAlpha = `{"cluster": "office", "freshness": {"confirmed": true}, "ownership": {"state": "STATE_OWNED", "owner": "alpha", "addresses": [{"address": "192.0.2.10", "vip": "web"}]}}`
	ownedByNone  = `{"cluster": "office", "freshness": {"confirmed": true}, "ownership": {"state": "STATE_UNOWNED"}}`
)

// Piped, a watch prints a line for each change, and a lost daemon is never a
// fine one.
func TestWatchPiped(t *testing.T) {
	_, socket := startFake(t, `
Watch {"status": `+ownedByAlpha+`}
+ {"status": `+ownedByAlpha+`}
+ hangup
Watch {"status": `+ownedByNone+`}`)
	a, out, _ := testApp(socket)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- run(ctx, []string{"watch"}, a) }()
	out.await(t, "CRITICAL: office: NOBODY OWNS")
	interrupt()
	if got := <-code; got != exitInterrupted {
		t.Errorf("exit code %d", got)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{"  OK: office: alpha owns 192.0.2.10", "  UNKNOWN: the connection to had", "  CRITICAL: office: NOBODY OWNS"}
	for i, line := range lines {
		if len(lines) != len(want) || !strings.Contains(line, want[i]) {
			t.Fatalf("got\n%s\nwant lines with %q", out, want)
		}
	}
	checkPlain(t, out.String())
}

// On a terminal a watch draws on the alternate screen and leaves it as it was
// when Ctrl-C ends it.
func TestWatchRestoresTerminal(t *testing.T) {
	_, socket := startFake(t, `Watch {"status": `+ownedByAlpha+"}")
	a, out, _ := testApp(socket)
	a.isTerminal = true
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- run(ctx, []string{"watch"}, a) }()
	out.await(t, "alpha owns 192.0.2.10")
	interrupt()
	if got := <-code; got != exitInterrupted {
		t.Errorf("exit code %d", got)
	}
	text := out.String()
	if !strings.HasPrefix(text, enterScreen) || !strings.HasSuffix(text, leaveScreen) {
		t.Errorf("the terminal isn't restored: %q", text)
	}
	if !strings.Contains(text, "\x1b[32m") {
		t.Errorf("no colour on a terminal: %q", text)
	}
}

// A frame taller than the terminal would scroll its first lines away.
func TestFrameFits(t *testing.T) {
	if got := strings.Count(frame("1\n2\n3\n4\n", 3), "\n"); got != 2 {
		t.Errorf("%d line breaks in a frame for 3 rows", got)
	}
}

func TestColorOnlyWhenWanted(t *testing.T) {
	for _, env := range []map[string]string{{"NO_COLOR": "1"}, {"TERM": "dumb"}} {
		c := &cli{app: app{isTerminal: true, size: func() (int, int) { return 80, 24 }, env: func(n string) string { return env[n] }}}
		if c.view().color {
			t.Errorf("colour with %v", env)
		}
	}
}

// Ctrl-C during a move ends the watching, not the move, and says so.
func TestMoveInterrupted(t *testing.T) {
	fake, socket := startFake(t, `Move {"operation": "$OPERATION", "from": "alpha", "target": "beta", "index": "7", "fromEpoch": "5"}
History hold`)
	a, _, errOut := testApp(socket)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- run(ctx, []string{"move", "--to", "beta"}, a) }()
	errOut.await(t, "moving from alpha to beta")
	interrupt()
	if got := <-code; got != exitInterrupted {
		t.Errorf("exit code %d", got)
	}
	if want := "move " + fake.operation + " goes on without being watched"; !strings.Contains(errOut.String(), want) {
		t.Errorf("no %q in %q", want, errOut)
	}
}

// A daemon that dies while it answers costs a follower nothing: it goes on
// where it was, and each event is shown once.
func TestFollowSurvivesRestart(t *testing.T) {
	fake, socket := startFake(t, `
History {"complete": true, "events": [{"index": "4", "node": "alpha", "moveEnded": {"why": "first"}}, {"index": "5", "node": "alpha", "moveEnded": {"why": "second"}}]}
+ hangup
History {"events": [{"index": "5", "node": "alpha", "moveEnded": {"why": "second"}}, {"index": "5", "sub": 1, "node": "alpha", "moveEnded": {"why": "third"}}]}`)
	a, out, _ := testApp(socket)
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int)
	go func() { code <- run(ctx, []string{"history", "--follow"}, a) }()
	out.await(t, "third")
	interrupt()
	<-code
	for _, why := range []string{"first", "second", "third"} {
		if n := strings.Count(out.String(), why); n != 1 {
			t.Errorf("%q is shown %d times:\n%s", why, n, out)
		}
	}
	if want := `History {"after_index":"4","follow":true}`; !strings.Contains(fake.asked(), want) {
		t.Errorf("no %s in\n%s", want, fake.asked())
	}
}

// Each cause of a failure has its exit code, and its sentence is one line.
func TestExitCodes(t *testing.T) {
	dial := func(err error) error {
		return &lostError{socket: "/run/had/a.sock", dial: os.NewSyscallError("connect", err)}
	}
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{dial(syscall.EACCES), exitNotPermitted, "the socket is for root only: try sudo"},
		{dial(syscall.ENOENT), exitUnreachable, "is had running here?"},
		{dial(syscall.ECONNREFUSED), exitUnreachable, "nobody listens"},
		{status.Error(codes.PermissionDenied, "no"), exitNotPermitted, "no"},
		{status.Error(codes.FailedPrecondition, "beta is\nnot eligible"), exitRefused, "beta is not eligible"},
		{status.Error(codes.Aborted, "again"), exitRefused, "again"},
		{status.Error(codes.InvalidArgument, "bad"), exitUsage, "bad"},
		{status.Error(codes.Unavailable, "no leader"), exitUnreachable, "no leader"},
		{status.Error(codes.DeadlineExceeded, "slow"), exitUnreachable, "slow"},
		{status.Error(codes.Unimplemented, "what?"), exitFailed, "hactl version"},
		{status.Error(codes.Internal, "oops"), exitFailed, "oops"},
		{status.Error(codes.Internal, ""), exitFailed, "Internal"},
		{errors.New("disk full"), exitFailed, "disk full"},
	} {
		f := asFailure(tt.err)
		if text := oneLine(f.Error()); f.code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%v: exit code %d, %q", tt.err, f.code, text)
		}
	}
}

// An answer that can't be written is a failure, not a success.
func TestFullDisk(t *testing.T) {
	_, socket := startFake(t, "Status "+ownedByAlpha)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	a, _, errOut := testApp(socket)
	a.out = full
	if code := run(t.Context(), []string{"status"}, a); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(errOut.String(), "no space left on device") {
		t.Errorf("stderr: %s", errOut)
	}
}
