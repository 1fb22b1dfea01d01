package failover

import (
	"context"
	"errors"
	"slices"
	"strings"

	"had/storage"
)

func (s *shelf) flush(_ context.Context, volumes []storage.Volume) error {
	names := make([]string, len(volumes))
	for i, v := range volumes {
		names[i] = v.Name
	}
	when := ", before PreRel"
	if slices.ContainsFunc(s.r.diary.all(), func(line string) bool { return strings.HasPrefix(line, "PreRel") }) {
		when = ", too late"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed = append(s.flushed, strings.Join(names, " ")+when)
	return errors.New("the disk is slow")
}
