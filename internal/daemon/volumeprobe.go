package daemon

import (
	"context"
	"sync"

	"had/internal/failover"
	"had/internal/policy"
	"had/storage"
)

// volumeProbe looks whether volumes take writes, for the policy's checks. Each has
// a child process of its own, so that one that hangs says nothing of the others.
type volumeProbe struct {
	exe string

	mu     sync.Mutex
	lookAt map[string]*inspector // by the volume's path
}

func newVolumeProbe(exe string) *volumeProbe {
	return &volumeProbe{exe: exe, lookAt: map[string]*inspector{}}
}

// works implements check.Works.
func (p *volumeProbe) works(ctx context.Context, v policy.Volume) error {
	p.mu.Lock()
	i := p.lookAt[v.Path]
	if i == nil {
		i = &inspector{exe: p.exe}
		p.lookAt[v.Path] = i
	}
	p.mu.Unlock()
	return answer(i.ask(ctx, inspection{Op: inspectWorks, Volumes: []storage.Volume{failover.StorageVolume(v)}}))
}
