package api

import (
	"context"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"had/cluster"
	"had/internal/clock"
	"had/internal/failover"
	"had/internal/logs"
	"had/internal/notify"
	"had/internal/peer"
	"had/internal/policy"
	"had/internal/reconnect"
	hadv1 "had/proto/had/v1"
)

// Config is what the services answer from.
type Config struct {
	Cluster    string
	Self       string
	Members    func() []*hadv1.Member // of the cluster at present
	TwoVoters  bool                   // this node's had.hcl accepts a cluster of two voters
	Newcomer   func(ctx context.Context, name, address string) (peer.Newcomer, error)
	Node       *cluster.Node
	Controller *failover.Controller
	Peers      *Peers
	Tokens     *reconnect.Keeper
	TokenKey   string // path of this node's token key
	Timing     cluster.Timing
	Clock      clock.Source
	Problems   func() []string // of this node, whole sentences
	// Taken says what of a policy another cluster on this host has in its own, by
	// "vip.NAME" or "volume.NAME". It takes less than a second.
	Taken func(ctx context.Context, p *policy.Policy) map[string]string
	// Certificates are those that this node's connections rest on.
	Certificates func() []*hadv1.Certificate
	// Revoked is the digest of whose certificates this node refuses; empty without TLS.
	Revoked  func() string
	Notifier *notify.Notifier
	Version  *hadv1.VersionResponse
	Inspect  func(ctx context.Context, req *hadv1.InspectRequest) *hadv1.InspectResponse // of this host
	Log      *logs.Log                                                                   // nil: it can't be changed
}

// Server implements the HA and Peer services.
type Server struct {
	hadv1.UnimplementedHAServer
	hadv1.UnimplementedPeerServer
	cfg    Config
	policy parsedPolicy
}

// New returns the services.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Local returns a gRPC server for the root-only socket.
func (s *Server) Local() *grpc.Server {
	g := grpc.NewServer(append(guarded(byRoot), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true))...)
	hadv1.RegisterHAServer(g, s)
	return g
}

// Cluster returns a gRPC server for the cluster port: nodes ask each other
// there, and forward what operators ask.
func (s *Server) Cluster() *grpc.Server {
	g := grpc.NewServer(append(guarded(byNode),
		grpc.MaxSendMsgSize(maxMessage), grpc.MaxRecvMsgSize(maxMessage), grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	)...)
	hadv1.RegisterHAServer(g, s)
	hadv1.RegisterPeerServer(g, s)
	return g
}

// Operators returns a gRPC server for the cluster port's connections of
// operators. Who they are and what they may do is in their certificates.
func (s *Server) Operators() *grpc.Server { return operators(s) }

func operators(ha hadv1.HAServer) *grpc.Server {
	g := grpc.NewServer(append(guarded(byOperator),
		grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true), grpc.MaxConcurrentStreams(operatorStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: operatorIdle}),
	)...)
	hadv1.RegisterHAServer(g, ha)
	return g
}

const (
	operatorStreams = 16 // calls at the same time on one connection
	operatorIdle    = 5 * time.Minute
)

// forwardedKey marks a request that another node has passed on. It isn't
// passed on again: leadership may be changing, and the asker retries.
const forwardedKey = "had-forwarded"

