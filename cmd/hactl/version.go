package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

// Set by the linker (-ldflags "-X main.version=…"); what the Go toolchain
// recorded stands in when they are empty.
var version, commit string

func (c *cli) newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of hactl and of the daemon",
		Long:  "Show the versions of hactl and, if it answers, of the daemon on this host.",
		Example: `  hactl version
  hactl version -o json | jq -r .server.version`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.version(cmd.Context()) },
	}
}

// versionDocument is both versions in JSON; Server is null without a daemon.
type versionDocument struct {
	SchemaVersion int             `json:"schema_version"`
	Client        build           `json:"client"`
	Server        json.RawMessage `json:"server"`
	ServerError   string          `json:"server_error"`
}

// version succeeds without a daemon: the client's version is known anyway.
func (c *cli) version(ctx context.Context) error {
	own := ownBuild()
	server, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.VersionResponse, error) {
		return cl.Version(ctx, &hadv1.VersionRequest{})
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := ""
	if err != nil {
		why = oneLine(asFailure(err).Error())
	}
	if c.json() {
		doc := versionDocument{SchemaVersion: schemaVersion, Client: own, ServerError: why}
		if err == nil {
			doc.Server = append(appendFields([]byte("{"), server.ProtoReflect(), false), '}')
		}
		return c.printValue(doc)
	}
	text := fmt.Sprintf("hactl  %s\n", own)
	if err != nil {
		text += fmt.Sprintf("had    unknown: %s\n", why)
	} else {
		b := build{server.GetVersion(), server.GetCommit(), server.GetGo()}
		text += fmt.Sprintf("had    %s on %s\n", clean(b.String()), clean(server.GetNode()))
	}
	return c.print(text)
}

// build says what an executable was made from.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func (b build) String() string {
	if b.Commit == "" {
		return fmt.Sprintf("%s (%s)", b.Version, b.Go)
	}
	return fmt.Sprintf("%s (commit %s, %s)", b.Version, b.Commit, b.Go)
}

// ownBuild returns what the linker was told, else what the toolchain noted.
func ownBuild() build {
	b := build{Version: version, Commit: commit}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Commit != "" {
		return b
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value[:min(len(s.Value), 12)]
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if b.Commit != "" && modified {
		b.Commit += "+changes"
	}
	return b
}
