package policy

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"had/internal/redact"
)

// ChannelKind is how a notification travels.
type ChannelKind string

// The kinds of channels.
const (
	Email   ChannelKind = "email"
	Webhook ChannelKind = "webhook"
	Exec    ChannelKind = "exec"
)

// TLSMode is how the connection to a mail server is encrypted.
type TLSMode string

// The modes of TLS.
const (
	StartTLS TLSMode = "starttls" // the server must offer it
	Implicit TLSMode = "tls"      // from the first byte (RFC 8314)
	NoTLS    TLSMode = "none"
)

// Channel is one way on which people or programs are told what happens. What is
// secret stands in files, on every node that may lead.
type Channel struct {
	Kind   ChannelKind
	Name   string
	Events []Topic `json:",omitempty"` // what it is told; nil: everything

	// Email.
	To, From     string  `json:",omitempty"` // To: addresses, with ", " between them
	Server       string  `json:",omitempty"` // host:port
	TLS          TLSMode `json:",omitempty"`
	Username     string  `json:",omitempty"`
	PasswordFile string  `json:",omitempty"`

	// Webhook: one of the two.
	URL     string `json:",omitempty"`
	URLFile string `json:",omitempty"`
	// SecretFile holds the key that signs a webhook's body; "" for none.
	SecretFile string `json:",omitempty"`

	CAFile string `json:",omitempty"` // further authorities that a server's certificate may come from

	// Exec.
	Command []string      `json:",omitempty"`
	Timeout time.Duration `json:",omitempty"`
}

// ID is what the log, status and errors call a channel.
func (c Channel) ID() string { return string(c.Kind) + "." + c.Name }

// Topic is what a notification can be about.
type Topic string

// The topics.
const (
	TopicOwner       Topic = "owner"       // a node serves
	TopicFailed      Topic = "failed"      // a node gave its turn back
	TopicVetoed      Topic = "vetoed"      // a node would not take its turn
	TopicNobody      Topic = "nobody"      // no node is left that would
	TopicForced      Topic = "forced"      // an owner was released by force
	TopicScript      Topic = "script"      // a hook script failed
	TopicMove        Topic = "move"        // a move did not come about
	TopicVolumes     Topic = "volumes"     // what is known of a silent owner's volumes
	TopicWaiting     Topic = "waiting"     // volumes wait, most likely for a person
	TopicNode        Topic = "node"        // a node fell silent, or is back
	TopicCutOff      Topic = "cut_off"     // a node was without quorum
	TopicCheck       Topic = "check"       // a check fails on the owner, or passes again
	TopicHeld        Topic = "held"        // checks and scripts change the owner no more, or again
	TopicFreeze      Topic = "freeze"      // a freeze has begun, or is over
	TopicDrain       Topic = "drain"       // a node was taken out, or may own again
	TopicSync        Topic = "sync"        // a sync is held or fails for long, or no more
	TopicToken       Topic = "token"       // a reconnect token can't be put in place, or can again
	TopicCertificate Topic = "certificate" // one expires soon
	TopicPolicy      Topic = "policy"      // a policy was applied
	TopicUndelivered Topic = "undelivered" // a channel's message was given up
)

// Topics returns all of them, in the order in which the documentation has them.
func Topics() []Topic {
	return []Topic{
		TopicOwner, TopicFailed, TopicVetoed, TopicNobody, TopicForced, TopicScript, TopicMove, TopicVolumes,
		TopicWaiting, TopicNode, TopicCutOff, TopicCheck, TopicHeld, TopicFreeze, TopicDrain, TopicSync, TopicToken,
		TopicCertificate, TopicPolicy, TopicUndelivered,
	}
}

const (
	maxChannels       = 16
	defaultExecTime   = 30 * time.Second
	exampleRecipients = `["ops@example.org"]`
	exampleTeller     = `["logger", "-t", "had"]`
	exampleWebhook    = `"https://chat.example.org/hook"`
	submissions       = "465" // RFC 8314: TLS from the first byte
)

func notifyShape() shape {
	return shape{
		what: `notify "email" "ops"`, labels: 2,
		attrs: map[string]string{
			"events": `["owner", "nobody"]`, "to": exampleRecipients, "from": `"had@example.org"`, "smtp": `"mail.example.org:587"`,
			"tls": `"starttls"`, "username": `"had"`, "password_file": `"/etc/had/secrets/smtp"`, "ca_file": `"/etc/had/mail-ca.pem"`,
			"url": exampleWebhook, "url_file": `"/etc/had/secrets/chat-url"`, "secret_file": `"/etc/had/secrets/webhook"`,
			"command": exampleTeller, "timeout": quote(shortest(defaultExecTime)),
		},
		others: map[string]string{
			"password": "write the password into a file that only root can read, and its name here: password_file",
			"secret":   "write the secret into a file that only root can read, and its name here: secret_file",
		},
	}
}

