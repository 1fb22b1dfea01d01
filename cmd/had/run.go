package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"had/internal/daemon"
	"had/internal/logs"
)

// nodeFlags are what the commands that act as a node have in common.
type nodeFlags struct {
	config, level string
	json          bool
}

func (f *nodeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.config, "config", "c", defaultConfig, "the node file")
	cmd.Flags().StringVar(&f.level, "log-level", "info", "trace, debug, info, warn or error")
	cmd.Flags().BoolVar(&f.json, "log-json", false, "log JSON lines")
}

func (f *nodeFlags) daemonConfig(cmd *cobra.Command) (daemon.Config, error) {
	level, err := logs.ParseLevel(f.level)
	if err != nil {
		return daemon.Config{}, usageError{fmt.Errorf("--log-level: %w", err)}
	}
	file, err := readNodeFile(f.config, cmd.ErrOrStderr())
	if err != nil {
		return daemon.Config{}, err
	}
	v := buildVersion()
	v.Node = file.Node
	to := cmd.ErrOrStderr()
	stderr, isFile := to.(*os.File)
	log := logs.New(logs.Config{
		Name: "had", Level: level, JSON: f.json, Output: to, Journal: isFile && logs.ToJournal(stderr, os.Getenv),
	})
	return daemon.Config{File: file, Version: v, Logger: log.Logger(), Log: log, LogJSON: f.json}, nil
}

func runCommand() *cobra.Command {
	var flags nodeFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground until SIGTERM or SIGINT. It then releases what
it holds, lets another node take over and ends; a second signal cuts that short.`,
		Example: "  had run\n  had run --config ./had.hcl --log-level debug",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.daemonConfig(cmd)
			if err != nil {
				return err
			}
			first, second, stop := untilSignal(context.Background())
			defer stop()
			hard, cancel := daemon.WithStopLimit(first, second)
			defer cancel()
			return daemon.Run(first, hard, cfg)
		},
	}
	flags.register(cmd)
	return cmd
}