func forwarded(ctx context.Context) bool {
	if callerOf(ctx) == "" {
		return false // only nodes pass on
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return len(md.Get(forwardedKey)) > 0
}

// askedBy completes who asked with where, on the node that was asked.
func (s *Server) askedBy(ctx context.Context, who string) string {
	if forwarded(ctx) {
		return who
	}
	if o, ok := operatorOf(ctx); ok {
		return o.String() + " by way of " + s.cfg.Self
	}
	if who == "" {
		who = "somebody"
	}
	return who + " on " + s.cfg.Self
}

// leader returns a client for the leader and the context to call it with;
// nil when this node leads.
func (s *Server) leader(ctx context.Context) (hadv1.HAClient, context.Context, error) {
	l := s.cfg.Node.Leadership()
	switch {
	case l.Leading:
		return nil, ctx, nil
	case l.Leader == "" || forwarded(ctx):
		return nil, ctx, errNoLeader
	}
	c, err := s.cfg.Peers.HA(l.Leader)
	return c, metadata.AppendToOutgoingContext(ctx, forwardedKey, s.cfg.Self), err
}

// settle waits a moment for a leader, so that a request in the middle of an
// election isn't refused.
func (s *Server) settle(ctx context.Context, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	for {
		changed := s.cfg.Node.LeadershipChanged()
		l := s.cfg.Node.Leadership()
		if l.Ready || !l.Leading && l.Leader != "" {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// onLeader has a write carried out by whoever leads: here, or by the leader's
// own API. While an election is under way it is tried again for a while; the
// writes are such that a second try of one that went through does no harm.
func onLeader[R any](ctx context.Context, s *Server, here func() (R, error), there func(context.Context, hadv1.HAClient) (R, error)) (R, error) {
	until := time.Now().Add(min(6*s.cfg.Timing.Election, patience))
	for {
		s.settle(ctx, until)
		changed := s.cfg.Node.LeadershipChanged()
		c, out, err := s.leader(ctx)
		var resp R
		switch {
		case err != nil:
		case c == nil:
			resp, err = here()
		default:
			resp, err = there(out, c)
		}
		err = statusOf(err)
		if status.Code(err) != codes.Unavailable || forwarded(ctx) || time.Now().After(until) {
			return resp, err
		}
		pause := time.NewTimer(s.cfg.Timing.Election / 2)
		select {
		case <-ctx.Done():
			return resp, err
		case <-changed:
		case <-pause.C:
		}
	}
}

// passOn has the leader's own API carry out a call, for onLeader.
func passOn[Q, R any](req Q, rpc func(hadv1.HAClient, context.Context, Q, ...grpc.CallOption) (R, error)) func(context.Context, hadv1.HAClient) (R, error) {
	return func(ctx context.Context, c hadv1.HAClient) (R, error) { return rpc(c, ctx, req) }
}

// patience is how long a write waits for a leader at the most: less than
// hactl waits for the answer.
const patience = 6 * time.Second

// Move implements HA.
func (s *Server) Move(ctx context.Context, req *hadv1.MoveRequest) (*hadv1.MoveResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.MoveResponse, error) { return s.cfg.Controller.Move(ctx, req) },
		passOn(req, hadv1.HAClient.Move))
}

// Timing implements HA. The waits are those of an epoch that would be opened by
// the policy in force.
func (s *Server) Timing(context.Context, *hadv1.TimingRequest) (*hadv1.TimingResponse, error) {
	view, _ := s.cfg.Node.View()
	return timing(s.cfg.Timing, s.cfg.Controller.Layers(), s.policy.of(view), s.cfg.Controller.Watchdog()), nil
}

func timing(t cluster.Timing, layers []string, p *policy.Policy, watchdog time.Duration) *hadv1.TimingResponse {
	terms := t.Terms(layers...)
	var volumes time.Duration
	if p != nil {
		terms.ReleaseGraceNs, terms.VolumeMarginNs = int64(p.ReleaseGrace), int64(p.Fence.Margin)
		switch {
		case slices.Contains(p.Fence.Methods, policy.MethodLease):
			volumes, _ = cluster.VolumeWait(terms, hadv1.Secured_KIND_LEASE)
		case slices.Contains(p.Fence.Methods, policy.MethodWatchdog) && watchdog > 0:
			terms.WatchdogTimeoutNs = int64(watchdog)
			volumes, _ = cluster.VolumeWait(terms, hadv1.Secured_KIND_WATCHDOG)
		}
	}
	return &hadv1.TimingResponse{
		DetectMs: ms(t.Detect), HeartbeatTimeoutMs: ms(t.Heartbeat), ElectionTimeoutMs: ms(t.Election),
		LeaderLeaseTimeoutMs: ms(t.LeaderLease), CommitTimeoutMs: ms(t.Commit), TtlMs: ms(t.TTL),
		RenewEveryMs: ms(t.Renew), ReleaseMarginMs: ms(t.Margin), AddressLifetimeMs: ms(t.AddressLifetime),
		TakeoverWaitMs: ms(cluster.TakeoverWait(terms)), ClockRateError: cluster.ClockRateError,
		Layers: terms.GetLayers(), ReleaseGraceMs: ms(time.Duration(terms.GetReleaseGraceNs())), VolumeWaitMs: ms(volumes),
	}
}

// Version implements HA.
func (s *Server) Version(context.Context, *hadv1.VersionRequest) (*hadv1.VersionResponse, error) {
	return s.cfg.Version, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Serve answers on a listener until ctx ends, and closes it. Calls under way
// get a moment to finish.
func Serve(ctx context.Context, g *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(time.Second, g.Stop)
		defer timer.Stop()
		g.GracefulStop()
	})
	defer stop()
	err := g.Serve(l)
	g.Stop() // waits for what AfterFunc has begun
	if ctx.Err() != nil {
		return nil
	}
	return err
}
