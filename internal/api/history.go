package api

import (
	"slices"

	"google.golang.org/grpc"

	hadv1 "had/proto/had/v1"
)

// historyBatch is how many events one message carries.
const historyBatch = 200

// History implements HA. It answers from what this node has applied.
func (s *Server) History(req *hadv1.HistoryRequest, stream grpc.ServerStreamingServer[hadv1.HistoryResponse]) error {
	after, last := req.GetAfterIndex(), int(req.GetLast())
	for first := true; ; first = false {
		view, changed := s.cfg.Node.View()
		events, dropped := s.cfg.Node.History(after)
		// Entries applied since view was taken come with the next round.
		events = slices.DeleteFunc(events, func(e *hadv1.Event) bool {
			return e.GetIndex() > view.Applied || req.GetEpoch() != 0 && e.GetEpoch() != req.GetEpoch()
		})
		after = max(after, view.Applied)
		if first && last > 0 && len(events) > last {
			events = events[len(events)-last:]
		}
		for batch := range slices.Chunk(events, historyBatch) {
			if err := stream.Send(&hadv1.HistoryResponse{Events: batch, EventsDropped: dropped}); err != nil {
				return err
			}
		}
		if first {
			if err := stream.Send(&hadv1.HistoryResponse{Complete: true, EventsDropped: dropped}); err != nil {
				return err
			}
		}
		if !req.GetFollow() {
			return nil
		}
		select {
		case <-stream.Context().Done():
			return statusOf(stream.Context().Err())
		case <-changed:
		}
	}
}
