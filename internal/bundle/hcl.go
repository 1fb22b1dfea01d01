package bundle

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"had/internal/redact"
)

// Config is a policy or a node file without its secrets.
type Config struct {
	Text string // without comments, too: nobody knows what people note there
	// Values are those of the attributes that are text or true, by the names of blocks
	// and labels: "cluster.office.detect". A block has an empty one.
	Values  map[string]string
	Labels  map[string]string // the first label of a block at the top, by its type
	Files   []string          // that hold secrets, by the options' names
	Secrets []string          // that stood in it
}

// ReadConfig takes the secrets out of a policy's or a node file's text. Neither
// accepts passwords. It does accept a webhook's address, which is one often enough, and
// what people have written but not applied is not for strangers either.
func ReadConfig(text string) Config {
	c := Config{Values: map[string]string{}, Labels: map[string]string{}}
	file, diags := hclsyntax.ParseConfig([]byte(text), "", hcl.InitialPos)
	r := &reader{text: text, config: &c}
	r.comments()
	if file != nil && !diags.HasErrors() {
		r.body(nil, file.Body.(*hclsyntax.Body))
	}
	c.Text = redact.Text(r.without())
	return c
}

// reader collects what is to go.
type reader struct {
	text   string
	config *Config
	out    []hidden
}

type hidden struct {
	from, to int // bytes
	instead  string
}

func (r *reader) without() string {
	slices.SortFunc(r.out, func(a, b hidden) int { return cmp.Compare(a.from, b.from) })
	var b strings.Builder
	at := 0
	for _, h := range r.out {
		if h.from < at || h.to > len(r.text) {
			continue // inside of another
		}
		b.WriteString(r.text[at:h.from] + h.instead)
		at = h.to
	}
	b.WriteString(r.text[at:])
	return b.String()
}

func (r *reader) comments() {
	tokens, _ := hclsyntax.LexConfig([]byte(r.text), "", hcl.InitialPos)
	for _, t := range tokens {
		if t.Type == hclsyntax.TokenComment {
			lines := strings.Count(string(t.Bytes), "\n") // lines keep their numbers
			r.out = append(r.out, hidden{t.Range.Start.Byte, t.Range.End.Byte, "# (comment)" + strings.Repeat("\n", lines)})
		}
	}
}

func (r *reader) body(path []string, body *hclsyntax.Body) {
	for name, a := range body.Attributes {
		r.value(append(slices.Clone(path), name), a.Expr)
	}
	for _, b := range body.Blocks {
		if len(path) == 0 {
			r.config.Values[b.Type] = ""
			if len(b.Labels) > 0 && r.config.Labels[b.Type] == "" {
				r.config.Labels[b.Type] = b.Labels[0]
			}
		}
		r.body(append(append(slices.Clone(path), b.Type), b.Labels...), b.Body)
	}
}

func (r *reader) value(path []string, e hclsyntax.Expression) {
	switch e := e.(type) {
	case *hclsyntax.ObjectConsExpr:
		for _, item := range e.Items {
			r.value(append(slices.Clone(path), word(item.KeyExpr)), item.ValueExpr)
		}
		return
	case *hclsyntax.TupleConsExpr:
		for _, item := range e.Exprs { // of mount.cifs(8)
			if file, ok := strings.CutPrefix(word(item), "credentials="); ok {
				r.config.Files = append(r.config.Files, file)
			}
		}
	}
	name, value := path[len(path)-1], word(e)
	r.config.Values[strings.Join(path, ".")] = value
	_, secret := redact.Option(name)
	at := e.Range()
	switch {
	case redact.IsFile(name) || name == "token_key" || path[0] == "tls" && name == "key" || path[0] == "reconnect_token" && name == "location":
		if value != "" && name != "ca_file" {
			r.config.Files = append(r.config.Files, value)
		}
	case secret:
		r.out = append(r.out, hidden{at.Start.Byte, at.End.Byte, `"` + redact.Hidden + `"`})
		r.known(value)
	case name == "url" && path[0] == "notify":
		if u, err := url.Parse(value); err == nil && u.Path+u.RawQuery != "" {
			r.known(strings.TrimPrefix(u.RequestURI(), "/"))
			r.out = append(r.out, hidden{at.Start.Byte, at.End.Byte, `"` + u.Scheme + "://" + u.Host + "/" + redact.Hidden + `"`})
		}
	}
}

// word is the text that an expression stands for; empty: another value.
func word(e hclsyntax.Expression) string {
	if key, ok := e.(*hclsyntax.ObjectConsKeyExpr); ok {
		if name := hcl.ExprAsKeyword(key); name != "" {
			return name
		}
	}
	v, diags := e.Value(nil)
	switch {
	case diags.HasErrors() || !v.IsKnown() || v.IsNull():
	case v.Type() == cty.String:
		return v.AsString()
	case v.Type() == cty.Bool && v.True():
		return "true"
	}
	return ""
}

func (r *reader) known(secret string) {
	if secret != "" {
		r.config.Secrets = append(r.config.Secrets, secret)
	}
}
