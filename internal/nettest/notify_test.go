package nettest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"had/internal/lab"
	"had/internal/mailtest"
	hadv1 "had/proto/had/v1"
)

const (
	mailPort = 587
	hookPort = 8080

	// mailTry is how long had tries a mail server that says nothing: who waits for
	// it can't have served before.
	mailTry = 20 * time.Second
)

// told is one message as a program gets it.
type told struct {
	ID     string `json:"id"`
	Test   bool   `json:"test"`
	Cut    int    `json:"cut"`
	Events []struct {
		ID    string `json:"id"`
		Title string `json:"title"`
	} `json:"events"`
}

// receivers are a mail server and a webhook's other end on the client's host, and
// a file that a program on every server writes to.
type receivers struct {
	s    *site
	mail *mailtest.Server
	dir  string

	mu    sync.Mutex
	hooks []told
	web   *http.Server
	hung  []net.Conn
	tar   net.Listener // takes mail connections and says nothing
}

func newReceivers(t *testing.T, s *site) *receivers {
	t.Helper()
	mail, err := mailtest.New(s.Client.V4.String())
	must(t, err)
	r := &receivers{s: s, mail: mail, dir: filepath.Join(s.Lab.Dir(), "told")}
	must(t, os.Mkdir(r.dir, 0o700))
	for name, text := range map[string]string{
		"ca": string(mail.CA), "password": mailtest.Password + "\n", "key": "a key\n", "url": fmt.Sprintf("http://%s:%d/s3cret-place\n", s.Client.V4, hookPort),
	} {
		must(t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
	}
	r.up(t)
	t.Cleanup(r.close)
	return r
}

// channels are the policy's blocks.
func (r *receivers) channels() string {
	return fmt.Sprintf(`
notify "email" "ops" {
  to            = ["ops@example.org"]
  from          = "had@example.org"
  smtp          = "%s:%d"
  username      = %q
  password_file = "%[4]s/password"
  ca_file       = "%[4]s/ca"
}
notify "webhook" "chat" {
  url_file    = "%[4]s/url"
  secret_file = "%[4]s/key"
}
notify "exec" "log" { command = ["sh", "-c", "cat >>%[4]s/log"] }
`, r.s.Client.V4, mailPort, mailtest.User, r.dir)
}

func (r *receivers) listen(t *testing.T, port int) net.Listener {
	t.Helper()
	l, err := r.s.Client.Listen("tcp4", fmt.Sprintf(":%d", port))
	must(t, err)
	return l
}

func (r *receivers) up(t *testing.T) {
	t.Helper()
	r.unhang()
	r.mail.Start(r.listen(t, mailPort))
	l := r.listen(t, hookPort)
	web := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	r.mu.Lock()
	r.web = web
	r.mu.Unlock()
	go func() { _ = web.Serve(l) }() // ends with close
}

// down takes both away: nobody listens for webhooks, and the mail server's port
// accepts connections and says nothing.
func (r *receivers) down(t *testing.T) {
	t.Helper()
	r.close()
	tar := r.listen(t, mailPort)
	r.mu.Lock()
	r.tar = tar
	r.mu.Unlock()
	go func() {
		for {
			c, err := tar.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.hung = append(r.hung, c)
			r.mu.Unlock()
		}
	}()
}

func (r *receivers) close() {
	r.mail.Stop()
	r.mu.Lock()
	web := r.web
	r.mu.Unlock()
	_ = web.Close()
	r.unhang()
}

func (r *receivers) unhang() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tar == nil {
		return
	}
	_ = r.tar.Close()
	for _, c := range r.hung {
		_ = c.Close()
	}
	r.tar, r.hung = nil, nil
}

// ServeHTTP takes a webhook.
func (r *receivers) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var m told
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	if err != nil || req.Header.Get("Webhook-Id") != m.ID || !strings.HasPrefix(req.Header.Get("Webhook-Signature"), "v1,") {
		http.Error(w, "not signed", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hooks = append(r.hooks, m)
}

// byHook and byCommand are what came, test messages aside.
func (r *receivers) byHook() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.hooks), func(m told) bool { return m.Test })
}

func (r *receivers) byCommand(t *testing.T) (all []told) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	must(t, err)
	for dec := json.NewDecoder(strings.NewReader(string(b))); dec.More(); {
		var m told
		must(t, dec.Decode(&m))
		if !m.Test {
			all = append(all, m)
		}
	}
	return all
}

// delivered waits until nothing is left to tell.
func (s *site) delivered(t *testing.T) {
	t.Helper()
	eventually(t, "every channel has been told everything", func() error {
		st, err := s.status(t, s.running())
		if err != nil {
			return err
		}
		if len(st.GetNotify()) != 3 {
			return fmt.Errorf("the channels are %v", st.GetNotify())
		}
		for _, n := range st.GetNotify() {
			if n.GetWaiting() > 0 || n.GetFailingSince() != nil || n.GetSentAt() == nil {
				return fmt.Errorf("%v", n)
			}
		}
		return nil
	})
}

// failing waits until the leader has tried the mail server and the webhook in vain.
func (s *site) failing(t *testing.T) {
	t.Helper()
	eventually(t, "the webhook is tried in vain", func() error {
		st, err := s.status(t, s.running())
		if err != nil {
			return err
		}
		for _, n := range st.GetNotify() {
			if n.GetChannel() == "webhook.chat" && n.GetAttempts() > 0 && n.GetError() != "" {
				return nil
			}
		}
		return fmt.Errorf("%v", st.GetNotify())
	})
}

// running is a node whose daemon runs.
func (s *site) running() string {
	for _, h := range s.Servers() {
		if h.Running() {
			return h.Name
		}
	}
	return ""
}

