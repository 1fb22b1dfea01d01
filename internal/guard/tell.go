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
	names  []string
	dial   func(ctx context.Context, node string) (net.Conn, error)
	logger hclog.Logger
}

// Tell implements Teller: everybody at the same time, each until it has
// understood or ctx ends.
func (p *peers) Tell(ctx context.Context, f *hadv1.Farewell) {
	var wg sync.WaitGroup
	for _, node := range p.names {
		wg.Go(func() {
			if err := p.tell(ctx, node, f); err != nil {
				p.logger.Warn("a node was not told that the epoch is released", "node", node, "error", err)
			}
		})
	}
	wg.Wait()
}

func (p *peers) tell(ctx context.Context, node string, f *hadv1.Farewell) error {
	const scheme = "passthrough:///"
	c, err := grpc.NewClient(scheme+node,
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return p.dial(ctx, strings.TrimPrefix(target, scheme))
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the port's TLS is underneath
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 500 * time.Millisecond,
		}),
	)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", node, err)
	}
	defer func() { _ = c.Close() }() // all has been said
	again := time.NewTicker(tellEvery)
	defer again.Stop()
	for {
		// Waits for the connection through refused attempts, as long as ctx lasts.
		_, err = hadv1.NewPeerClient(c).TakeFarewell(ctx, &hadv1.TakeFarewellRequest{Farewell: f}, grpc.WaitForReady(true))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}

// tellEvery is how often a node that answers with an error is told again.
const tellEvery = 100 * time.Millisecond
