package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	hadv1 "had/proto/had/v1"
)

// fakeHA answers each method with what a script says. A script has one call a
// line, in the order of the method's calls; the further answers of a stream
// follow behind a plus:
//
//	Status {"cluster": "office"}        the message, as protobuf JSON
//	Move error UNAVAILABLE no leader    a status code and its sentence
//	Move hangup                         all connections break
//	PolicyShow hold                     no answer before the client gives up
//	History {"events": []}
//	+ end                               the stream ends well
//
// A stream stays open after the last of its answers. In a message $OPERATION
// is the operation of the latest move asked for.
type fakeHA struct {
	hadv1.UnimplementedHAServer
	listener *trackingListener

	mu        sync.Mutex
	calls     map[string][][]string // answers of the calls to come, by method
	requests  strings.Builder       // one line a request, in the order of arrival
	operation string
}

func newFakeHA(script string) *fakeHA {
	f := &fakeHA{calls: map[string][][]string{}}
	method := ""
	for line := range strings.Lines(script) {
		word, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "":
		case "+":
			call := &f.calls[method][len(f.calls[method])-1]
			*call = append(*call, answer)
		default:
			method = word
			f.calls[method] = append(f.calls[method], []string{answer})
		}
	}
	return f
}

// serve listens on path until stop is called.
func (f *fakeHA) serve(path string) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen as a fake had: %w", err)
	}
	f.listener = &trackingListener{Listener: l}
	f.listener.grown = sync.NewCond(&f.listener.mu)
	server := grpc.NewServer()
	hadv1.RegisterHAServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(f.listener) }()
	return func() {
		server.Stop()
		<-done
	}, nil
}

// startFake serves script for one test and returns the socket.
func startFake(t *testing.T, script string) (*fakeHA, string) {
	t.Helper()
	f := newFakeHA(script)
	path := t.TempDir() + "/had.sock"
	stop, err := f.serve(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return f, path
}

// asked returns the requests so far, one line each.
func (f *fakeHA) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests.String()
}

func (f *fakeHA) note(method string, req proto.Message) error {
	// protojson varies its spaces on purpose; encoding/json doesn't.
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(req)
	if err != nil {
		return err
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := req.(*hadv1.MoveRequest); ok {
		f.operation = m.GetOperation()
		fields["operation"] = "$OPERATION"
	}
	if m, ok := req.(*hadv1.FreezeRequest); ok {
		f.operation = m.GetOperation()
		fields["operation"] = "$OPERATION"
	}
	line, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	fmt.Fprintf(&f.requests, "%s %s\n", method, line)
	return nil
}

// begin notes a request and returns the answers to it.
func (f *fakeHA) begin(method string, req proto.Message) ([]string, error) {
	if err := f.note(method, req); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	left := f.calls[method]
	if len(left) == 0 {
		return nil, status.Errorf(codes.Internal, "the script has no answer to this %s", method)
	}
	f.calls[method] = left[1:]
	return left[0], nil
}

// play fills reply with an answer. end is true when there is no message but a
// good end. last is what the stream has sent before, as it goes over the wire.
func (f *fakeHA) play(ctx context.Context, answer string, last []byte, reply proto.Message) (end bool, err error) {
	f.mu.Lock()
	answer = strings.ReplaceAll(answer, "$OPERATION", f.operation)
	f.mu.Unlock()
	verb, rest, _ := strings.Cut(answer, " ")
	switch verb {
	case "end":
		return true, nil
	case "hold":
		<-ctx.Done()
		return false, ctx.Err()
	case "hangup":
		f.listener.hangUp(last)
		<-ctx.Done()
		return false, ctx.Err()
	case "error":
		name, sentence, _ := strings.Cut(rest, " ")
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
			return false, err
		}
		return false, status.Error(code, sentence)
	}
	return false, protojson.Unmarshal([]byte(answer), reply)
}

func unary[T proto.Message](ctx context.Context, f *fakeHA, method string, req proto.Message, reply T) (T, error) {
	answers, err := f.begin(method, req)
	if err != nil {
		return reply, err
	}
	_, err = f.play(ctx, answers[0], nil, reply)
	return reply, err
}

