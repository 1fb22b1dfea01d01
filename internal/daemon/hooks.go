package daemon

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"had/internal/failover"
	"had/internal/hook"
	"had/internal/policy"
)

// hookRunners keeps a runner for each hooks folder in use: a runner reads the
// output of services that its scripts started for as long as it is open.
type hookRunners struct {
	logger   hclog.Logger
	recorder hook.Recorder
	group    func(hook.Run) (*os.File, error) // see hook.Config

	mu      sync.Mutex
	runners map[runnerKey]*hook.Runner
}

type runnerKey struct {
	dir     string
	timeout time.Duration
}

func (h *hookRunners) runner(dir string, timeout time.Duration) (failover.Hooks, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := runnerKey{dir, timeout}
	if r := h.runners[key]; r != nil {
		return r, nil
	}
	r, err := hook.NewRunner(hook.Config{Dir: dir, Timeout: timeout, Logger: h.logger, Recorder: h.recorder, Group: h.group})
	if err != nil {
		return nil, err
	}
	if h.runners == nil {
		h.runners = map[runnerKey]*hook.Runner{}
	}
	h.runners[key] = r
	return r, nil
}

func (h *hookRunners) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.runners {
		r.Close()
	}
}

// checkHooks says why a policy's hook folders can't be used as they are, and
// what in them a person should look at. A script that an acquisition needs and
// that won't be run is a reason not to begin one; others are warnings.
func checkHooks(p *policy.Policy) (f failover.HookFolders, err error) {
	var errs []error
	var digests []string
	for _, v := range p.VIPs {
		folder, err := hook.Scan(p.Hooks.Dir, v.Address)
		errs = append(errs, err)
		f.Warnings = append(f.Warnings, folder.Warnings...)
		var needed, others []hook.Script
		for _, s := range folder.Scripts {
			if s.Stage == hook.Test || s.Stage == hook.PreAcq {
				needed = append(needed, s)
			} else {
				others = append(others, s)
			}
		}
		for _, why := range refusals(needed) {
			errs = append(errs, errors.New(why))
		}
		f.Warnings = append(f.Warnings, refusals(others)...)
		d, err := folder.Digest()
		if err != nil {
			f.Warnings = append(f.Warnings, err.Error())
		}
		digests = append(digests, d.Folder)
	}
	f.Digest = strings.Join(digests, " ")
	return f, errors.Join(errs...)
}

// refusals foretells which scripts won't be run because somebody else could
// change them. One folder that is open to others is one sentence.
func refusals(scripts []hook.Script) []string {
	var reasons []string
	names := map[string][]string{}
	for _, s := range scripts {
		if err := hook.CheckTrusted(s.Path); err != nil {
			if why := err.Error(); names[why] == nil {
				reasons = append(reasons, why)
			}
			names[err.Error()] = append(names[err.Error()], s.Name)
		}
	}
	for i, why := range reasons {
		reasons[i] = fmt.Sprintf("%s, so had won't run %s", why, strings.Join(names[why], ", "))
	}
	return reasons
}