// hideNotifySecrets keeps what is refused because it mustn't be shown from being
// shown.
func (s *source) hideNotifySecrets(body *hclsyntax.Body) {
	for _, b := range body.Blocks {
		if b.Type != "notify" {
			continue
		}
		for _, a := range b.Body.Attributes {
			if _, secret := redact.Option(a.Name); secret && !redact.IsFile(a.Name) {
				s.hide(text{at: a.Expr.Range()})
			}
		}
	}
}

// attributesOf are the attributes of a kind beside events; nil for one that
// doesn't exist.
func attributesOf(k ChannelKind) []string {
	switch k {
	case Email:
		return []string{"to", "from", "smtp", "tls", "username", "password_file", "ca_file"}
	case Webhook:
		return []string{"url", "url_file", "secret_file", "ca_file"}
	case Exec:
		return []string{"command", "timeout"}
	}
	return nil
}

type rawChannel struct {
	kind, name text
	block      *hclsyntax.Block
}

func rawNotify(b *hclsyntax.Block) rawChannel {
	return rawChannel{
		kind:  text{value: b.Labels[0], at: b.LabelRanges[0], ok: true},
		name:  text{value: b.Labels[1], at: b.LabelRanges[1], ok: true},
		block: b,
	}
}

func (s *source) validChannels(raw []rawChannel) []Channel {
	var channels []Channel
	seen := map[string]text{}
	for i, r := range raw {
		if i == maxChannels {
			s.errorf(r.block.DefRange(), "let a program spread what a webhook or exec tells it", "there are more than %d notify blocks", maxChannels)
			break
		}
		c, ok := s.validChannel(r)
		if !ok {
			continue
		}
		if first, twice := seen[c.ID()]; twice {
			s.errorf(r.name.at, fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line), "two channels are called %s", quote(c.ID()))
			continue
		}
		seen[c.ID()] = r.name
		channels = append(channels, c)
	}
	return channels
}

func (s *source) validChannel(r rawChannel) (c Channel, ok bool) {
	c = Channel{Kind: ChannelKind(r.kind.value), Name: r.name.value}
	own := attributesOf(c.Kind)
	if own == nil {
		s.errorf(r.kind.at, suggest(r.kind.value, []string{string(Email), string(Webhook), string(Exec)}), "unknown kind of notification %s", quote(r.kind.value))
		return c, false
	}
	if !validIdentifier(c.Name) {
		s.errorf(r.name.at, identHint, "%s can't be a channel's name", quote(c.Name))
	}
	for _, a := range inOrder(r.block.Body.Attributes) {
		if a.Name != "events" && !slices.Contains(own, a.Name) {
			s.errorf(a.NameRange, "its own are: "+strings.Join(own, ", "), "%s does nothing for %s", a.Name, r.kind.value)
		}
	}
	c.Events = s.topics(r.block.Body)
	switch c.Kind {
	case Email:
		s.validEmail(&c, r.block)
	case Webhook:
		s.validWebhook(&c, r.block)
	case Exec:
		s.validExec(&c, r.block)
	}
	return c, true
}

// topics returns what a channel is told, nil for everything.
func (s *source) topics(body *hclsyntax.Body) []Topic {
	a := body.Attributes["events"]
	if a == nil {
		return nil
	}
	var names []string
	for _, t := range Topics() {
		names = append(names, string(t))
	}
	topics := []Topic{}
	for _, t := range s.list(body, "events", `["owner", "nobody"]`) {
		switch {
		case !slices.Contains(names, t.value):
			s.errorf(t.at, suggest(t.value, names), "%s is not what a notification can be about", quote(t.value))
		case slices.Contains(topics, Topic(t.value)):
			s.errorf(t.at, "name each once", "events names %s twice", quote(t.value))
		default:
			topics = append(topics, Topic(t.value))
		}
	}
	if len(topics) == 0 {
		s.errorf(a.Expr.Range(), "leave the line out to be told everything, or the whole block out to be told nothing", "events is empty")
	}
	return topics
}

