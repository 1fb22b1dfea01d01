package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

func (c *cli) newLog() *cobra.Command {
	cmd := &cobra.Command{
		Use:                        "log",
		Short:                      "Show or change how much a node logs",
		Long:                       "Show or change how much a node logs, while it runs.",
		Example:                    "  hactl log level debug",
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newLogLevel())
	group(cmd)
	return cmd
}

// logLevels are those of had, from the most to the least.
func logLevels() []string { return []string{"trace", "debug", "info", "warn", "error"} }

func (c *cli) newLogLevel() *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "level [trace|debug|info|warn|error]",
		Short: "Show or change the log level of the node that is asked",
		Long: `Show the log level of the node that is asked, or change it, and with --json the
form of its lines. It lasts until that daemon's next start, which takes what
had run was given. The guard's own lines keep what had was started with.`,
		Example: `  hactl log level
  hactl log level debug
  hactl log level info --json on`,
		Args:      args(cobra.MaximumNArgs(1)),
		ValidArgs: logLevels(),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &hadv1.LogLevelRequest{}
			if len(args) == 1 {
				if !slices.Contains(logLevels(), args[0]) {
					return usageError(fmt.Sprintf("%q is no log level: take trace, debug, info, warn or error", args[0]), nil, cmd)
				}
				req.Level = args[0]
			}
			switch form {
			case "":
			case "on":
				req.Form = hadv1.LogLevelRequest_FORM_JSON
			case "off":
				req.Form = hadv1.LogLevelRequest_FORM_TEXT
			default:
				return usageError(fmt.Sprintf("--json %q: take on or off", form), nil, cmd)
			}
			return c.logLevel(cmd.Context(), req)
		},
	}
	cmd.Flags().StringVar(&form, "json", "", "write JSON lines: `on|off`")
	c.completeFlag(cmd, "json", func(context.Context) []string { return []string{"on", "off"} })
	return cmd
}

func (c *cli) logLevel(ctx context.Context, req *hadv1.LogLevelRequest) error {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.LogLevelResponse, error) {
		if req.GetLevel() == "" && req.GetForm() == hadv1.LogLevelRequest_FORM_UNSPECIFIED {
			r, err := cl.ShowLogLevel(ctx, &hadv1.ShowLogLevelRequest{}) // for which a viewer's role is enough
			return r.GetLog(), err
		}
		return cl.LogLevel(ctx, req)
	})
	switch {
	case err != nil:
		return err
	case c.json():
		return c.printDocument(r)
	}
	text := fmt.Sprintf("%s logs at level %s, as %s", r.GetNode(), r.GetLevel(), lineForm(r.GetJson()))
	if r.GetLevel() != r.GetStartedLevel() || r.GetJson() != r.GetStartedJson() {
		text += fmt.Sprintf("; after its next start at level %s, as %s", r.GetStartedLevel(), lineForm(r.GetStartedJson()))
	}
	return c.print(clean(text) + "\n")
}

func lineForm(json bool) string {
	if json {
		return "JSON"
	}
	return "text"
}
