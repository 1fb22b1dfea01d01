package peer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// The preamble is one frame each way: the magic, a 4-byte big-endian length
// and that many bytes of JSON. The dialer sends a hello, the other side an
// answer; after that the connection is raft's, RPC's or closed. Nothing is
// read beyond a frame.
const (
	magic           = "had1"
	maxFrame        = 16 << 10
	protocolVersion = 1
	maxSentence     = 1024 // bytes kept of a sentence that came over the network
)

// kind is what a connection is for.
type kind string

const (
	kindMeet kind = "meet" // one exchange of hellos
	kindRaft kind = "raft"
	kindRPC  kind = "rpc"
	// kindOperator is for hactl elsewhere: its hello says no more than versions.
	kindOperator kind = "operator"
)

// hello is what a node says of itself.
type hello struct {
	Protocol  int      `json:"protocol"`
	Had       string   `json:"had"` // version, shown to people
	Kind      kind     `json:"kind"`
	Cluster   string   `json:"cluster"`
	From      string   `json:"from"`
	NodeID    string   `json:"node_id"`
	To        string   `json:"to"` // whom the sender believes to talk to
	Phase     phase    `json:"phase"`
	ClusterID string   `json:"cluster_id,omitempty"` // when locked or born
	Former    []string `json:"former,omitempty"`     // cluster IDs of the generations before
	Members   []Member `json:"members,omitempty"`    // had.hcl's list; meet only
	Birth     *Birth   `json:"birth,omitempty"`      // when locked or born; meet only
	// RosterIndex says how much it knows of the members since the birth; Roster is
	// what, when born; meet only.
	RosterIndex uint64  `json:"roster_index,omitempty"`
	Roster      *Roster `json:"roster,omitempty"`
}

// answer is the other side's hello, and whether it goes on.
type answer struct {
	Refused *refusal `json:"refused,omitempty"`
	Hello   hello    `json:"hello"`
}

// check returns an error for a hello that no had would send. A hello of
// another protocol version is not checked further: judge refuses it. Nor is an
// operator's: nothing that it says is believed.
func (h hello) check() error {
	if h.Protocol != protocolVersion || h.Kind == kindOperator {
		return nil
	}
	bound := h.Phase != gathering
	switch {
	case h.Kind != kindMeet && h.Kind != kindRaft && h.Kind != kindRPC:
		return fmt.Errorf("hello has the unknown kind %.40q", h.Kind)
	case h.Phase != gathering && h.Phase != locked && h.Phase != born:
		return fmt.Errorf("hello has the unknown phase %.40q", h.Phase)
	case h.From == "":
		return errors.New("hello names no sender")
	case !validID(h.NodeID):
		return fmt.Errorf("hello has the node ID %.40q; want 32 hex digits", h.NodeID)
	case bound && !validID(h.ClusterID):
		return fmt.Errorf("hello has the cluster ID %.40q; want 32 hex digits", h.ClusterID)
	case h.Kind == kindMeet && bound != (h.Birth != nil):
		return fmt.Errorf("hello in phase %s comes with the wrong certificate", h.Phase)
	case h.Birth == nil:
		return nil
	}
	if err := h.Birth.check(); err != nil {
		return err
	}
	if h.Roster != nil {
		if err := h.Roster.check(); err != nil {
			return err
		}
	}
	if h.Birth.ID != h.ClusterID || !belongs(h.Birth, h.Roster, h.From, h.NodeID) {
		return fmt.Errorf("hello of %.80q comes with a certificate that isn't its own", h.From)
	}
	return nil
}

// errNotHad: what answers on the port doesn't speak this protocol.
var errNotHad = errors.New("it isn't had that speaks there")

// errSpeaksTLS: a TLS record came where a preamble belongs.
var errSpeaksTLS = errors.New("it speaks TLS and this node doesn't: give every node the same tls block")

// writeFrame sends v as one frame.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a preamble: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("encode a preamble: %d bytes where %d fit: shorten the member list's names and addresses", len(body), maxFrame)
	}
	frame := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// readFrame reads one frame into v. It allocates only what a frame may hold.
func readFrame(r io.Reader, v any) error {
	var head [len(magic) + 4]byte
	if _, err := io.ReadFull(r, head[:len(magic)]); err != nil {
		return err
	}
	if got := string(head[:len(magic)]); got != magic {
		if isTLSRecord(got) {
			return errSpeaksTLS
		}
		return fmt.Errorf("read a preamble that starts with %q: %w", got, errNotHad)
	}
	if _, err := io.ReadFull(r, head[len(magic):]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[len(magic):])
	if n > maxFrame {
		return fmt.Errorf("read a preamble of %d bytes; at most %d are allowed", n, maxFrame)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read a preamble: %w", err)
	}
	return nil
}

// isTLSRecord reports whether the bytes start a TLS handshake or alert record
// (RFC 8446 §5.1: content type 22 or 21, legacy version 0x03xx).
func isTLSRecord(s string) bool {
	return len(s) >= 2 && (s[0] == 22 || s[0] == 21) && s[1] == 3
}

// printable makes a sentence with words from the network safe to show and to
// send on.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	if len(s) > maxSentence {
		s = strings.ToValidUTF8(s[:maxSentence], "") + "…"
	}
	return s
}
