package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	hadv1 "had/proto/had/v1"
)

// Peers are connections to the other nodes over the cluster port, which has
// authenticated both ends before gRPC sees a byte.
type Peers struct {
	dial func(ctx context.Context, node string) (net.Conn, error)

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

// NewPeers returns a pool that dials nodes by name.
func NewPeers(dial func(ctx context.Context, node string) (net.Conn, error)) *Peers {
	return &Peers{dial: dial, conns: map[string]*grpc.ClientConn{}}
}

// Close closes all connections.
func (p *Peers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, c := range p.conns {
		errs = append(errs, c.Close())
	}
	clear(p.conns)
	return errors.Join(errs...)
}

const scheme = "passthrough:///"

func (p *Peers) conn(node string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[node]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient(scheme+node,
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return p.dial(ctx, strings.TrimPrefix(target, scheme))
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the port's TLS is underneath
		grpc.WithUnaryInterceptor(whole),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A healed network should be noticed within a second.
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		// A stopped process's kernel keeps its connections alive.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", node, err)
	}
	p.conns[node] = c
	return c, nil
}

// pingEvery is how often a connection with calls under way is tried.
const pingEvery = 10 * time.Second

// window is how many bytes may be under way unanswered. It is fixed: gRPC would
// otherwise measure the line, with a ping for each of our small messages.
const window = 1 << 20

// maxMessage bounds a gRPC message; a full history with hook output fits.
const maxMessage = 32 << 20

// HA returns the operators' service of a node.
func (p *Peers) HA(node string) (hadv1.HAClient, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewHAClient(c), nil
}

// Health implements failover.Peers.
func (p *Peers) Health(ctx context.Context, node string) (*hadv1.HealthResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Health(ctx, &hadv1.HealthRequest{})
}

// Prepare implements failover.Peers.
func (p *Peers) Prepare(ctx context.Context, node string, req *hadv1.PrepareRequest) (*hadv1.PrepareResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Prepare(ctx, req)
}

// Contact implements cluster.Peers.
func (p *Peers) Contact(ctx context.Context, node string, req *hadv1.ContactRequest) (*hadv1.ContactResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Contact(ctx, req)
}

// Propose implements failover.Peers.
func (p *Peers) Propose(ctx context.Context, node string, cmd *hadv1.Command) (*hadv1.ProposeResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Propose(ctx, &hadv1.ProposeRequest{Command: cmd})
}

// HandOver implements failover.Peers.
func (p *Peers) HandOver(ctx context.Context, node string, req *hadv1.HandOverRequest) (*hadv1.HandOverResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).HandOver(ctx, req)
}

// Interfaces asks a node which addresses of a policy it could not carry.
func (p *Peers) Interfaces(ctx context.Context, node, policy string) (*hadv1.InterfacesResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Interfaces(ctx, &hadv1.InterfacesRequest{Policy: policy})
}

// Inspect asks a node to look whether it could take over now.
func (p *Peers) Inspect(ctx context.Context, node string, req *hadv1.InspectRequest) (*hadv1.InspectResponse, error) {
	c, err := p.conn(node)
	if err != nil {
		return nil, err
	}
	return hadv1.NewPeerClient(c).Inspect(ctx, req)
}
