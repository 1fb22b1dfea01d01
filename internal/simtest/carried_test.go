package simtest

import (
	"fmt"
	"strings"
	"time"
)

// volumesText is the part of a policy that has the first n volumes, with all that
// belongs to them.
func (w *world) volumesText(b *strings.Builder, n int) {
	if w.layout.grace > 0 {
		fmt.Fprintf(b, "release_grace = \"%v\"\n", w.layout.grace)
	}
	if n == 0 {
		return
	}
	for _, name := range []string{"web", "db"}[:n] {
		fmt.Fprintf(b, "volume %q {\n  device = \"LABEL=%s\"\n  path = \"/srv/%s\"\n}\n", name, name, name)
	}
	b.WriteString("fence {\n")
	switch w.layout.fence {
	case "command":
		b.WriteString("  methods = [\"command\", \"confirm\"]\n")
		for _, m := range w.birth.GetMembers() {
			if !m.GetWitness() {
				fmt.Fprintf(b, "  command %q {\n    command = [\"/sbin/off\", %q]\n    verify = [\"/sbin/is-off\", %q]\n    timeout = \"%v\"\n  }\n", m.GetName(), m.GetName(), m.GetName(), fenceTimeout)
			}
		}
	case "reservation":
		b.WriteString("  methods = [\"reservation\", \"confirm\"]\n")
	case "lease":
		fmt.Fprintf(b, "  methods = [\"lease\"]\n  margin = \"%v\"\n", leaseMargin)
	default:
		b.WriteString("  methods = [\"confirm\"]\n")
	}
	b.WriteString("}\n")
}

// leaseMargin is what the method "lease" waits for on top of the lease.
const leaseMargin = time.Second

// rightlyMounted reports whether a host has all volumes mounted that the policy
// has, if it owns, or none. What refuses its writes doesn't count.
func (w *world) rightlyMounted(h *host, owns bool, n int) bool {
	_, underWay := w.checker.mountedOn(h.name)
	if !owns {
		n = 0
	}
	return len(w.writable(h.name)) == n && !underWay
}

// volumesBound is how much longer a takeover may take with volumes: what was tried
// against the silent owner may have failed before, and is tried again after up to
// a minute; a person takes their time; what was left mounted is looked after every
// few seconds; and then they are mounted.
func (w *world) volumesBound() time.Duration {
	switch {
	case w.layout.volumes == 0:
		return 0
	case w.layout.fence == "lease":
		return w.layout.grace + leaseMargin + 3*time.Second
	}
	return w.layout.grace + w.layout.operator + fenceTakes + 2*leftoversEvery + 3*time.Second
}
