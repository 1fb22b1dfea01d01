package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"
)

// app is everything of the host that a verb may touch.
type app struct {
	in         io.Reader
	out, err   io.Writer
	asks       bool                       // in is a terminal: somebody is there to be asked
	isTerminal bool                       // out is a terminal: colour and redrawing are welcome
	size       func() (columns, rows int) // of the terminal; called only when isTerminal
	env        func(string) string
	socketDir  string // where had puts <cluster>.sock
	tlsDir     string // the host's own certificates
	user       string // who asks; recorded with every write
	zone       *time.Location
	configDir  string                                // had's configuration
	addresses  func(context.Context) ([]byte, error) // of this host, as ip -j address lists them
	// command runs a program of this host's and returns what it printed.
	command func(ctx context.Context, name string, args ...string) ([]byte, error)
	redact  func(proto.Message) // of every answer of a daemon; nil: they stay as they are
}

// hostApp returns the app of this process.
func hostApp() app {
	fd := int(os.Stdout.Fd())
	return app{
		in:         os.Stdin,
		out:        os.Stdout,
		err:        os.Stderr,
		asks:       term.IsTerminal(int(os.Stdin.Fd())),
		isTerminal: term.IsTerminal(fd),
		size: func() (int, int) {
			columns, rows, err := term.GetSize(fd)
			if err != nil {
				return plainWidth, 24 // a VT100
			}
			return columns, rows
		},
		env:       os.Getenv,
		socketDir: "/run/had",
		tlsDir:    "/etc/had/tls",
		user:      localUser(),
		zone:      time.Local,
		configDir: "/etc/had",
		addresses: listAddresses,
		command:   runCommand,
	}
}

// localUser names the person at the keyboard, also behind sudo(8).
func localUser() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	u, err := user.Current()
	if err != nil {
		return fmt.Sprintf("uid %d", os.Getuid())
	}
	return u.Username
}

// cli is one invocation: the host and the global flags.
type cli struct {
	app
	cluster string
	socket  string
	remote  remote
	timeout time.Duration // 0: the verb's default
	output  string        // "table" or "json"
}

// How long a verb waits for its answer unless --timeout says otherwise.
const (
	readTimeout = 10 * time.Second
	moveTimeout = 60 * time.Second
)

// limit returns how long the verb may take.
func (c *cli) limit(standard time.Duration) time.Duration {
	if c.timeout > 0 {
		return c.timeout
	}
	return standard
}

func (c *cli) json() bool { return c.output == "json" }

// view says how text is laid out for this output.
func (c *cli) view() view {
	v := view{width: plainWidth, zone: c.zone}
	if c.isTerminal {
		columns, _ := c.size()
		v.width = min(max(columns, minWidth), maxWidth)
		v.color = c.env("NO_COLOR") == "" && c.env("TERM") != "dumb" // https://no-color.org
	}
	return v
}

// print writes an answer to stdout in one piece.
func (c *cli) print(text string) error {
	if _, err := io.WriteString(c.out, text); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// run executes the command line in args and returns the process's exit code.
func run(ctx context.Context, args []string, a app) int {
	c := &cli{app: a}
	root := c.newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		err = asFailure(err)
		if err.Error() != "" && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(a.err, "hactl: %s\n", oneLine(err.Error()))
		}
		return exitInterrupted
	}
	f := asFailure(err)
	if text := oneLine(f.Error()); text != "" {
		fmt.Fprintf(a.err, "hactl: %s\n", text)
	}
	return f.code
}

func (c *cli) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "hactl",
		Short: "Show and steer a had cluster",
		Long: `hactl shows and steers a had cluster through the daemon's local socket,
or from elsewhere through any node's address with a certificate (hactl tls).
Any node answers; what changes something reaches the leader by itself.

Exit codes: 0 done · 1 failed · 2 usage or invalid file · 3 refused by the
current state · 4 unreachable or no quorum · 5 outcome unknown · 6 not permitted`,
		Example: `  hactl status
  hactl move --to beta --reason "kernel update on alpha"
  hactl history --follow`,
		Version:                    ownBuild().String(),
		SilenceErrors:              true,
		SilenceUsage:               true,
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE:          func(*cobra.Command, []string) error { return c.checkFlags() },
	}
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetIn(c.in)
	flags := root.PersistentFlags()
	flags.StringVar(&c.cluster, "cluster", "", "cluster to talk to: its socket is "+c.socketDir+"/NAME.sock")
	flags.StringVar(&c.socket, "socket", "", "`PATH` of the daemon's socket (environment: HACTL_SOCKET)")
	flags.StringVar(&c.remote.address, "address", "", "ask the node at `HOST:PORT` instead, with a certificate (environment: HACTL_ADDRESS)")
	flags.StringVar(&c.remote.ca, "tls-ca", "", "`FILE` with the cluster's CA (default: ca.pem in ~/.config/had or "+c.tlsDir+")")
	flags.StringVar(&c.remote.cert, "tls-cert", "", "`FILE` with our certificate (default: client.pem there)")
	flags.StringVar(&c.remote.key, "tls-key", "", "`FILE` with its key (default: client-key.pem there)")
	flags.DurationVar(&c.timeout, "timeout", 0, "give up after this time (default 10s; move, wait 60s; preflight 30s)")
	flags.StringVarP(&c.output, "output", "o", "table", "form of the answer: `table|json`")
	root.SetHelpCommand(newHelp(root))
	c.addVerbs(root)
	group(root)
	root.SetFlagErrorFunc(flagError)
	c.completeFlag(root, "output", func(context.Context) []string { return []string{"table", "json"} })
	return root
}

