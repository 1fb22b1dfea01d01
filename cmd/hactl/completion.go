package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes hactl's commands in a shell",
		Long: `Print a script that completes commands, flags and node names in a shell. It
asks the daemon for the nodes, so those are completed for root only.`,
		Example: `  hactl completion bash > /etc/bash_completion.d/hactl
  source <(hactl completion zsh)
  hactl completion fish > ~/.config/fish/completions/hactl.fish`,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(cmd.ValidArgs, args[0]) {
				return usageError("name one shell: "+strings.Join(cmd.ValidArgs, ", "), nil, cmd)
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.completion(cmd.Root(), args[0]); err != nil {
				return fmt.Errorf("write the completion for %s: %w", args[0], err)
			}
			return nil
		},
	}
}

func (c *cli) completion(root *cobra.Command, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(c.out, true)
	case "zsh":
		return root.GenZshCompletion(c.out)
	case "fish":
		return root.GenFishCompletion(c.out, true)
	}
	return root.GenPowerShellCompletionWithDesc(c.out)
}
