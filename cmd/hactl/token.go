package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	hadv1 "had/proto/had/v1"
)

// maxToken is the longest content that a log takes, in bytes.
const maxToken = 64 << 10

func (c *cli) newToken() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Show, set and rotate what clients reconnect with",
		Long: `Show, set and rotate reconnect tokens: the files that let clients of a service
come back to its next owner as if nothing had happened.

Nothing of a content is shown unless it is asked for on a node itself, by root.`,
		Example: `  hactl token show
  hactl token rotate tickets --reason "monthly"
  hactl token key`,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(c.newTokenShow(), c.newTokenSet(), c.newTokenRotate(), c.newTokenForget(), c.newTokenKey())
	group(cmd)
	return cmd
}

// oneToken wants the NAME of a token.
func oneToken(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Sprintf("give one token's name, not %d", len(args)), nil, cmd)
	}
	return nil
}

func (c *cli) completeToken(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	r, err := c.fetchTokens(cmd.Context(), &hadv1.TokenShowRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, t := range r.GetTokens() {
		names = append(names, t.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) fetchTokens(ctx context.Context, req *hadv1.TokenShowRequest) (*hadv1.TokenShowResponse, error) {
	return call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.TokenShowResponse, error) { return cl.TokenShow(ctx, req) })
}

func (c *cli) newTokenShow() *cobra.Command {
	req := &hadv1.TokenShowRequest{}
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Say where tokens are, and which versions the log has",
		Long: `Say where tokens are, which versions of them the log has, and who made these.

With --content the bytes of one replicated token are written to stdout as they
are: only on a node that has the token key, by root.`,
		Example: `  hactl token show
  hactl token show tickets --content >/root/ticket.key`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return oneToken(cmd, args)
			case req.GetContent() && len(args) == 0:
				return usageError("--content is of one token: name it", nil, cmd)
			case req.GetContent() && c.json():
				return usageError("--content writes the bytes as they are: leave --output json out", nil, cmd)
			case len(args) == 1:
				req.Name = args[0]
			}
			return nil
		},
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.tokenShow(cmd.Context(), req) },
		ValidArgsFunction: c.completeToken,
	}
	cmd.Flags().BoolVar(&req.Content, "content", false, "write the content itself to stdout")
	return cmd
}

func (c *cli) tokenShow(ctx context.Context, req *hadv1.TokenShowRequest) error {
	r, err := c.fetchTokens(ctx, req)
	if err != nil {
		return err
	}
	switch {
	case req.GetContent():
		_, err := c.out.Write(r.GetContent())
		clear(r.Content)
		if err != nil {
			return fmt.Errorf("write the content: %w", err)
		}
		return nil
	case c.json():
		return c.printDocument(r) // without a content: it wasn't asked for
	}
	return c.print(renderTokens(r.GetTokens(), c.view()))
}

func renderTokens(tokens []*hadv1.TokenSummary, v view) string {
	p := &page{view: v}
	if len(tokens) == 0 {
		p.entry("", plain, "no tokens: the policy has no reconnect_token")
	}
	width := 0
	for _, t := range tokens {
		width = max(width, len([]rune(clean(t.GetName()))))
	}
	for _, t := range tokens {
		label := pad(clean(t.GetName()), width) + "  "
		style, place := plain, t.GetLocation()
		if place == "" {
			style, place = yellow, "in no policy any more: hactl token forget "+t.GetName()
		}
		p.entry(label, style, place)
		indent := strings.Repeat(" ", width+2)
		p.entry(indent, plain, p.tokenText(t))
		if t.GetRenderTo() != "" {
			p.entry(indent, plain, "named in "+t.GetRenderTo())
		}
	}
	return p.b.String()
}

// tokenText says which content there is.
func (p *page) tokenText(t *hadv1.TokenSummary) string {
	switch {
	case !t.GetReplicated():
		return "not replicated: its place is shared"
	case t.GetVersion() == 0:
		return "replicated, no content yet"
	}
	text := fmt.Sprintf("replicated, version %d of %s%s%s; %s", t.GetVersion(), p.stamp(t.GetAt(), toTheSecond), by(t.GetBy()), colon(t.GetReason()), plural(int(t.GetSize()), "byte", "bytes"))
	var kept []string
	for _, v := range slices.Backward(t.GetEarlier()) {
		kept = append(kept, fmt.Sprint(v))
	}
	if len(kept) > 0 {
		text += "; version " + strings.Join(kept, " and ") + " kept beside it"
	}
	return text
}

