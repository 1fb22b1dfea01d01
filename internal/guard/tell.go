package guard

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	hadv1 "had/proto/had/v1"
)

// peers tells the other members over their cluster ports. The dialed port has
// authenticated both ends before gRPC sees a byte.
type peers struct {
	names  func() []string // of the other members at present
	dial   func(ctx context.Context, node string) (net.Conn, error)
	logger hclog.Logger
}

// Tell implements Teller: everybody at the same time, each until it has
// understood or ctx ends.
func (p *peers) Tell(ctx context.Context, f *hadv1.Farewell) {
	p.all(ctx, eager(), func(ctx context.Context, c hadv1.PeerClient) error {
		_, err := c.TakeFarewell(ctx, &hadv1.TakeFarewellRequest{Farewell: f}, grpc.WaitForReady(true))
		return err
	})
}

// TellSecured implements Teller. A node that can't be reached is tried ever less
// often: it may take hours until a network is whole again.
func (p *peers) TellSecured(ctx context.Context, s *hadv1.Secured) {
	p.all(ctx, patient(), func(ctx context.Context, c hadv1.PeerClient) error {
		_, err := c.TakeSecured(ctx, &hadv1.TakeSecuredRequest{Secured: s}, grpc.WaitForReady(true))
		return err
	})
}

// pace is how soon what failed is tried again.
type pace struct {
	connect backoff.Config
	answer  time.Duration // after a node has answered with an error
}

func eager() pace {
	return pace{backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond}, 100 * time.Millisecond}
}

func patient() pace {
	return pace{backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, time.Second}
}

func (p *peers) all(ctx context.Context, pace pace, say func(ctx context.Context, c hadv1.PeerClient) error) {
	var wg sync.WaitGroup
	for _, node := range p.names() {
		wg.Go(func() {
			if err := p.tell(ctx, node, pace, say); err != nil {
				p.logger.Warn("a node was not told what is over", "node", node, "error", err)
			}
		})
	}
	wg.Wait()
}

// tell says it to one node. say waits for the connection through refused
// attempts, as long as ctx lasts.
func (p *peers) tell(ctx context.Context, node string, pace pace, say func(ctx context.Context, c hadv1.PeerClient) error) error {
	const scheme = "passthrough:///"
	c, err := grpc.NewClient(scheme+node,
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return p.dial(ctx, strings.TrimPrefix(target, scheme))
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the port's TLS is underneath
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pace.connect, MinConnectTimeout: 500 * time.Millisecond}),
	)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", node, err)
	}
	defer func() { _ = c.Close() }() // all has been said
	again := time.NewTicker(pace.answer)
	defer again.Stop()
	for {
		if err = say(ctx, hadv1.NewPeerClient(c)); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}
