package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	records "had/internal/level"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// maxAnswer bounds one message from the daemon; a full history with hook
// output is a few MiB.
const maxAnswer = 64 << 20

// client is the HA service behind one socket, or one node's cluster port.
type client struct {
	hadv1.HAClient
	conn   *grpc.ClientConn
	dialer *dialer
}

// connect finds the daemon and prepares to talk to it; the first RPC dials.
func (c *cli) connect() (*client, error) {
	d, err := c.newDialer()
	if err != nil {
		return nil, err
	}
	// The socket's mode is what protects it, and the dialer of a node elsewhere
	// has its own TLS. The name is passed through because unix: targets would
	// unescape the path as a URL.
	conn, err := grpc.NewClient("passthrough:///had",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(d.dial),
		grpc.WithAuthority("localhost"),
		grpc.WithChainUnaryInterceptor(d.intercept, c.redactAnswer),
		grpc.WithStreamInterceptor(c.redactStream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("prepare the connection to %s: %w", d.path, err)
	}
	return &client{hadv1.NewHAClient(conn), conn, d}, nil
}

func (c *cli) newDialer() (*dialer, error) {
	if address := c.nodeAddress(); address != "" {
		return c.operatorDialer(address)
	}
	path, err := c.socketPath()
	if err != nil {
		return nil, err
	}
	return &dialer{path: path, open: openSocket(path)}, nil
}

func (cl *client) close() { _ = cl.conn.Close() } // only fails when closed already

// call asks the daemon one thing within the time allowed.
func call[T any](ctx context.Context, c *cli, do func(context.Context, *client) (T, error)) (T, error) {
	return callWithin(ctx, c, c.limit(readTimeout), do)
}

// callWithin is call for what takes longer than others.
func callWithin[T any](ctx context.Context, c *cli, allowed time.Duration, do func(context.Context, *client) (T, error)) (T, error) {
	var none T
	cl, err := c.connect()
	if err != nil {
		return none, err
	}
	defer cl.close()
	ctx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	answer, err := do(ctx, cl)
	awaitDeadline(ctx, err)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return none, noAnswer(allowed)
	}
	return answer, err
}

// awaitDeadline makes sure that an RPC that ended for want of time is seen as
// such: the daemon has the same deadline, may notice it a moment earlier and
// resets the stream then.
func awaitDeadline(ctx context.Context, err error) {
	const moment = 100 * time.Millisecond
	code := status.Code(err)
	deadline, ok := ctx.Deadline()
	if ok && time.Until(deadline) < moment && (code == codes.Canceled || code == codes.DeadlineExceeded) {
		<-ctx.Done()
	}
}

// socketPath returns the daemon's socket: as named by a flag or HACTL_SOCKET,
// else the only one there is.
func (c *cli) socketPath() (string, error) {
	switch {
	case c.socket != "":
		return c.socket, nil
	case c.cluster != "":
		return filepath.Join(c.socketDir, c.cluster+".sock"), nil
	case c.env("HACTL_SOCKET") != "":
		return c.env("HACTL_SOCKET"), nil
	}
	clusters, err := c.clustersHere()
	if err != nil {
		return "", err
	}
	switch len(clusters) {
	case 0:
		return "", c.noSocket()
	case 1:
		return filepath.Join(c.socketDir, clusters[0]+".sock"), nil
	}
	return "", fail(exitUsage, "several clusters have a node on this host: choose one with --cluster %s, or see them all with hactl status --all", strings.Join(clusters, "|"))
}

// clustersHere are those with a socket on this host, by name.
func (c *cli) clustersHere() (clusters []string, err error) {
	entries, err := os.ReadDir(c.socketDir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, notPermitted(c.socketDir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for had's socket: %w", err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok {
			clusters = append(clusters, name)
		}
	}
	return clusters, nil
}

func (c *cli) noSocket() error {
	return fail(exitUnreachable, "%w in %s: is had running here? systemctl status had", errNoSocket, c.socketDir)
}

// errNoSocket means that no daemon on this host has a socket where it is looked for.
var errNoSocket = errors.New("no had socket")

