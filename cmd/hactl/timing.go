package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newTiming() *cobra.Command {
	return &cobra.Command{
		Use:   "timing",
		Short: "Show what follows from the cluster's detect",
		Long: `Show every time that follows from detect, the one knob in had.hcl, and what
it means.`,
		Example: `  hactl timing
  hactl timing -o json | jq .takeover_wait_ms`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := call(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.TimingResponse, error) {
				return cl.Timing(ctx, &hadv1.TimingRequest{})
			})
			switch {
			case err != nil:
				return err
			case c.json():
				return c.printDocument(t)
			}
			return c.print(renderTiming(t, c.view()))
		},
	}
}

func renderTiming(t *hadv1.TimingResponse, v view) string {
	p := &page{view: v}
	row := func(name, value, meaning string) {
		p.entry(pad(name, 20)+"  "+fmt.Sprintf("%9s", value)+"  ", plain, meaning)
	}
	ms := func(name string, value float64, meaning string) { row(name, span(millis(value)), meaning) }
	ms("detect", t.GetDetectMs(), "A leader that nobody has heard for this long is succeeded: the one knob, in had.hcl.")
	ms("heartbeat timeout", t.GetHeartbeatTimeoutMs(), "A node that hears nothing from the leader for this long, up to three times as long at random, calls an election even if the others don't answer its questions.")
	ms("election timeout", t.GetElectionTimeoutMs(), "An election without a winner is tried again after this, up to twice as long.")
	ms("leader lease timeout", t.GetLeaderLeaseTimeoutMs(), "A leader that hears no quorum for this long steps down.")
	ms("commit timeout", t.GetCommitTimeoutMs(), "Followers learn of committed entries at least this often.")
	ms("lease (ttl)", t.GetTtlMs(), "An owner may hold the addresses this long after it asked for a renewal that was then committed.")
	ms("renewal", t.GetRenewEveryMs(), "The owner renews its lease this often.")
	ms("release margin", t.GetReleaseMarginMs(), "An owner that can't renew begins to drop everything this long before its lease ends.")
	ms("address lifetime", t.GetAddressLifetimeMs(), "The kernel removes an address that nobody has renewed for this long, whatever became of had.")
	if grace := t.GetReleaseGraceMs(); grace > 0 {
		ms("release grace", grace, "An owner that can't renew has this long after its lease to stop services in order, by the policy's release_grace. Every wait for a silent owner is longer by it.")
	}
	ms("takeover wait", t.GetTakeoverWaitMs(), "A successor waits this long after the last lease entry when the owner hasn't released; the election runs meanwhile.")
	if wait := t.GetVolumeWaitMs(); wait > 0 {
		ms("volume wait", wait, "A silent owner's volumes count as unmounted this long after its last lease entry, if nothing could prove it before: by the policy's fence method \"lease\".")
	}
	row("clock rate error", fmt.Sprintf("%g %%", t.GetClockRateError()*100), "The clocks of two nodes may differ in speed by this much; the wait includes it.")
	layers := strings.Join(t.GetLayers(), ", ")
	if layers == "" {
		layers = "none"
	}
	p.entry(pad("layers", 20)+"  ", plain, layers+": what ends a lease without had")
	return p.b.String()
}
