package checkup

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"had/internal/hook"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// Folders are a policy's hook folders as this host would run them, one for each
// vip.
func Folders(p *policy.Policy) []*hadv1.HookFolder {
	if p == nil || p.Hooks.Dir == "" {
		return nil
	}
	out := make([]*hadv1.HookFolder, 0, len(p.VIPs))
	for _, v := range p.VIPs {
		f := &hadv1.HookFolder{Vip: v.Name, Address: v.Address.String()}
		out = append(out, f)
		found, err := hook.Scan(p.Hooks.Dir, v.Address)
		if err != nil {
			f.Error = err.Error()
			continue
		}
		f.Dir, f.Warnings = found.Dir, found.Warnings
		d, err := found.Digest()
		if err != nil {
			f.Error = err.Error()
		}
		f.Digest = d.Folder
		for _, s := range found.Scripts {
			script := &hadv1.HookScript{Stage: string(s.Stage), Name: s.Name, Digest: d.Scripts[s.Name]}
			if err := hook.CheckTrusted(s.Path); err != nil {
				script.Refused = err.Error()
			}
			f.Scripts = append(f.Scripts, script)
		}
	}
	return out
}

// hooks looks at the folders. A script that won't be run keeps a node from
// acquiring if an acquisition needs it.
func hooks(r *report, p *policy.Policy) {
	if len(p.VIPs) > 0 {
		if _, err := os.Stat(p.Hooks.Dir); errors.Is(err, fs.ErrNotExist) {
			r.ok("hooks", "%s isn't there: no script runs", p.Hooks.Dir)
			return
		}
	}
	for _, f := range Folders(p) {
		refused := 0
		for _, s := range f.GetScripts() {
			if s.GetRefused() == "" {
				continue
			}
			refused++
			if s.GetStage() == string(hook.Test) || s.GetStage() == string(hook.PreAcq) {
				r.fail("hooks", "", "%s: had won't run %s, which a takeover needs: %s", f.GetAddress(), s.GetName(), s.GetRefused())
			} else {
				r.warn("hooks", "", "%s: had won't run %s: %s", f.GetAddress(), s.GetName(), s.GetRefused())
			}
		}
		for _, w := range f.GetWarnings() {
			r.warn("hooks", "", "%s", w)
		}
		switch {
		case f.GetError() != "":
			r.fail("hooks", "", "%s", f.GetError())
		case f.GetDir() == "":
			r.ok("hooks", "%s: no folder, so no script runs", f.GetAddress())
		case refused == 0:
			r.ok("hooks", "%s: %d scripts, which only root can change", f.GetAddress(), len(f.GetScripts()))
		}
	}
}

// tests runs the Test scripts, or says which would run.
func tests(ctx context.Context, r *report, c Config, p *policy.Policy, run bool) {
	var there []string
	for _, f := range Folders(p) {
		for _, s := range f.GetScripts() {
			if s.GetStage() == string(hook.Test) {
				there = append(there, f.GetAddress())
			}
		}
	}
	switch {
	case len(there) == 0:
		return
	case !run:
		r.skip("Test", "not run; a takeover would first run that of %s (--run-tests runs it)", few(there))
		return
	}
	results, err := c.Tests(ctx)
	for _, t := range results {
		if t.OK() {
			r.ok("Test", "%s", t)
		} else {
			r.fail("Test", "", "%s; it printed: %q", t, tail(t.OutputTail))
		}
	}
	if err != nil {
		r.fail("Test", "", "%v", err)
	}
}

// tail is the end of what a script printed, short enough for a line.
func tail(out []byte) []byte {
	const most = 200
	return out[max(0, len(out)-most):]
}