func serverStream[T any, P interface {
	*T
	proto.Message
}](f *fakeHA, method string, req proto.Message, s grpc.ServerStreamingServer[T]) error {
	answers, err := f.begin(method, req)
	if err != nil {
		return err
	}
	var last []byte
	for _, answer := range append(answers, "hold") {
		m := P(new(T))
		end, err := f.play(s.Context(), answer, last, m)
		if end || err != nil {
			return err
		}
		if last, err = proto.Marshal(m); err != nil {
			return err
		}
		if err := s.Send((*T)(m)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeHA) Status(ctx context.Context, r *hadv1.StatusRequest) (*hadv1.StatusResponse, error) {
	return unary(ctx, f, "Status", r, &hadv1.StatusResponse{})
}

func (f *fakeHA) Move(ctx context.Context, r *hadv1.MoveRequest) (*hadv1.MoveResponse, error) {
	return unary(ctx, f, "Move", r, &hadv1.MoveResponse{})
}

func (f *fakeHA) ConfirmFence(ctx context.Context, r *hadv1.ConfirmFenceRequest) (*hadv1.ConfirmFenceResponse, error) {
	return unary(ctx, f, "ConfirmFence", r, &hadv1.ConfirmFenceResponse{})
}

func (f *fakeHA) SyncRun(ctx context.Context, r *hadv1.SyncRunRequest) (*hadv1.SyncRunResponse, error) {
	return unary(ctx, f, "SyncRun", r, &hadv1.SyncRunResponse{})
}

func (f *fakeHA) SyncResume(ctx context.Context, r *hadv1.SyncResumeRequest) (*hadv1.SyncResumeResponse, error) {
	return unary(ctx, f, "SyncResume", r, &hadv1.SyncResumeResponse{})
}

func (f *fakeHA) TokenShow(ctx context.Context, r *hadv1.TokenShowRequest) (*hadv1.TokenShowResponse, error) {
	return unary(ctx, f, "TokenShow", r, &hadv1.TokenShowResponse{})
}

func (f *fakeHA) TokenSet(ctx context.Context, r *hadv1.TokenSetRequest) (*hadv1.TokenSetResponse, error) {
	return unary(ctx, f, "TokenSet", r, &hadv1.TokenSetResponse{})
}

func (f *fakeHA) TokenForget(ctx context.Context, r *hadv1.TokenForgetRequest) (*hadv1.TokenForgetResponse, error) {
	return unary(ctx, f, "TokenForget", r, &hadv1.TokenForgetResponse{})
}

func (f *fakeHA) TokenKey(ctx context.Context, r *hadv1.TokenKeyRequest) (*hadv1.TokenKeyResponse, error) {
	return unary(ctx, f, "TokenKey", r, &hadv1.TokenKeyResponse{})
}

func (f *fakeHA) SnapshotSave(ctx context.Context, r *hadv1.SnapshotSaveRequest) (*hadv1.SnapshotSaveResponse, error) {
	return unary(ctx, f, "SnapshotSave", r, &hadv1.SnapshotSaveResponse{})
}

func (f *fakeHA) SnapshotRestore(ctx context.Context, r *hadv1.SnapshotRestoreRequest) (*hadv1.SnapshotRestoreResponse, error) {
	return unary(ctx, f, "SnapshotRestore", r, &hadv1.SnapshotRestoreResponse{})
}

func (f *fakeHA) NotifyTest(ctx context.Context, r *hadv1.NotifyTestRequest) (*hadv1.NotifyTestResponse, error) {
	return unary(ctx, f, "NotifyTest", r, &hadv1.NotifyTestResponse{})
}

func (f *fakeHA) Freeze(ctx context.Context, r *hadv1.FreezeRequest) (*hadv1.FreezeResponse, error) {
	return unary(ctx, f, "Freeze", r, &hadv1.FreezeResponse{})
}

func (f *fakeHA) Unfreeze(ctx context.Context, r *hadv1.UnfreezeRequest) (*hadv1.UnfreezeResponse, error) {
	return unary(ctx, f, "Unfreeze", r, &hadv1.UnfreezeResponse{})
}

func (f *fakeHA) UpgradeFinish(ctx context.Context, r *hadv1.UpgradeFinishRequest) (*hadv1.UpgradeFinishResponse, error) {
	return unary(ctx, f, "UpgradeFinish", r, &hadv1.UpgradeFinishResponse{})
}

func (f *fakeHA) Drain(ctx context.Context, r *hadv1.DrainRequest) (*hadv1.DrainResponse, error) {
	return unary(ctx, f, "Drain", r, &hadv1.DrainResponse{})
}

func (f *fakeHA) NodeList(ctx context.Context, r *hadv1.NodeListRequest) (*hadv1.NodeListResponse, error) {
	return unary(ctx, f, "NodeList", r, &hadv1.NodeListResponse{})
}

func (f *fakeHA) NodeAdd(ctx context.Context, r *hadv1.NodeAddRequest) (*hadv1.NodeAddResponse, error) {
	return unary(ctx, f, "NodeAdd", r, &hadv1.NodeAddResponse{})
}

func (f *fakeHA) NodeRemove(ctx context.Context, r *hadv1.NodeRemoveRequest) (*hadv1.NodeRemoveResponse, error) {
	return unary(ctx, f, "NodeRemove", r, &hadv1.NodeRemoveResponse{})
}

func (f *fakeHA) Undrain(ctx context.Context, r *hadv1.UndrainRequest) (*hadv1.UndrainResponse, error) {
	return unary(ctx, f, "Undrain", r, &hadv1.UndrainResponse{})
}

func (f *fakeHA) Resume(ctx context.Context, r *hadv1.ResumeRequest) (*hadv1.ResumeResponse, error) {
	return unary(ctx, f, "Resume", r, &hadv1.ResumeResponse{})
}

func (f *fakeHA) PolicyValidate(ctx context.Context, r *hadv1.PolicyValidateRequest) (*hadv1.PolicyValidateResponse, error) {
	return unary(ctx, f, "PolicyValidate", r, &hadv1.PolicyValidateResponse{})
}

func (f *fakeHA) PolicyApply(ctx context.Context, r *hadv1.PolicyApplyRequest) (*hadv1.PolicyApplyResponse, error) {
	return unary(ctx, f, "PolicyApply", r, &hadv1.PolicyApplyResponse{})
}

func (f *fakeHA) PolicyShow(ctx context.Context, r *hadv1.PolicyShowRequest) (*hadv1.PolicyShowResponse, error) {
	return unary(ctx, f, "PolicyShow", r, &hadv1.PolicyShowResponse{})
}

func (f *fakeHA) PolicyPlan(ctx context.Context, r *hadv1.PolicyPlanRequest) (*hadv1.PolicyPlanResponse, error) {
	return unary(ctx, f, "PolicyPlan", r, &hadv1.PolicyPlanResponse{})
}

func (f *fakeHA) PolicyConfirm(ctx context.Context, r *hadv1.PolicyConfirmRequest) (*hadv1.PolicyConfirmResponse, error) {
	return unary(ctx, f, "PolicyConfirm", r, &hadv1.PolicyConfirmResponse{})
}

func (f *fakeHA) PolicyVersions(ctx context.Context, r *hadv1.PolicyVersionsRequest) (*hadv1.PolicyVersionsResponse, error) {
	return unary(ctx, f, "PolicyVersions", r, &hadv1.PolicyVersionsResponse{})
}

func (f *fakeHA) Timing(ctx context.Context, r *hadv1.TimingRequest) (*hadv1.TimingResponse, error) {
	return unary(ctx, f, "Timing", r, &hadv1.TimingResponse{})
}

func (f *fakeHA) Version(ctx context.Context, r *hadv1.VersionRequest) (*hadv1.VersionResponse, error) {
	return unary(ctx, f, "Version", r, &hadv1.VersionResponse{})
}

func (f *fakeHA) WhyNot(ctx context.Context, r *hadv1.WhyNotRequest) (*hadv1.WhyNotResponse, error) {
	return unary(ctx, f, "WhyNot", r, &hadv1.WhyNotResponse{})
}

func (f *fakeHA) Preflight(ctx context.Context, r *hadv1.PreflightRequest) (*hadv1.PreflightResponse, error) {
	return unary(ctx, f, "Preflight", r, &hadv1.PreflightResponse{})
}

func (f *fakeHA) HookList(ctx context.Context, r *hadv1.HookListRequest) (*hadv1.HookListResponse, error) {
	return unary(ctx, f, "HookList", r, &hadv1.HookListResponse{})
}

func (f *fakeHA) HookRun(ctx context.Context, r *hadv1.HookRunRequest) (*hadv1.HookRunResponse, error) {
	return unary(ctx, f, "HookRun", r, &hadv1.HookRunResponse{})
}

func (f *fakeHA) ShowLogLevel(ctx context.Context, r *hadv1.ShowLogLevelRequest) (*hadv1.ShowLogLevelResponse, error) {
	return unary(ctx, f, "ShowLogLevel", r, &hadv1.ShowLogLevelResponse{})
}

func (f *fakeHA) LogLevel(ctx context.Context, r *hadv1.LogLevelRequest) (*hadv1.LogLevelResponse, error) {
	return unary(ctx, f, "LogLevel", r, &hadv1.LogLevelResponse{})
}

func (f *fakeHA) History(r *hadv1.HistoryRequest, s grpc.ServerStreamingServer[hadv1.HistoryResponse]) error {
	return serverStream(f, "History", r, s)
}

func (f *fakeHA) Watch(r *hadv1.WatchRequest, s grpc.ServerStreamingServer[hadv1.WatchResponse]) error {
	return serverStream(f, "Watch", r, s)
}

// trackingListener can break every connection it has accepted, as the death
// of a daemon does.
type trackingListener struct {
	net.Listener

	mu      sync.Mutex
	grown   *sync.Cond // written has grown
	written []byte     // to all connections
	conns   []net.Conn
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn)
	return &trackedConn{conn, l}, nil
}

// hangUp closes all connections, but not before last, the latest message that
// was sent, is on its way: gRPC writes it some time after Send.
func (l *trackingListener) hangUp(last []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !bytes.Contains(l.written, last) {
		l.grown.Wait()
	}
	for _, c := range l.conns {
		_ = c.Close() // closed by the client already, then
	}
	l.conns = nil
}

type trackedConn struct {
	net.Conn
	listener *trackingListener
}

func (c *trackedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.listener.written = append(c.listener.written, p[:n]...)
	c.listener.grown.Broadcast()
	return n, err
}
