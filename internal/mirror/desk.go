package mirror

import (
	"context"
	"maps"
	"time"

	hadv1 "had/proto/had/v1"
)

// desk is what waits for a disk: reports and ages. A disk that doesn't answer must
// not keep a run from being ended.
type desk struct {
	mail    chan struct{} // capacity 1: there is something to write
	reports []*hadv1.SyncResult
	ages    map[string]time.Time // to be saved; nil: nothing is new
	saved   time.Time            // when the latest were put here
	lost    string               // why they can't be read or saved; empty: they can
}

// save has the ages saved; the mutex is held.
func (m *Mirror) save() {
	m.desk.ages, m.desk.saved = maps.Clone(m.fresh), time.Now()
	poke(m.desk.mail)
}

// write writes what is on the desk, until ctx ends and nothing is left.
func (m *Mirror) write(ctx context.Context) {
	for {
		m.mu.Lock()
		reports, ages := m.desk.reports, m.desk.ages
		m.desk.reports, m.desk.ages = nil, nil
		m.mu.Unlock()
		if len(reports) == 0 && ages == nil {
			select {
			case <-m.desk.mail:
				continue
			case <-ctx.Done():
				return
			}
		}
		for _, r := range reports {
			m.cfg.Report(context.WithoutCancel(ctx), r)
		}
		if ages == nil {
			continue
		}
		why := ""
		if err := m.cfg.Memory.Save(ages); err != nil {
			m.cfg.Logger.Warn("how old the copies are couldn't be saved", "error", err)
			why = err.Error()
		}
		m.mu.Lock()
		m.desk.lost = why
		m.mu.Unlock()
	}
}