// titlesOf checks that messages and events came once and in order, and returns
// the events' titles.
func titlesOf(t *testing.T, how string, all []told) (titles []string) {
	t.Helper()
	ids := map[string]bool{}
	var last, lastSub int
	for _, m := range all {
		if ids[m.ID] || m.Cut != 0 {
			t.Errorf("%s: message %+v came more than once, or something is missing", how, m)
		}
		ids[m.ID] = true
		for _, e := range m.Events {
			var index, sub int
			_, place, _ := strings.Cut(e.ID, "/")
			if _, err := fmt.Sscanf(place, "%d.%d", &index, &sub); err != nil || index < last || index == last && sub <= lastSub {
				t.Errorf("%s: event %s came after %d.%d (%v)", how, e.ID, last, lastSub, err)
			}
			last, lastSub = index, sub
			titles = append(titles, e.Title)
		}
	}
	return titles
}

// TestNotifications has a mail server and a webhook's receiver down while two
// owners, who lead, are killed one after the other. Everything is told once and
// in order, and nobody who owns has waited for it.
func TestNotifications(t *testing.T) {
	t.Parallel()
	s := newIdleSite(t, lab.Config{})
	r := newReceivers(t, s)
	s.apply(t, "alpha", s.policy(s.vips...)+r.channels())
	first := s.settled(t)
	s.delivered(t)
	if n := len(r.mail.Mails()); n != len(r.byHook()) || n == 0 {
		t.Errorf("%d mails and %d webhooks", n, len(r.byHook()))
	}

	r.down(t)
	began := time.Now()
	s.kill(t, first)
	second := s.takenOver(t, first)
	s.failing(t)
	must(t, s.Host(first).StartDaemon())
	s.settled(t)
	s.kill(t, second) // in the midst of trying
	s.takenOver(t, second)
	must(t, s.Host(second).StartDaemon())
	s.failing(t)
	for vip, c := range s.clients {
		gap, ok := c.Report().LongestGap(began, time.Now())
		t.Logf("with receivers that hang, %s was away for %v at the most", vip, gap.Duration())
		if ok && gap.Duration() > mailTry {
			t.Errorf("with receivers that hang, %s was away for %v", vip, gap)
		}
	}
	r.up(t)
	s.delivered(t)
	third := s.settled(t)

	hooks, commands := titlesOf(t, "webhook", r.byHook()), titlesOf(t, "exec", r.byCommand(t))
	if !slices.Equal(hooks, commands) {
		t.Errorf("the webhook was told\n%q\nand the command\n%q", hooks, commands)
	}
	for _, want := range []string{"policy version 1 applied", first + " owns", second + " (took over|owns)", third + " (took over|owns)"} {
		if !slices.ContainsFunc(hooks, regexp.MustCompile("^"+want+"\\b").MatchString) { // who has to try again owns, rather than takes over
			t.Errorf("nobody was told that %q: %q", want, hooks)
		}
	}
	r.judgeMails(t, hooks)
	s.noSecret(t, r)
	s.tested(t, r)
}

// judgeMails checks that each mail came once, and that together they told as
// much as the other channels did.
func (r *receivers) judgeMails(t *testing.T, titles []string) {
	t.Helper()
	mails, ids := r.mail.Mails(), map[string]bool{}
	var text strings.Builder
	for _, m := range mails {
		if ids[m.ID] || !strings.HasPrefix(m.Subject, "[had lab] ") {
			t.Errorf("mail %s %q came twice", m.ID, m.Subject)
		}
		ids[m.ID] = true
		text.WriteString(m.Body)
	}
	owned := 0
	for _, title := range titles {
		if strings.Contains(title, " owns ") || strings.Contains(title, " took over ") {
			owned++
		}
	}
	// The headline of a message of several events is written twice.
	if n := strings.Count(text.String(), " owns "); n < owned || n > owned+len(mails) {
		t.Errorf("the mails tell of %d owners, want %d:\n%s", n, owned, text.String())
	}
}

// noSecret fails when something secret is in a log, the history or the status.
func (s *site) noSecret(t *testing.T, r *receivers) {
	t.Helper()
	events, err := s.history(t, s.running())
	must(t, err)
	st, err := s.status(t, s.running())
	must(t, err)
	shown := fmt.Sprint(events, st)
	for _, h := range s.Servers() {
		b, err := os.ReadFile(h.Log())
		must(t, err)
		shown += string(b)
	}
	for _, secret := range []string{mailtest.Password, "s3cret-place"} {
		if strings.Contains(shown, secret) {
			t.Errorf("%q is shown somewhere", secret)
		}
	}
}

// tested sends a test through each channel, asked for at a node that doesn't lead.
func (s *site) tested(t *testing.T, r *receivers) {
	t.Helper()
	before := len(r.mail.Mails())
	st, err := s.status(t, s.running())
	must(t, err)
	var answer *hadv1.NotifyTestResponse
	must(t, s.ask(t, s.others(st.GetLeader())[0], func(ctx context.Context, ha hadv1.HAClient) (err error) {
		answer, err = ha.NotifyTest(ctx, &hadv1.NotifyTestRequest{})
		return err
	}))
	if len(answer.GetResults()) != 3 {
		t.Errorf("a test comes to %v", answer)
	}
	for _, result := range answer.GetResults() {
		if result.GetError() != "" {
			t.Errorf("a test through %s: %s", result.GetChannel(), result.GetError())
		}
	}
	if mails := r.mail.Mails(); len(mails) != before+1 || mails[before].Subject != "[had lab] test of email.ops" {
		t.Errorf("the mails after a test are %+v", mails)
	}
}
