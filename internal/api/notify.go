package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"had/cluster"
	"had/internal/failover"
	"had/internal/notify"
	hadv1 "had/proto/had/v1"
)

// NotifyTest implements HA. Nothing of it is in the log: a test that is asked for
// again is sent again.
func (s *Server) NotifyTest(ctx context.Context, req *hadv1.NotifyTestRequest) (*hadv1.NotifyTestResponse, error) {
	req.By = s.askedBy(ctx, req.GetBy())
	return onLeader(ctx, s,
		func() (*hadv1.NotifyTestResponse, error) { return s.notifyTest(ctx, req) },
		passOn(req, hadv1.HAClient.NotifyTest))
}

func (s *Server) notifyTest(ctx context.Context, req *hadv1.NotifyTestRequest) (*hadv1.NotifyTestResponse, error) {
	results, err := s.cfg.Notifier.Test(ctx, req.GetName())
	if _, unknown := errors.AsType[*notify.NoChannelError](err); unknown {
		return nil, fmt.Errorf("%w: %w", failover.ErrRefused, err)
	}
	if err != nil {
		return nil, err
	}
	return &hadv1.NotifyTestResponse{Node: s.cfg.Self, Results: results}, nil
}

// VolumesWaiting lists the epochs whose volumes a leader waits for.
func VolumesWaiting(node *cluster.Node, c *failover.Controller, self string) (out []notify.Waiting) {
	view, _ := node.View()
	for _, u := range unsecured(view, c.Status(), self) {
		w := notify.Waiting{Epoch: u.GetEpoch(), Node: u.GetNode(), Person: u.GetNeedsPerson(), Detail: sentence(u.GetMissing())}
		if u.GetTries() != "" {
			w.Detail += " Tried: " + sentence(u.GetTries())
		}
		out = append(out, w)
	}
	return out
}

func sentence(text string) string {
	if text == "" || strings.HasSuffix(text, ".") {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
