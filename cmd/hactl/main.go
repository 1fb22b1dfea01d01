//go:build !manual

// Command hactl shows and steers a had cluster through the daemon's local
// socket. It holds no state and decides nothing: each verb is one file that
// calls the HA service of had/proto/had/v1 and hands the answer to a renderer
// (render_*.go, json.go).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process even if the first one's clean-up hangs.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], hostApp()))
}
