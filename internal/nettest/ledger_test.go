package nettest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"had/internal/clock"
)

const (
	// ledgerPause is the time between two commits.
	ledgerPause = 2 * time.Millisecond
	// ledgerPatience is how long a program waits for an answer before it
	// connects again.
	ledgerPatience = 700 * time.Millisecond
	// ledgerRetry is the time between two tries to connect.
	ledgerRetry = 50 * time.Millisecond
)

// ledger is a program that uses a database: it commits one numbered row after
// another at the address args[0] with the program psql, args[1], and notes each
// in the file args[2] once it was told that it is committed. What it isn't told of
// it does again, over a new connection to the same address.
func ledger(args []string) int {
	notes, err := os.OpenFile(args[2], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var s *session
	connections, fresh := 0, false // how many there were; the latest has committed nothing yet
	for n := 1; ; {
		if s == nil {
			if s, err = connect(args[0], args[1]); err != nil {
				time.Sleep(ledgerRetry)
				continue
			}
			fresh = true
		}
		if err := s.commit(n); err != nil {
			fmt.Fprintf(os.Stderr, "row %d: %v\n", n, err)
			s.close()
			s = nil
			time.Sleep(ledgerRetry)
			continue
		}
		if fresh {
			fresh = false
			connections++
		}
		fmt.Fprintf(notes, "%d %d %d\n", n, clock.Now(), connections)
		n++
		time.Sleep(ledgerPause)
	}
}

// session is a psql that is connected.
type session struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan string // a line each; closed when psql has ended
}

// connect begins a session with a database that listens: psql itself waits for
// two seconds at least.
func connect(address, psql string) (*session, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "5432"), ledgerPatience/2)
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	s := &session{cmd: exec.Command(psql, "-X", "-h", address, "-U", "app", "-d", "app"), answers: make(chan string, 16)}
	s.cmd.Env = []string{"PGPASSWORD=secret", "PGCONNECT_TIMEOUT=2", "LC_ALL=C"}
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.answers)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.answers <- lines.Text()
		}
	}()
	return s, nil
}

// commit writes a row, if it isn't there, and returns once that is committed.
func (s *session) commit(n int) error {
	if _, err := fmt.Fprintf(s.in, "INSERT INTO ledger VALUES (%d, repeat(md5('%d'), 4)) ON CONFLICT DO NOTHING;\n", n, n); err != nil {
		return err
	}
	patience := time.NewTimer(ledgerPatience)
	defer patience.Stop()
	select {
	case answer, ok := <-s.answers:
		if !ok {
			return errors.New("the connection is lost")
		}
		if !strings.HasPrefix(answer, "INSERT 0 ") {
			return fmt.Errorf("psql says %q", answer)
		}
		return nil
	case <-patience.C:
		return errors.New("no answer")
	}
}

func (s *session) close() {
	_ = s.cmd.Process.Kill()
	for range s.answers { // so that its reader ends
		continue
	}
	_ = s.cmd.Wait()
}

// committed is a row of which a client was told that it is committed.
type committed struct {
	row        int
	at         clock.Instant
	connection int
}

// ledgerNotes reads what the client has noted.
func ledgerNotes(t *testing.T, path string) (notes []committed) {
	t.Helper()
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	for line := range strings.Lines(string(text)) {
		var c committed
		if n, _ := fmt.Sscanf(line, "%d %d %d\n", &c.row, &c.at, &c.connection); n == 3 && strings.HasSuffix(line, "\n") {
			notes = append(notes, c)
		}
	}
	return notes
}

// ledgerGap is the longest time after an instant in which nothing was committed.
func ledgerGap(notes []committed, since clock.Instant) (gap time.Duration) {
	for i, c := range notes {
		if i > 0 && since.Before(c.at) {
			gap = max(gap, c.at.Sub(notes[i-1].at))
		}
	}
	return gap
}

// postgresProgram returns one of the server's own programs, which aren't in PATH.
func postgresProgram(t *testing.T, name string) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	must(t, err)
	if len(found) == 0 {
		t.Fatalf("%s isn't installed: apt-get install --no-install-recommends postgresql", name)
	}
	return found[len(found)-1]
}

// startLedger starts the program on the client host, which ends with the lab.
func (d *databaseSite) startLedger(t *testing.T) {
	t.Helper()
	p, err := d.Client.Start(d.notes+".log", d.exe, "ledger", d.address.String(), postgresProgram(t, "psql"), d.notes)
	must(t, err)
	d.client = p
}

// stopLedger ends it, before the database is read as a whole.
func (d *databaseSite) stopLedger(t *testing.T) {
	t.Helper()
	must(t, d.client.Signal(syscall.SIGKILL))
	_ = d.client.Wait(within(t)) // it was killed
}