// tokens lists what clients reconnect with.
func (p *page) tokens(s *hadv1.StatusResponse) {
	label := "token    "
	for _, t := range s.GetTokens() {
		text := fmt.Sprintf("%s at %s, shared", t.GetName(), t.GetLocation())
		switch {
		case t.GetLocation() == "":
			continue // hactl token show has it
		case t.GetReplicated() && t.GetVersion() == 0:
			text = fmt.Sprintf("%s at %s, no content yet", t.GetName(), t.GetLocation())
		case t.GetReplicated():
			text = fmt.Sprintf("%s at %s, version %d", t.GetName(), t.GetLocation(), t.GetVersion())
		}
		p.entry(label, plain, text)
		label = "         "
	}
}

func (c *cli) newTokenSet() *cobra.Command {
	req := &hadv1.TokenSetRequest{By: c.user}
	var file string
	cmd := &cobra.Command{
		Use:   "set NAME --file FILE|-",
		Short: "Make the content of a file a token's next version",
		Long: `Make the content of a file, of at most 64 KiB, the next version of a replicated
token. It is encrypted on this node, goes into the log, and from there into its
place on every node that may own.

With --expect-version it is refused (exit code 3) if there is another version
since.`,
		Example: `  hactl token set tickets --file /root/ticket.key --reason "first key"
  openssl rand 80 | hactl token set tickets --file -`,
		Args: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usageError("give the content: --file FILE, or --file - for stdin", nil, cmd)
			}
			return oneToken(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.CheckVersion = args[0], cmd.Flags().Changed("expect-version")
			content, err := c.readToken(file)
			defer clear(content)
			if err != nil {
				return err
			}
			req.Content = content
			return c.tokenSet(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeToken,
	}
	cmd.Flags().StringVar(&file, "file", "", "`FILE` with the content, or - for stdin")
	c.tokenFlags(cmd, req)
	return cmd
}

func (c *cli) tokenFlags(cmd *cobra.Command, req *hadv1.TokenSetRequest) {
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().Uint64Var(&req.ExpectedVersion, "expect-version", 0, "only if version `N` is the current one (0: none yet)")
	cmd.Flags().Bool("yes", false, "accepted for scripts: it never asks")
}

// readToken reads a content whole.
func (c *cli) readToken(path string) ([]byte, error) {
	in, name := c.in, "stdin"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fail(exitUsage, "read the content: %w", err)
		}
		defer f.Close()
		in, name = f, path
	}
	content := make([]byte, maxToken+1)
	n, err := io.ReadFull(in, content)
	switch {
	case err == nil:
		return content, fail(exitUsage, "%s has more than %d bytes, and no more travel in the log", name, maxToken)
	case errors.Is(err, io.EOF):
		return content, fail(exitUsage, "%s is empty", name)
	case !errors.Is(err, io.ErrUnexpectedEOF):
		return content, fail(exitUsage, "read the content: %w", err)
	}
	return content[:n], nil
}

func (c *cli) tokenSet(ctx context.Context, req *hadv1.TokenSetRequest) error {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.TokenSetResponse, error) { return cl.TokenSet(ctx, req) })
	if err != nil {
		if outcomeUnknown(err) {
			return fail(exitUnknown, "whether token %s has a new version isn't known (%w): hactl token show tells", req.GetName(), asFailure(err))
		}
		return err
	}
	if c.json() {
		return c.printDocument(r)
	}
	if r.GetUnchanged() {
		return c.print(clean(fmt.Sprintf("token %s has that content already: version %d", req.GetName(), r.GetVersion())) + "\n")
	}
	return c.print(clean(fmt.Sprintf("token %s is at version %d now, %s", req.GetName(), r.GetVersion(), plural(int(r.GetSize()), "byte", "bytes"))) + "\n")
}

