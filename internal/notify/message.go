package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"had/internal/policy"
)

const (
	schemaVersion = 1
	// maxLines is how many events a text for people lists, and maxListed how
	// many one for programs does; of more the newest.
	maxLines  = 15
	maxListed = 100
)

// message is what a channel gets in one piece.
type message struct {
	id        string // the same at every try, whoever makes it
	cluster   string
	clusterID string
	channel   string
	node      string    // that sends it
	at        time.Time // of the claim
	items     []Item    // oldest first
	cut       uint64    // events that left the history before they could be told
	repeat    bool      // an earlier try may have arrived
	test      bool
}

// headline is the item that matters most, the newest of equals.
func (m *message) headline() (worst Item) {
	for i, it := range m.items {
		if i == 0 || it.Severity.rank() >= worst.Severity.rank() {
			worst = it
		}
	}
	return worst
}

func (m *message) severity() Severity {
	if len(m.items) == 0 {
		return Info
	}
	return m.headline().Severity
}

func (m *message) topic() policy.Topic { return m.headline().Topic }

// summary is the message in a phrase.
func (m *message) summary() string {
	switch more := len(m.items) - 1; {
	case m.test:
		return "test of " + m.channel
	case more < 0:
		return "something was not told in time"
	case more > 0:
		return fmt.Sprintf("%s (+%d)", m.headline().Title, more)
	default:
		return m.headline().Title
	}
}

// subject is the summary with the cluster's name.
func (m *message) subject() string { return fmt.Sprintf("[had %s] %s", m.cluster, m.summary()) }

// text is the message for people: what matters most first, the rest in order.
func (m *message) text() string {
	var b strings.Builder
	switch n := len(m.items); {
	case m.test:
		fmt.Fprintf(&b, "This is a test of %s. You would be told here what happens to the cluster %s.\n", m.channel, m.cluster)
	case n == 1:
		fmt.Fprintf(&b, "%s\n%s\n", m.items[0].Text, clockTime(m.items[0].At))
	case n > 1:
		fmt.Fprintf(&b, "%s\n\n%d events, in order:\n", m.headline().Text, n)
		if n > maxLines {
			fmt.Fprintf(&b, "(%s; the newest %d follow)\n", m.counts(), maxLines)
		}
		for _, it := range m.items[max(0, n-maxLines):] {
			fmt.Fprintf(&b, "%s  %s\n", clockTime(it.At), it.Text)
		}
	}
	if m.cut > 0 {
		fmt.Fprintf(&b, "\n%d older events had left the history before they could be told here.\n", m.cut)
	}
	if m.repeat {
		b.WriteString("\nYou may have had this message already: an earlier try was cut short.\n")
	}
	fmt.Fprintf(&b, "\nCluster %s, told by %s. On any node: hactl status, hactl history\n", m.cluster, m.node)
	return b.String()
}

// counts says how many events there are of each topic.
func (m *message) counts() string {
	n := map[policy.Topic]int{}
	for _, it := range m.items {
		n[it.Topic]++
	}
	var parts []string
	for _, t := range policy.Topics() {
		if n[t] > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", t, n[t]))
		}
	}
	return strings.Join(parts, ", ")
}

// document is the message for programs.
type document struct {
	SchemaVersion int      `json:"schema_version"`
	ID            string   `json:"id"`
	Cluster       string   `json:"cluster"`
	ClusterID     string   `json:"cluster_id"`
	Channel       string   `json:"channel"`
	SentBy        string   `json:"sent_by"`
	At            string   `json:"at"`
	Test          bool     `json:"test"`
	Repeat        bool     `json:"repeat"`
	Severity      Severity `json:"severity"`
	Summary       string   `json:"summary"`
	Text          string   `json:"text"` // what chat services show
	Events        []event  `json:"events"`
	Omitted       int      `json:"omitted"` // older events of this message that are not listed
	Cut           uint64   `json:"cut"`
}

type event struct {
	ID       string       `json:"id"`
	At       string       `json:"at"`
	Topic    policy.Topic `json:"topic"`
	Severity Severity     `json:"severity"`
	Node     string       `json:"node"`
	Epoch    uint64       `json:"epoch"`
	Title    string       `json:"title"`
	Text     string       `json:"text"`
}

// json is the message in one line.
func (m *message) json() ([]byte, error) {
	d := document{
		SchemaVersion: schemaVersion, ID: m.id, Cluster: m.cluster, ClusterID: m.clusterID, Channel: m.channel, SentBy: m.node,
		At: stamp(m.at), Test: m.test, Repeat: m.repeat, Severity: m.severity(), Summary: m.summary(), Text: m.subject() + "\n" + m.text(),
		Events: []event{}, Omitted: max(0, len(m.items)-maxListed), Cut: m.cut,
	}
	for _, it := range m.items[d.Omitted:] {
		d.Events = append(d.Events, event{
			ID: fmt.Sprintf("%s/%d.%d", m.clusterID, it.Index, it.Sub), At: stamp(it.At), Topic: it.Topic, Severity: it.Severity,
			Node: it.Node, Epoch: it.Epoch, Title: it.Title, Text: it.Text,
		})
	}
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write the message as JSON: %w", err)
	}
	return b, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
