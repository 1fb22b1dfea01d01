package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// knock sends raw bytes to the port and returns what comes back until it
// closes, which it must.
func knock(t *testing.T, addr string, send []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(send); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Fatal("the connection stays open")
	}
	return got
}

func frame(n uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte(magic), n), body...)
}

func TestStrangersGetNoAnswer(t *testing.T) {
	o := newOffice(t, "alpha", "beta")
	alpha := o.start("alpha", with{timeout: 100 * time.Millisecond})
	addr := o.members[0].Address
	for name, send := range map[string][]byte{
		"silence":        {},
		"half a magic":   []byte("ha"),
		"http":           []byte("GET / HTTP/1.1\r\nHost: alpha\r\n\r\n"),
		"tls":            {22, 3, 1, 2, 0, 1, 0, 1, 252},
		"oversized":      frame(maxFrame+1, strings.Repeat("x", 100)),
		"huge":           frame(1<<32-1, ""),
		"half a frame":   frame(100, `{"protocol":1`),
		"not JSON":       frame(3, "{]}"),
		"no node ID":     frame(79, `{"protocol":1,"kind":"meet","cluster":"office","from":"beta","phase":"gathering"`[:78]+"}"),
		"unknown phase":  frame(uint32(len(unknownPhase)), unknownPhase),
		"forged birth":   frame(uint32(len(forgedBirth)), forgedBirth),
		"zero length":    frame(0, ""),
		"random garbage": bytes.Repeat([]byte{0xa5}, 64),
	} {
		if got := knock(t, addr, send); len(got) > 0 {
			t.Errorf("%s is answered with %q", name, got)
		}
	}
	eventually(t, alpha.log.get, "warn closed a connection that brought no valid preamble")
}

const (
	unknownPhase = `{"protocol":1,"kind":"meet","cluster":"office","from":"beta","to":"alpha","node_id":"00000000000000000000000000000001","phase":"dead"}`
	forgedBirth  = `{"protocol":1,"kind":"meet","cluster":"office","from":"beta","to":"alpha","node_id":"00000000000000000000000000000001","phase":"born",` +
		`"cluster_id":"00000000000000000000000000000002","birth":{"cluster":"office","id":"00000000000000000000000000000002","members":[]}}`
)

// Connections that say nothing are bounded in number and time, and members get
// through afterwards.
func TestSlowStrangersDontShutMembersOut(t *testing.T) {
	o := newOffice(t, "alpha", "beta")
	o.start("alpha", with{timeout: 300 * time.Millisecond})
	var idle []net.Conn
	for range maxHandshakes + 10 {
		c, err := net.Dial("tcp", o.members[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	beta := o.start("beta", with{})
	beta.meet()
	eventually(t, beta.Waiting, "waiting to meet alpha", "closed the connection")
	for _, c := range idle {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		var late net.Error
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.As(err, &late) && late.Timeout() {
			t.Fatalf("an idle connection is still open: %d, %v", n, err)
		}
	}
	eventually(t, beta.Waiting, "waiting for the birth to be recorded by alpha") // so they have met
}

func TestAnotherProtocolVersionIsToldSo(t *testing.T) {
	a := agreement{rec: record{Cluster: "office", Node: "alpha", NodeID: newNodeID(), Phase: gathering}, members: three()}
	h := hello{Protocol: 2, Had: "9.9", From: "beta", To: "alpha", Cluster: "office"}
	if err := h.check(); err != nil {
		t.Fatalf("a later had is taken for garbage: %v", err)
	}
	if no := a.judge(h); no == nil || no.Code != codeProtocol || no.ForGood || !strings.Contains(no.Sentence, "had 9.9") && !strings.Contains(no.Sentence, `had "9.9"`) {
		t.Errorf("a later had is judged %+v", no)
	}
}

func TestSentencesFromPeersAreTamed(t *testing.T) {
	if got := printable("a\x1b[31mb\nc"); got != "a?[31mb?c" {
		t.Errorf("printable: %q", got)
	}
	if got := printable(strings.Repeat("é", maxSentence)); len(got) > maxSentence+len("…") {
		t.Errorf("a long sentence keeps %d bytes", len(got))
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame(2, "{}"))
	f.Add([]byte("had1"))
	f.Add(frame(uint32(len(forgedBirth)), forgedBirth))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var h hello
		if readFrame(bytes.NewReader(b), &h) == nil && h.check() == nil {
			a := agreement{rec: record{Cluster: "office", Node: "alpha", NodeID: strings.Repeat("0", 32), Phase: gathering}, members: three()}
			a.judge(h)
		}
	})
}