func (c *cli) newTokenRotate() *cobra.Command {
	req := &hadv1.TokenSetRequest{By: c.user}
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Make random bytes a token's next version",
		Long: `Make random bytes the next version of a replicated token: as many as the policy's
"bytes" says, or as --bytes says. What earlier versions made is accepted for as
long as the policy keeps these ("keep") and the service reads them.`,
		Example: `  hactl token rotate tickets --reason "monthly"
  hactl token rotate tickets --bytes 80    # nginx: 48 or 80`,
		Args: oneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.CheckVersion = args[0], cmd.Flags().Changed("expect-version")
			return c.tokenSet(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeToken,
	}
	cmd.Flags().Uint32Var(&req.Random, "bytes", 0, "how many (default: the policy's)")
	c.tokenFlags(cmd, req)
	return cmd
}

func (c *cli) newTokenForget() *cobra.Command {
	req := &hadv1.TokenForgetRequest{By: c.user}
	var yes bool
	cmd := &cobra.Command{
		Use:     "forget NAME",
		Short:   "Take the content of a token that no policy has out of the log's state",
		Long:    "Take the content of a token that no policy has any more out of the state. It can't\nbe brought back; files on the nodes stay as they are.",
		Example: "  hactl token forget old --yes",
		Args:    oneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			if !yes {
				return fail(exitUsage, "the content of token %s can't be brought back: give --yes if nobody needs it", req.Name)
			}
			return c.tokenForget(cmd.Context(), req)
		},
		ValidArgsFunction: c.completeToken,
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "`TEXT` kept in the history")
	cmd.Flags().BoolVar(&yes, "yes", false, "it isn't needed any more")
	return cmd
}

func (c *cli) tokenForget(ctx context.Context, req *hadv1.TokenForgetRequest) error {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.TokenForgetResponse, error) {
		return cl.TokenForget(ctx, req)
	})
	if err != nil {
		if outcomeUnknown(err) {
			return fail(exitUnknown, "whether token %s is forgotten isn't known (%w): hactl token show tells", req.GetName(), asFailure(err))
		}
		return err
	}
	if c.json() {
		return c.printDocument(r)
	}
	return c.print(clean("token "+req.GetName()+" is forgotten") + "\n")
}

func (c *cli) newTokenKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key",
		Short: "Make the key that encrypts tokens, or show its fingerprint",
		Long: `Make the key that encrypts replicated tokens, if this node has none, and show its
fingerprint. Make it once, on one node, and copy the file to all others that may
own: same path, owner root, mode 0600. It never enters the log, so keep a copy
where you keep such things.`,
		Example: `  hactl token key
  scp -p /etc/had/token.key beta:/etc/had/token.key`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.tokenKey(cmd.Context()) },
	}
}

func (c *cli) tokenKey(ctx context.Context) error {
	r, err := call(ctx, c, func(ctx context.Context, cl *client) (*hadv1.TokenKeyResponse, error) {
		return cl.TokenKey(ctx, &hadv1.TokenKeyRequest{})
	})
	if err != nil {
		return err
	}
	if c.json() {
		return c.printDocument(r)
	}
	text := fmt.Sprintf("%s has the token key %s (%s)", r.GetNode(), r.GetKeyId(), r.GetPath())
	if r.GetMade() {
		text = fmt.Sprintf("made the token key %s on %s (%s)", r.GetKeyId(), r.GetNode(), r.GetPath())
	}
	if err := c.print(clean(text) + "\n"); err != nil || !r.GetMade() {
		return err
	}
	fmt.Fprintf(c.err, "Next: copy it to every other node that may own: scp -p %s NODE:%s\n", clean(r.GetPath()), clean(r.GetPath()))
	return nil
}

func describeTokenChanged(t *hadv1.TokenChanged) string {
	if t.GetVersion() == 0 {
		return fmt.Sprintf("token %s forgotten%s%s", t.GetName(), by(t.GetBy()), colon(t.GetReason()))
	}
	verb := "set"
	if t.GetService() {
		verb = "changed"
	}
	return fmt.Sprintf("token %s %s to version %d%s%s (%s)", t.GetName(), verb, t.GetVersion(), by(t.GetBy()), colon(t.GetReason()), plural(int(t.GetSize()), "byte", "bytes"))
}