// addVerbs adds the verbs, in the help by what somebody comes for.
func (c *cli) addVerbs(root *cobra.Command) {
	for _, section := range []struct {
		title string
		verbs []*cobra.Command
	}{
		{"See how it is, and why", []*cobra.Command{
			c.newStatus(), c.newWatch(), c.newHistory(), c.newWhy(), c.newWhyNot(), c.newPreflight(), c.newWait(),
		}},
		{"Change who owns, or who may", []*cobra.Command{
			c.newMove(), c.newFailback(), c.newDrain(), c.newUndrain(), c.newFreeze(), c.newUnfreeze(), c.newResume(), c.newFence(),
		}},
		{"Say what it owns, and what belongs to it", []*cobra.Command{
			c.newNode(), c.newPolicy(), c.newHook(), c.newSync(), c.newToken(), c.newNotify(), c.newImport(),
		}},
		{"The rest", []*cobra.Command{c.newSnapshot(), c.newRecover(), c.newSupportBundle(), c.newLog(), c.newTLS(), c.newTiming(), c.newUpgrade(), c.newCompletion(), c.newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: section.title, Title: section.title + ":"})
		for _, verb := range section.verbs {
			verb.GroupID = section.title
		}
		root.AddCommand(section.verbs...)
		root.SetHelpCommandGroupID(section.title) // the last one
	}
}

// group makes a command that only holds others: alone it shows its help, and a
// wrong name below it is a usage error with a suggestion.
func group(cmd *cobra.Command) {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		return usageError(text, cmd.SuggestionsFor(args[0]), cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// newHelp is cobra's help command, but for a wrong name it is a usage error.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show the help of a command",
		RunE: func(_ *cobra.Command, names []string) error {
			cmd, rest, err := root.Find(names)
			if err == nil && len(rest) > 0 && cmd.HasSubCommands() {
				err = cmd.Args(cmd, rest)
			}
			if err != nil {
				return err
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// oneFile wants the one FILE of a policy verb.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Sprintf("give one file, or - for stdin, not %d", len(args)), nil, cmd)
	}
	return nil
}

// args turns what cobra says about positional arguments into a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if err != nil && len(args) > 0 {
			err = fmt.Errorf("unexpected argument %q", args[0])
		}
		if err != nil {
			return usageError(err.Error(), nil, cmd)
		}
		return nil
	}
}

// flagError explains a flag that can't be parsed; for an unknown one it
// suggests those whose names are close.
func flagError(cmd *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*strconv.NumError](err); ok {
		return usageError(strings.ReplaceAll(err.Error(), invalid.Error(), "it takes a whole number from 0 up"), nil, cmd)
	}
	var unknown interface{ GetSpecifiedName() string }
	if !errors.As(err, &unknown) || !strings.HasPrefix(err.Error(), "unknown") {
		return usageError(err.Error(), nil, cmd)
	}
	// Cobra judges likeness of commands only, so the flags pose as commands.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	for line := range strings.Lines(cmd.Flags().FlagUsages()) {
		_, rest, found := strings.Cut(line, "--")
		if name, _, _ := strings.Cut(rest, " "); found {
			names.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
		}
	}
	var similar []string
	for _, name := range names.SuggestionsFor(unknown.GetSpecifiedName()) {
		similar = append(similar, "--"+name)
	}
	return usageError(err.Error(), similar, cmd)
}

func usageError(text string, suggestions []string, cmd *cobra.Command) error {
	if len(suggestions) > 0 {
		text += ": did you mean " + strings.Join(suggestions, " or ") + "?"
	}
	return fail(exitUsage, "%s (see %s --help)", text, cmd.CommandPath())
}

func (c *cli) checkFlags() error {
	switch {
	case c.output != "table" && c.output != "json":
		return fail(exitUsage, "--output %q: choose table or json", c.output)
	case c.timeout < 0:
		return fail(exitUsage, "--timeout %s: it must be above zero", c.timeout)
	case c.cluster != "" && c.socket != "":
		return fail(exitUsage, "--cluster %s and --socket %s both name a daemon: give one", c.cluster, c.socket)
	case strings.ContainsAny(c.cluster, "/\x00"):
		return fail(exitUsage, "--cluster %q: a cluster's name has no slash (a path goes into --socket)", c.cluster)
	}
	return c.checkRemote()
}

// completeFlag offers values for a flag in shells with completion.
func (c *cli) completeFlag(cmd *cobra.Command, flag string, values func(context.Context) []string) {
	complete := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // only for a flag that isn't there: the next start shows it
	}
}
