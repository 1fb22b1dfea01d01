package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// version and commit are set by the linker (see the Makefile).
var version, commit string

func versionCommand() *cobra.Command {
	var output outputFlag
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  had version\n  had version -o json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			v := buildVersion()
			return output.print(cmd.OutOrStdout(), map[string]any{
				"schema_version": schemaVersion, "version": v.GetVersion(), "commit": v.GetCommit(), "go": v.GetGo(), "record_level": v.GetRecordLevel(),
			}, fmt.Sprintf("had %s (commit %s, %s)\n", v.GetVersion(), orUnknown(v.GetCommit()), v.GetGo()))
		},
	}
	output.register(cmd)
	return cmd
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func buildVersion() *hadv1.VersionResponse {
	v := &hadv1.VersionResponse{Version: version, Commit: commit, Go: runtime.Version(), RecordLevel: level.Known}
	if v.GetVersion() == "" {
		v.Version = "development"
	}
	if info, ok := debug.ReadBuildInfo(); ok && v.GetCommit() == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return v
}
