package policy

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"had/internal/hook"
)

// Token is what clients of a service need to come back to its next owner: a
// file at the same place on every node that may own.
type Token struct {
	Name      string
	Location  string      // absolute, in its shortest form
	Replicate bool        // the content travels in the log; otherwise the place itself is shared
	Owner     string      // "user" or "user:group"
	Mode      fs.FileMode // permission bits; none for others
	Bytes     int         // of a random content, drawn by the first owner and by rotate; 0: somebody sets it
	Keep      int         // how many earlier versions stay in place, as Location.1 and so on
	Reload    []string    // tells the service that had has changed the file; run on the owner
	Template  string      // of a configuration that names the location; "" for none
	RenderTo  string      // where that is put before PreAcq
}

const (
	maxTokens     = 16 // each may have 64 KiB and three earlier versions in every snapshot
	maxTokenBytes = 64 << 10
	maxTokensKept = 3
	maxOwner      = 2*32 + 1 // names of a user and a group (useradd(8))

	exampleLocation = `"/etc/nginx/ticket.key"`
	exampleReload   = `["/usr/sbin/nginx", "-s", "reload"]`
	exampleTemplate = `"/etc/had/afp.conf.in"`
	exampleRenderTo = `"/etc/netatalk/afp.conf"`
)

var (
	ownerName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*(:[A-Za-z_][A-Za-z0-9_.-]*)?$`)
	octalMode = regexp.MustCompile(`^0?[0-7]{3}$`)
)

func tokenShape() shape {
	return shape{
		what:   `reconnect_token "tickets"`,
		labels: 1,
		attrs: map[string]string{
			"location": exampleLocation, "replicate": "true", "owner": `"root"`, "mode": `"0600"`, "bytes": "80", "keep": "1",
			"reload": exampleReload, "template": exampleTemplate, "render_to": exampleRenderTo,
		},
		others: map[string]string{
			"path": `it is called "location"`, "file": `it is called "location"`, "size": `it is called "bytes"`,
			"group":   `write owner = "user:group"`,
			"content": "a policy is in the log and shown: hactl token set NAME --file FILE", "key": "the key is a file on each node: hactl token key",
		},
	}
}

type rawToken struct {
	name, location, owner, mode, template, renderTo text
	reload                                          []text
	replicate                                       bool
	bytes, keep                                     int
	at                                              hcl.Range // of the block's first line
}

func (s *source) rawToken(b *hclsyntax.Block) rawToken {
	return rawToken{
		name:      label(b),
		location:  s.required(b, "location", exampleLocation),
		owner:     s.optional(b.Body, "owner", `"root"`),
		mode:      s.optional(b.Body, "mode", `"0600"`),
		template:  s.optional(b.Body, "template", exampleTemplate),
		renderTo:  s.optional(b.Body, "render_to", exampleRenderTo),
		reload:    s.list(b.Body, "reload", exampleReload),
		replicate: s.truth(b.Body, "replicate"),
		bytes:     s.number(b.Body, "bytes", 1, maxTokenBytes),
		keep:      s.number(b.Body, "keep", 0, maxTokensKept),
		at:        b.DefRange(),
	}
}

func (s *source) validTokens(raw []rawToken, volumes []Volume) []Token {
	var tokens []Token
	for i, r := range raw {
		if i == maxTokens {
			s.errorf(r.at, "their contents are in every snapshot of the log", "there are more than %d reconnect tokens", maxTokens)
		}
		t := Token{
			Name: r.name.value, Location: s.tokenPath(r.location, "location"), Replicate: r.replicate, Owner: s.tokenOwner(r.owner), Mode: s.tokenMode(r.mode),
			Bytes: r.bytes, Keep: r.keep, Reload: s.tokenReload(r.reload),
			Template: s.path(r.template, "template", ""), RenderTo: s.tokenPath(r.renderTo, "render_to"),
		}
		s.checkTokenBlock(r, t, volumes)
		tokens = append(tokens, t)
	}
	s.checkTokenNames(raw)
	s.checkTokenPlaces(raw, tokens)
	return tokens
}

// tokenPath is the path of a file that had may write.
func (s *source) tokenPath(t text, name string) string {
	if !t.ok {
		return ""
	}
	path := s.path(t, name, "")
	switch {
	case slices.Contains(hostsOwn(), path):
		s.errorf(t.at, "name a file of its own, such as "+exampleLocation, "the host itself needs %s", quote(path))
	case slices.ContainsFunc(kernelsOwn(), func(own string) bool { return own != "/run" && own != "/var/run" && within(path, own) }):
		s.errorf(t.at, "name a file of its own, such as "+exampleLocation, "no file can be kept at %s", quote(path))
	case path != "" && slices.ContainsFunc(hadsOwn(), func(own string) bool { return within(path, own) }):
		s.errorf(t.at, "name a file of its own, such as "+exampleLocation, "had keeps its own files at %s", quote(path))
	}
	return path
}

func (s *source) tokenOwner(t text) string {
	if !t.ok {
		return "root"
	}
	if len(t.value) > maxOwner || !ownerName.MatchString(t.value) {
		s.errorf(t.at, `write owner = "www-data" or owner = "www-data:adm"`, "%s can't be an owner", quote(t.value))
	}
	return t.value
}

func (s *source) tokenMode(t text) fs.FileMode {
	const standard = 0o600
	if !t.ok {
		return standard
	}
	if !octalMode.MatchString(t.value) {
		s.errorf(t.at, `write it as chmod does: mode = "0640"`, "%s is not a file's mode", quote(t.value))
		return standard
	}
	bits, err := strconv.ParseUint(t.value, 8, 16)
	switch mode := fs.FileMode(bits); {
	case err != nil:
		return standard
	case mode&0o007 != 0:
		s.errorf(t.at, `name who needs it: owner = "root:www-data" and mode = "0640"`, "mode %s lets every user of the host read or write the token", quote(t.value))
	case mode&0o400 == 0:
		s.errorf(t.at, `"0600" is the default`, "mode %s doesn't let its owner read the token", quote(t.value))
	case mode&0o111 != 0:
		s.errorf(t.at, `"0600" is the default`, "mode %s makes the token a program", quote(t.value))
	default:
		return mode
	}
	return standard
}

func (s *source) tokenReload(raw []text) []string {
	if len(raw) == 0 {
		return nil
	}
	return s.arguments(raw, "reload")
}

// checkTokenBlock refuses what doesn't go together in one block.
func (s *source) checkTokenBlock(r rawToken, t Token, volumes []Volume) {
	name := quote(r.name.value)
	for _, v := range volumes {
		if t.Replicate && v.Path != "" && t.Location != "" && within(t.Location, v.Path) {
			s.errorf(r.location.at, "leave replicate out: what is on the volume is where the owner is", "token %s is on volume %s and would be replicated as well", name, quote(v.Name))
		}
	}
	switch {
	case !t.Replicate && t.Bytes > 0:
		s.errorf(r.at, "add a line: replicate = true, or leave bytes out", "token %s has bytes, but had doesn't write it", name)
	case !t.Replicate && t.Keep > 0:
		s.errorf(r.at, "add a line: replicate = true, or leave keep out", "token %s has keep, but had doesn't write it", name)
	case !t.Replicate && len(t.Reload) > 0:
		s.errorf(r.at, "add a line: replicate = true, or leave reload out", "token %s has reload, but had doesn't write it", name)
	case t.Template != "" && t.RenderTo == "":
		s.errorf(r.template.at, "add a line: render_to = "+exampleRenderTo, "token %s has a template, and nowhere to put what it makes", name)
	case t.Template == "" && t.RenderTo != "":
		s.errorf(r.renderTo.at, "add a line: template = "+exampleTemplate, "token %s has render_to, and no template to make it from", name)
	case t.RenderTo != "" && t.RenderTo == t.Template:
		s.errorf(r.renderTo.at, "give the template a place of its own", "token %s would be rendered over its own template", name)
	}
}

// checkTokenNames refuses names that a hook couldn't tell apart.
func (s *source) checkTokenNames(raw []rawToken) {
	seen := map[string]text{}
	for _, r := range raw {
		name := r.name.value
		if !validIdentifier(name) {
			s.errorf(r.name.at, identHint, "%s can't be a token's name", quote(name))
			continue
		}
		first, twice := seen[hook.TokenVariable(name)]
		hint := fmt.Sprintf("the first is on line %d; each needs a name of its own", first.at.Start.Line)
		switch {
		case twice && first.value == name:
			s.errorf(r.name.at, hint, "two tokens are called %s", quote(name))
		case twice:
			s.errorf(r.name.at, hint, "hooks get the places of %s and %s in one variable, %s", quote(first.value), quote(name), hook.TokenVariable(name))
		default:
			seen[hook.TokenVariable(name)] = r.name
		}
	}
}

// checkTokenPlaces refuses two things in one place.
func (s *source) checkTokenPlaces(raw []rawToken, tokens []Token) {
	places := map[string]int{} // line by path
	add := func(path string, at hcl.Range) {
		if path == "" {
			return
		}
		if line, taken := places[path]; taken {
			s.errorf(at, fmt.Sprintf("the first is on line %d; give each a place of its own", line), "two files of reconnect tokens are at %s", quote(path))
			return
		}
		places[path] = at.Start.Line
	}
	for i, t := range tokens {
		if t.Location != "" {
			add(t.Location, raw[i].location.at)
			for n := range t.Keep {
				add(fmt.Sprintf("%s.%d", t.Location, n+1), raw[i].location.at)
			}
		}
		add(t.RenderTo, raw[i].renderTo.at)
	}
}
