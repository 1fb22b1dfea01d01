package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"had/internal/failover"
	"had/internal/mirror"
	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

// syncs are this node's copies of the owner's data.
type syncs struct {
	*mirror.Mirror
	processes *mirror.Processes
}

// newSyncs returns them. ring, which they ask and report to, is made after them.
func newSyncs(cfg Config, log mirror.Log, ring func() *failover.Controller) *syncs {
	self := cfg.File.Self()
	logger := cfg.Logger.Named("sync")
	p, why := mirror.NewProcesses(cfg.File.DataDir)
	if why != "" {
		logger.Debug("syncs run without control groups, one at a time", "why", why)
	}
	return &syncs{processes: p, Mirror: mirror.New(mirror.Config{
		Cluster: cfg.File.Cluster, Self: &hadv1.Member{Name: self.Name, Witness: self.Witness}, Log: log,
		Policy:   func() (*policy.Policy, error) { return ring().PolicyInForce() },
		Holding:  func() bool { return ring().Holds() },
		Report:   func(ctx context.Context, r *hadv1.SyncResult) { ring().ReportSync(ctx, r) },
		Commands: p, Memory: mirror.File(filepath.Join(cfg.File.DataDir, "syncs.json")), Jitter: jitter, Logger: logger,
	})}
}

func (s *syncs) close() { s.processes.Close() }

// jitter is a random time up to most.
func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most) //nolint:gosec // it keeps nodes apart, nothing else
}

// endSyncs ends what a daemon that has died left running of its syncs.
func endSyncs(ctx context.Context, dataDir string) error {
	p, _ := mirror.NewProcesses(dataDir)
	defer p.Close()
	names, err := p.Left()
	errs := []error{err}
	for _, name := range names {
		if err := p.End(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("end sync %s, which may still write: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