// dialer connects to the daemon and remembers how that went, because gRPC
// turns every cause into the same code.
type dialer struct {
	path   string // the socket's, or the address of a node elsewhere
	remote bool
	open   func(context.Context) (net.Conn, error)

	mu        sync.Mutex
	connected bool  // at least once
	err       error // of the latest attempt
}

func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := d.open(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	d.connected = d.connected || err == nil
	return conn, err
}

func (d *dialer) lost(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &lostError{socket: d.path, remote: d.remote, connected: d.connected, dial: d.err, err: err}
}

// intercept keeps back a request that an older had would carry out only in part,
// and tells an UNAVAILABLE that the daemon answered from one that gRPC
// made up for want of a connection. An answer without a message is one header
// block, so its trailer carries at least the content type (gRPC over HTTP/2,
// "Trailers-Only"); a made-up one has none.
func (d *dialer) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if m, ok := req.(proto.Message); ok {
		if needs, _ := records.Needs(m); needs > records.First {
			v, err := hadv1.NewHAClient(conn).Version(ctx, &hadv1.VersionRequest{}) // by way of intercept, too
			if err != nil {
				return err
			}
			if lacks := records.Lacks(m, v); lacks != "" {
				return fail(exitRefused, "%s", lacks)
			}
		}
	}
	var trailer metadata.MD
	err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Trailer(&trailer))...)
	if status.Code(err) == codes.Unavailable && len(trailer) == 0 {
		return d.lost(err)
	}
	return err
}

// subscription is a server stream that outlives lost connections.
type subscription[T any] struct {
	client *client
	// open starts the stream, again after each loss.
	open func(context.Context, ...grpc.CallOption) (grpc.ServerStreamingClient[T], error)
	// handle gets each message; done ends the subscription.
	handle func(*T) (done bool, err error)
	// lost is told of each loss; nil: a loss ends the subscription.
	lost func(error)
	// patience bounds the wait for the very first message; 0: the context does.
	patience time.Duration
	// persist makes even the first connection worth retrying.
	persist bool
}

// retryDelay keeps a daemon that closes every stream at once from being asked
// without pause; how fast a vanished one is dialled again is gRPC's back-off.
const retryDelay = 200 * time.Millisecond

// run returns nil once handle is done, or when the server ended a stream that
// isn't to be reopened.
func (s *subscription[T]) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	first := func() {}
	if s.patience > 0 {
		t := time.AfterFunc(s.patience, func() { cancel(errNoAnswer) })
		defer t.Stop()
		first = func() { t.Stop() }
	}
	retry := s.persist
	for {
		got, done, err := s.read(ctx, first, retry)
		retry = retry || got
		awaitDeadline(ctx, err)
		switch {
		case done || (err == nil && s.lost == nil):
			return nil
		case errors.Is(context.Cause(ctx), errNoAnswer):
			return noAnswer(s.patience)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !retry || s.lost == nil || !worthRetrying(err):
			return err
		}
		s.lost(err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

// read reads one stream to its end. A nil error without done is a stream that
// the server ended.
func (s *subscription[T]) read(ctx context.Context, first func(), wait bool) (got, done bool, err error) {
	stream, err := s.open(ctx, grpc.WaitForReady(wait))
	if err != nil {
		return false, false, s.explain(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, false, nil
		}
		if err != nil {
			if len(stream.Trailer()) == 0 {
				err = s.explain(err)
			}
			return got, false, err
		}
		if !got {
			got = true
			first()
		}
		if done, err := s.handle(m); done || err != nil {
			return got, done, err
		}
	}
}

func (s *subscription[T]) explain(err error) error {
	if status.Code(err) == codes.Unavailable {
		return s.client.dialer.lost(err)
	}
	return err
}

// worthRetrying reports whether the same node may answer in a moment: the
// stream ended, its daemon restarts or there is no leader just now.
func worthRetrying(err error) bool {
	if err == nil {
		return true
	}
	if lost, ok := errors.AsType[*lostError](err); ok {
		_, refused := errors.AsType[*peer.NotAdmittedError](lost.dial)
		return !refused && !errors.Is(lost.dial, fs.ErrPermission)
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.Aborted:
		return true
	}
	return false
}
