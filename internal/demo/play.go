package demo

import "context"

// Play builds the cluster and leaves it running.
func Play(ctx context.Context, cfg Config) (err error) { return nil }
