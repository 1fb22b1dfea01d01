package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"had/internal/policy"
	hadv1 "had/proto/had/v1"
)

const (
	neighboursEvery = 30 * time.Second
	neighbourWithin = 500 * time.Millisecond
)

// neighbours are the daemons of other clusters on this host: those whose sockets are
// in the same folder. What two of them have in their policies two hosts could hold,
// for each cluster knows of its own owner alone.
type neighbours struct {
	socket string // this daemon's
	policy func() (*policy.Policy, error)

	mu    sync.Mutex
	found []string // sentences
}

// run looks from time to time until ctx ends: any of them may have a new policy.
func (n *neighbours) run(ctx context.Context) error {
	tick := time.NewTicker(neighboursEvery)
	defer tick.Stop()
	for {
		if p, err := n.policy(); err == nil && p != nil {
			var found []string
			for _, why := range n.taken(ctx, p) {
				found = append(found, why+", as this cluster has: take it out of one of them")
			}
			slices.Sort(found)
			n.mu.Lock()
			n.found = slices.Compact(found)
			n.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// problems are what the policy in force shares with a neighbour's, as last seen.
func (n *neighbours) problems() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found
}

// taken says what of a policy a neighbour's policy has, too, by "vip.NAME" or
// "volume.NAME". A neighbour that doesn't answer has nothing.
func (n *neighbours) taken(ctx context.Context, p *policy.Policy) map[string]string {
	out := map[string]string{}
	for _, theirs := range n.ask(ctx) {
		for _, v := range theirs.GetPolicy().GetVips() {
			for _, ours := range p.VIPs {
				if ours.Address.String() == v.GetAddress() {
					out["vip."+ours.Name] = fmt.Sprintf("the cluster %q, which runs on this host, too, has %s in its policy", theirs.GetCluster(), v.GetAddress())
				}
			}
		}
		for _, v := range theirs.GetPolicy().GetVolumes() {
			for _, ours := range p.Volumes {
				if ours.Device == v.GetDevice() {
					out["volume."+ours.Name] = fmt.Sprintf("the cluster %q, which runs on this host, too, has the device %s in its policy", theirs.GetCluster(), v.GetDevice())
				}
				if ours.Path == v.GetPath() {
					out["volume."+ours.Name] = fmt.Sprintf("the cluster %q, which runs on this host, too, mounts on %s", theirs.GetCluster(), v.GetPath())
				}
			}
		}
	}
	return out
}

// ask returns what the neighbours that answer know of their own clusters.
func (n *neighbours) ask(ctx context.Context) (all []*hadv1.StatusResponse) {
	ctx, cancel := context.WithTimeout(ctx, neighbourWithin)
	defer cancel()
	sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(n.socket), "*.sock")) // its one error is a bad pattern
	answers := make([]*hadv1.StatusResponse, len(sockets))
	var asking sync.WaitGroup
	for i, path := range sockets {
		if path == n.socket {
			continue
		}
		asking.Go(func() {
			conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials())) // only root's may be in that folder
			if err != nil {
				return
			}
			defer conn.Close() //nolint:errcheck // it fails when closed already
			answers[i], _ = hadv1.NewHAClient(conn).Status(ctx, &hadv1.StatusRequest{})
		})
	}
	asking.Wait()
	for _, a := range answers {
		if a != nil {
			all = append(all, a)
		}
	}
	return all
}
