package notify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

const day = 24 * time.Hour

// expiryDays is how many days before its end a certificate is told of, at most: time
// to plan, time to act, and the last call. 0: it has longer.
func expiryDays(left time.Duration) uint32 {
	for _, days := range []uint32{1, 7, 30} {
		if left <= time.Duration(days)*day {
			return days
		}
	}
	return 0
}

// certificates reports those that expire soon, each at most once for each of
// expiryDays. A CA that several nodes rest on is one certificate.
func (w *watcher) certificates(ctx context.Context) {
	all := w.n.cfg.Certificates()
	for _, node := range slices.Sorted(maps.Keys(all)) {
		for _, c := range all[node] {
			days := expiryDays(time.Until(c.GetExpires().AsTime()))
			if days == 0 || w.story.toldOfExpiry(c, days) {
				continue
			}
			w.report(ctx, fmt.Sprintf("certificate %s %d", c.GetSerial(), days), &hadv1.Notice{
				Kind: hadv1.Notice_KIND_CERTIFICATE, Node: node, Certificate: c, Days: days,
			})
		}
	}
}

// toldOfExpiry reports whether the story says that a certificate has so few days
// left, or fewer.
func (s *story) toldOfExpiry(c *hadv1.Certificate, days uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hasTold(c, days)
}

func (s *story) hasTold(c *hadv1.Certificate, days uint32) bool {
	told, ok := s.expires[c.GetSerial()]
	return ok && told <= days
}

// expiring tells of a certificate that has so many days left.
func (s *story) expiring(r *hadv1.Notice) (Item, bool) {
	c := r.GetCertificate()
	if s.hasTold(c, r.GetDays()) {
		return Item{}, false
	}
	s.expires[c.GetSerial()] = r.GetDays()
	it := Item{Topic: policy.TopicCertificate, Severity: Warning, Node: r.GetNode()}
	switch {
	case r.GetDays() <= 1:
		it.Severity = Critical
	case r.GetDays() > 7:
		it.Severity = Info
	}
	within := fmt.Sprintf("%d days", r.GetDays())
	if r.GetDays() == 1 {
		within = "a day"
	}
	what, then := "TLS certificate of "+r.GetNode(), fmt.Sprintf("No other node talks to %s after that. Renew it: hactl tls issue %s --renew where the CA is.", r.GetNode(), r.GetNode())
	if c.GetCa() {
		what, then = "CA of the TLS certificates", "No node talks to another after that. Make a new CA, have all nodes trust both, and issue their certificates anew (docs/security.md)."
	}
	it.Title = fmt.Sprintf("the %s expires within %s", what, within)
	it.Text = fmt.Sprintf("The %s expires at %s. %s", what, c.GetExpires().AsTime().UTC().Format("2006-01-02 15:04 UTC"), then)
	return it, true
}
