package nettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	hadv1 "had/proto/had/v1"
)

// askLimit bounds one question to a daemon.
const askLimit = 10 * time.Second

// ask asks a node's daemon over its socket. Each question has a connection of
// its own: one that waits for a daemon to come back would make tests slow.
func (s *site) ask(t *testing.T, node string, question func(ctx context.Context, ha hadv1.HAClient) error) error {
	t.Helper()
	return s.askUntil(t.Context(), t, node, question)
}

func (s *site) askUntil(ctx context.Context, t *testing.T, node string, question func(ctx context.Context, ha hadv1.HAClient) error) error {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+s.Host(node).Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := question(ctx, hadv1.NewHAClient(conn)); err != nil {
		return fmt.Errorf("ask %s: %w", node, err)
	}
	return nil
}

func (s *site) status(t *testing.T, node string) (st *hadv1.StatusResponse, err error) {
	t.Helper()
	err = s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		st, err = ha.Status(ctx, &hadv1.StatusRequest{})
		return err
	})
	return st, err
}

// ownerSaidBy returns who serves, if a node says so, confirmed by a quorum.
func (s *site) ownerSaidBy(t *testing.T, node string) (string, error) {
	t.Helper()
	st, err := s.status(t, node)
	if err != nil {
		return "", err
	}
	if o := st.GetOwnership(); o.GetState() == hadv1.Ownership_STATE_OWNED && st.GetFreshness().GetConfirmed() {
		return o.GetOwner(), nil
	}
	return "", describe(st)
}

// nodeStatus is what a node says of another, or of itself.
func (s *site) nodeStatus(t *testing.T, asked, about string) (*hadv1.NodeStatus, error) {
	t.Helper()
	st, err := s.status(t, asked)
	if err != nil {
		return nil, err
	}
	for _, n := range st.GetNodes() {
		if n.GetName() == about {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s knows no node %s", asked, about)
}

// history returns all events as a node has applied them.
func (s *site) history(t *testing.T, node string) ([]*hadv1.Event, error) {
	t.Helper()
	return s.historyUntil(t.Context(), t, node)
}

func (s *site) historyUntil(ctx context.Context, t *testing.T, node string) (events []*hadv1.Event, err error) {
	t.Helper()
	err = s.askUntil(ctx, t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		stream, err := ha.History(ctx, &hadv1.HistoryRequest{})
		if err != nil {
			return err
		}
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if n := resp.GetEventsDropped(); n > 0 {
				return fmt.Errorf("%d events are no longer kept", n)
			}
			events = append(events, resp.GetEvents()...)
		}
	})
	return events, err
}

// apply has a policy applied through a node, whoever leads. A request in the
// middle of an election is asked again.
func (s *site) apply(t *testing.T, node, text string) *hadv1.PolicyApplyResponse {
	t.Helper()
	var resp *hadv1.PolicyApplyResponse
	eventually(t, node+" takes a policy", func() error {
		return s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) (err error) {
			resp, err = ha.PolicyApply(ctx, &hadv1.PolicyApplyRequest{Filename: "policy.hcl", Text: text, By: "the test"})
			return err
		})
	})
	for _, d := range resp.GetDiagnostics() {
		if d.GetSeverity() == hadv1.Diagnostic_SEVERITY_ERROR {
			t.Fatalf("the policy was refused:\n%s", d.GetRendered())
		}
	}
	return resp
}

// move orders a planned move through a node; target "" lets the owner choose.
func (s *site) move(t *testing.T, node, target string) (resp *hadv1.MoveResponse, err error) {
	t.Helper()
	err = s.ask(t, node, func(ctx context.Context, ha hadv1.HAClient) error {
		resp, err = ha.Move(ctx, &hadv1.MoveRequest{
			Target: target, By: "the test", Operation: fmt.Sprintf("%s-%d", t.Name(), time.Now().UnixNano()),
		})
		return err
	})
	return resp, err
}
