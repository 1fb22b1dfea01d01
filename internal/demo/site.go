package demo

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"had/internal/lab"
)

// scripts is the IPFailover folder of the demo: one script a stage, named as
// on an old Mac server.
//
//go:embed hooks
var scripts embed.FS

// siteDir is where a server's web service finds its page.
func siteDir(h *lab.Host) string { return filepath.Join(h.Dir(), "site") }

// site is the web service of a server: the file "page", which PostAcq writes
// and PreRel removes, as they would start and stop a real one.
func site(h *lab.Host) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page, err := os.ReadFile(filepath.Join(siteDir(h), "page"))
		if err != nil {
			http.Error(w, "not started", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(page) // a client that left hears nothing
	})
}

// places are the files of the cluster as a whole.
type places struct{ hooks, policy string }

// furnish writes the hook folder, for the first address, and the policy, and
// gives each server a directory for its web service.
func furnish(l *lab.Lab) (places, error) {
	p := places{hooks: filepath.Join(l.Dir(), "hooks"), policy: filepath.Join(l.Dir(), "policy.hcl")}
	folder := filepath.Join(p.hooks, l.VIPs()[0].String())
	errs := []error{os.MkdirAll(folder, 0o700)}
	names, err := fs.ReadDir(scripts, "hooks")
	errs = append(errs, err)
	for _, e := range names {
		text, err := scripts.ReadFile("hooks/" + e.Name())
		errs = append(errs, err, os.WriteFile(filepath.Join(folder, e.Name()), text, 0o700))
	}
	for _, h := range l.Servers() {
		errs = append(errs, os.MkdirAll(siteDir(h), 0o700))
	}
	errs = append(errs, os.WriteFile(p.policy, []byte(policyText(l, p.hooks)), 0o600))
	if err := errors.Join(errs...); err != nil {
		return places{}, fmt.Errorf("furnish the cluster in %s: %w", l.Dir(), err)
	}
	return p, nil
}

func policyText(l *lab.Lab, hooks string) string {
	var names []string
	for _, h := range l.Servers() {
		names = append(names, fmt.Sprintf("%q", h.Name))
	}
	return fmt.Sprintf(`prefer = [%s]

vip "web" { address = %q }
vip "web6" { address = %q }

hooks { dir = %q }
`, strings.Join(names, ", "), l.VIPs()[0], l.VIPs()[1], hooks)
}

func urlOf(vip netip.Addr) string {
	if vip.Is6() {
		return "http://[" + vip.String() + "]/"
	}
	return "http://" + vip.String() + "/"
}

// family is what people call the address's protocol.
func family(vip netip.Addr) string {
	if vip.Is6() {
		return "IPv6"
	}
	return "IPv4"
}
