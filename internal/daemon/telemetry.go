package daemon

import (
	"cmp"
	"context"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"had/internal/api"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/telemetry"
)

// tellMonitoring serves telemetry from now on, if the node file says where. The
// returned function ends that.
func (n *node) tellMonitoring(ctx context.Context) func() error {
	f := n.cfg.File
	if f.Telemetry.Listen == "" {
		return func() error { return nil }
	}
	c := telemetry.Config{
		Listen: f.Telemetry.Listen, Cluster: f.Cluster, Node: f.Node, Version: n.cfg.Version, Logger: n.cfg.Logger.Named("telemetry"),
		NotYet: func() string {
			return cmp.Or(strings.Join(n.port.Waiting(), "; "), "this node is opening its log")
		},
	}
	if f.Telemetry.TLS {
		c.TLS = n.port.TLS().ForOperators(f.Cluster)
	}
	n.telemetry = telemetry.New(c)
	return background(ctx, n.telemetry.Run)
}

// monitored gives the telemetry what it tells once the log is open.
func (n *node) monitored() {
	if n.telemetry != nil {
		n.telemetry.Attach(telemetry.Source{
			Facts: n.facts, Ready: n.part, AtStart: n.raft.AtStart(), History: n.raft.History,
		})
	}
}

// telemetryProblems are why nobody can ask for it.
func (n *node) telemetryProblems() []string {
	if n.telemetry == nil || n.telemetry.Problem() == "" {
		return nil
	}
	return []string{n.telemetry.Problem()}
}

// part is what memory knows of this node's part in the cluster.
func (n *node) part() telemetry.Facts {
	f := telemetry.Facts{Leadership: n.raft.Leadership(), Unable: n.raft.Problem()}
	if f.Leadership.Leading {
		f.Leadership.Leader = n.cfg.File.Node
	}
	return f
}

func (n *node) facts() telemetry.Facts {
	f := n.part()
	now, ring := clock.Now(), n.controller.Status()
	f.View, _ = n.raft.View()
	f.Members, f.Witness, f.Figures = f.View.Birth.GetMembers(), n.cfg.File.Self().Witness, n.raft.Figures()
	f.Serving = ring.Holding.Phase == failover.PhaseServing
	if ring.LeaseUntil != 0 {
		f.Lease = max(0, ring.LeaseUntil.Sub(now))
	}
	if f.Leadership.Leading {
		f.Confirmed = -1
		if at := n.raft.Confirmed(); at != 0 {
			f.Confirmed = now.Sub(at)
		}
		f.Answers = map[string]bool{}
		for node, silent := range n.silent() {
			f.Answers[node] = !silent
		}
		f.Notify, f.Waiting = n.notifier.Status(), len(api.VolumesWaiting(n.raft, n.controller, n.cfg.File.Node))
	}
	f.Health, f.Problems = n.controller.Health(), len(n.problems())
	f.Problems += len(f.Health.GetProblems())
	if s := n.safeguards; s != nil {
		f.Guard, f.Watchdog = s.guard.Alive() == nil, s.guard.Armed() > 0
		f.Gate = s.gate != nil && s.gate.Problem() == nil
	}
	if files := n.port.TLS(); files != nil {
		f.Certificates = files.Certificates()
	}
	var err error
	f.Data, f.Free, err = space(n.cfg.File.DataDir)
	f.StorageFailed = err != nil
	return f
}

// space returns how much is in a folder, and how much its file system has left for
// more.
func space(dir string) (used, free int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it was removed meanwhile, as a log's oldest file is
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			used += info.Size()
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return used, int64(s.Bavail) * s.Bsize, nil //nolint:gosec // statfs(2): no file system is so large
}
