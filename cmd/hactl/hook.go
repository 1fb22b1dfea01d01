package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newHook() *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "hook",
		Short:                      "Show the hook scripts, and run a Test",
		Long:                       "Show the hook scripts as the nodes would run them, and run a Test script.",
		Example:                    "  hactl hook list",
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newHookList(), c.newHookRun())
	group(cmd)
	return cmd
}

func (c *cli) newHookList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the scripts of each address in the order in which they run",
		Long: `Show the scripts of each address as the node that is asked would run them, in
their order, with what won't run and why; and on which nodes they are others.
The digest is the beginning of the script's SHA-256.`,
		Example: `  hactl hook list
  hactl hook list -o json | jq '.nodes[0].folders[].scripts'`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(ctx context.Context, cl *client) (*hadv1.HookListResponse, error) {
				return cl.HookList(ctx, &hadv1.HookListRequest{})
			})
			switch {
			case err != nil:
				return err
			case c.json():
				return c.printDocument(r)
			}
			return c.print(renderHookList(r, c.view()))
		},
	}
}

func (c *cli) newHookRun() *cobra.Command {
	req := &hadv1.HookRunRequest{}
	cmd := &cobra.Command{
		Use:   "run Test",
		Short: "Run the Test scripts of the node that is asked",
		Long: `Run the Test scripts on the node that is asked, as an acquisition would, and show
what they say. Nothing follows from it; the runs are in the history.

Only Test can be run by hand. The other stages start and stop services: outside
of a turn of ownership they would do so on a node that doesn't own, or stop
them on the one that does. hactl move runs all of them, on both sides.

The exit code is 1 when a script says no.`,
		Example: `  hactl hook run Test
  hactl hook run Test --vip 192.0.2.10`,
		ValidArgs: []string{"Test"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(fmt.Sprintf("give one stage, not %d", len(args)), nil, cmd)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Stage = args[0]
			return c.hookRun(cmd.Context(), req)
		},
	}
	cmd.Flags().StringVar(&req.Vip, "vip", "", "only for this vip, by `NAME|ADDRESS`")
	return cmd
}

func (c *cli) hookRun(ctx context.Context, req *hadv1.HookRunRequest) error {
	if c.timeout == 0 {
		c.timeout = moveTimeout // the scripts have a timeout of their own
	}
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.HookRunResponse, error) {
		return cl.HookRun(ctx, req)
	})
	if err != nil {
		return err
	}
	if c.json() {
		err = c.printDocument(r)
	} else {
		err = c.print(renderHookRun(r, c.view()))
	}
	if err == nil && (r.GetError() != "" || slices.ContainsFunc(r.GetResults(), hookFailed)) {
		return &failure{code: exitFailed}
	}
	return err
}

func renderHookRun(r *hadv1.HookRunResponse, v view) string {
	p := &page{view: v}
	for _, h := range r.GetResults() {
		text, s := describeHook(h)
		p.entry(clean(r.GetNode())+": ", s, text)
		for _, line := range cleanBlock(string(h.GetOutputTail())) {
			p.b.WriteString("  | " + line + "\n")
		}
	}
	if r.GetError() != "" {
		p.entry(clean(r.GetNode())+": ", red, r.GetError())
	}
	if len(r.GetResults()) == 0 && r.GetError() == "" {
		p.entry(clean(r.GetNode())+": ", plain, "there is no Test script")
	}
	return p.b.String()
}

// shownDigest is how much of a digest tells scripts apart.
const shownDigest = 12

func renderHookList(r *hadv1.HookListResponse, v view) string {
	p := &page{view: v}
	if len(r.GetNodes()) == 0 || len(r.GetNodes()[0].GetFolders()) == 0 {
		p.entry("", plain, fmt.Sprintf("%s runs no hooks: the policy has no address", r.GetAnsweredBy()))
		return p.b.String()
	}
	here, others := r.GetNodes()[0], r.GetNodes()[1:]
	for i, f := range here.GetFolders() {
		if i > 0 {
			p.blank()
		}
		p.folder(here.GetNode(), f)
		for _, o := range others {
			p.differences(f, here.GetNode(), o)
		}
	}
	return p.b.String()
}

func (p *page) folder(node string, f *hadv1.HookFolder) {
	place := f.GetDir()
	if place == "" {
		place = "no folder, so nothing runs"
	}
	p.entry(fmt.Sprintf("%s (%s) on %s: ", clean(f.GetAddress()), clean(f.GetVip()), clean(node)), bold, place)
	if f.GetError() != "" {
		p.entry("  ! ", red, f.GetError())
	}
	names := 0
	for _, s := range f.GetScripts() {
		names = max(names, len([]rune(clean(s.GetName()))))
	}
	// As an acquisition and then a release run them.
	for _, stage := range []string{"Test", "PreAcq", "PostAcq", "PreRel", "PostRel"} {
		for _, s := range f.GetScripts() {
			if s.GetStage() != stage {
				continue
			}
			p.entry("  "+pad(clean(s.GetName()), names)+"  ", plain, s.GetDigest()[:min(shownDigest, len(s.GetDigest()))])
			if why := s.GetRefused(); why != "" {
				p.entry("    ! had won't run it: ", red, why)
			}
		}
	}
	for _, w := range f.GetWarnings() {
		p.entry("  warning: ", yellow, w)
	}
}

// differences says what another node would run otherwise.
func (p *page) differences(f *hadv1.HookFolder, here string, o *hadv1.NodeHooks) {
	if o.GetError() != "" {
		p.entry(clean(o.GetNode())+": ", yellow, "not known: "+o.GetError())
		return
	}
	i := slices.IndexFunc(o.GetFolders(), func(x *hadv1.HookFolder) bool { return x.GetAddress() == f.GetAddress() })
	if i < 0 {
		p.entry(clean(o.GetNode())+": ", yellow, "it has another policy, without this address")
		return
	}
	there := o.GetFolders()[i]
	digests := func(f *hadv1.HookFolder) map[string]string {
		m := map[string]string{}
		for _, s := range f.GetScripts() {
			m[s.GetName()] = s.GetDigest()
		}
		return m
	}
	mine, theirs := digests(f), digests(there)
	var parts []string
	for _, s := range f.GetScripts() {
		switch d, has := theirs[s.GetName()]; {
		case !has:
			parts = append(parts, s.GetName()+" is missing")
		case d != s.GetDigest():
			parts = append(parts, s.GetName()+" is another script")
		}
	}
	for _, s := range there.GetScripts() {
		if _, has := mine[s.GetName()]; !has {
			parts = append(parts, s.GetName()+" isn't on "+here)
		}
		if s.GetRefused() != "" {
			parts = append(parts, "it won't run "+s.GetName()+": "+s.GetRefused())
		}
	}
	if there.GetError() != "" {
		parts = append(parts, there.GetError())
	}
	if len(parts) == 0 {
		p.entry(clean(o.GetNode())+": ", plain, "the same")
		return
	}
	p.entry(clean(o.GetNode())+": ", red, "DIFFERS: "+strings.Join(parts, "; "))
}