func (s *source) validEmail(c *Channel, b *hclsyntax.Block) {
	var to []string
	for _, t := range s.requiredList(b, "to", exampleRecipients) {
		to = append(to, s.mailbox(t, "to"))
	}
	c.To = strings.Join(to, ", ")
	if from := s.required(b, "from", `"had@example.org"`); from.ok {
		c.From = s.mailbox(from, "from")
	}
	server := s.required(b, "smtp", `"mail.example.org:587"`)
	if server.ok {
		c.Server = s.server(server)
	}
	username, file := s.optional(b.Body, "username", `"had"`), s.optional(b.Body, "password_file", `"/etc/had/secrets/smtp"`)
	c.Username, c.PasswordFile, c.CAFile = username.value, s.path(file, "password_file", ""), s.caFile(b.Body)
	switch {
	case username.ok && !file.ok:
		s.errorf(username.at, `add a line: password_file = "/etc/had/secrets/smtp"`, "a username without a password_file")
	case file.ok && !username.ok:
		s.errorf(file.at, `add a line: username = "had"`, "a password_file without a username")
	case strings.ContainsFunc(username.value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		s.errorf(username.at, "", "username holds a character that isn't printable")
	}
	c.TLS = s.tlsMode(c, s.optional(b.Body, "tls", `"starttls"`))
}

// tlsMode is what is written, or what the server's port and place suggest. A
// password never travels unencrypted.
func (s *source) tlsMode(c *Channel, t text) TLSMode {
	host, port, _ := net.SplitHostPort(c.Server)
	addr, err := netip.ParseAddr(host)
	here := host == "localhost" || err == nil && addr.IsLoopback()
	switch mode := TLSMode(t.value); {
	case !t.ok && port == submissions:
		return Implicit
	case !t.ok && here:
		return NoTLS
	case !t.ok:
		return StartTLS
	case mode != StartTLS && mode != Implicit && mode != NoTLS:
		s.errorf(t.at, suggest(t.value, []string{string(StartTLS), string(Implicit), string(NoTLS)}), "unknown tls %s", quote(t.value))
		return StartTLS
	case mode == NoTLS && c.Username != "" && !here:
		s.errorf(t.at, "leave the line out: the server most likely offers STARTTLS", "the password would travel readable to %s", c.Server)
		return mode
	default:
		return mode
	}
}

// mailbox returns a bare address (RFC 5321 §4.1.2). It goes into commands and
// headers, so nothing in it may end a line.
func (s *source) mailbox(t text, name string) string {
	local, domain, found := strings.Cut(t.value, "@")
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`<>()[]\",;:@`, r) }
	if !found || local == "" || domain == "" || len(t.value) > 254 || strings.ContainsFunc(local+domain, bad) {
		s.errorf(t.at, `a bare address, as in "ops@example.org"`, "%s holds %s, which isn't a mail address", name, quote(t.value))
	}
	return t.value
}

// server returns host:port.
func (s *source) server(t text) string {
	host, port, err := net.SplitHostPort(t.value)
	switch {
	case err != nil && !strings.Contains(t.value, ":"):
		s.errorf(t.at, "add the port: "+quote(t.value+":587"), "smtp is %s, without a port", quote(t.value))
	case err != nil || !validPort(port):
		s.errorf(t.at, `write host:port, as in "mail.example.org:587" or "[2001:db8::25]:587"`, "smtp is %s", quote(t.value))
	case !validHostName(host):
		if _, err := netip.ParseAddr(host); err != nil {
			s.errorf(t.at, "a host name or an address", "%s can't be a mail server's name", quote(host))
		}
	}
	return t.value
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (s *source) caFile(body *hclsyntax.Body) string {
	return s.path(s.optional(body, "ca_file", `"/etc/had/mail-ca.pem"`), "ca_file", "")
}

func (s *source) validWebhook(c *Channel, b *hclsyntax.Block) {
	u, file := s.optional(b.Body, "url", exampleWebhook), s.optional(b.Body, "url_file", `"/etc/had/secrets/chat-url"`)
	c.SecretFile, c.CAFile = s.path(s.optional(b.Body, "secret_file", `"/etc/had/secrets/webhook"`), "secret_file", ""), s.caFile(b.Body)
	c.URLFile = s.path(file, "url_file", "")
	switch {
	case u.ok && file.ok:
		s.errorf(u.at, "leave one of them out", "there is a url and a url_file")
	case u.ok:
		c.URL = s.webhookURL(u)
	case !file.ok && b.Body.Attributes["url"] == nil && b.Body.Attributes["url_file"] == nil:
		s.errorf(b.DefRange(), "add a line: url = "+exampleWebhook+`, or url_file = "/etc/had/secrets/chat-url" when whoever knows the URL may post`, "the notify block has no url")
	}
}

func (s *source) webhookURL(t text) string {
	u, err := url.Parse(t.value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Fragment != "":
		s.errorf(t.at, "write it as in url = "+exampleWebhook, "url is %s, which isn't one of http or https", quote(t.value))
	case u.User != nil:
		s.hide(t)
		s.errorf(t.at, "the policy is in the log and shown: write the whole URL into a file that only root can read, and name it: url_file", "url holds a password")
	}
	return t.value
}

func (s *source) validExec(c *Channel, b *hclsyntax.Block) {
	c.Command = s.commandLine(s.requiredList(b, "command", exampleTeller), "command")
	c.Timeout = s.duration(b.Body, "timeout", defaultExecTime, span{
		min: time.Second, low: "the command would be killed before it has begun; 30s is the default",
		max: 10 * time.Minute, high: "a command that hangs would hold up what comes after it for as long; 30s is the default",
	})
}

// adviseNotify advises to have somebody told, where something can wait for a
// person who would otherwise never know. A policy of addresses alone mends
// itself; to warn about each of those would only teach to overlook warnings.
func (s *source) adviseNotify(p *Policy) {
	if len(p.Volumes) > 0 && len(p.Channels) == 0 && !s.failed() {
		s.warnf(s.start(), `add one, as in notify "exec" "mail" { command = ["mail", "-s", "had", "root"] }`, "the policy has volumes and no notify: when they wait for a person, nobody is told")
	}
}
