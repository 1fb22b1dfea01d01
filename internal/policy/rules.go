package policy

import (
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// path returns a written absolute path in its shortest form, and def when
// none is written.
func (s *source) path(t text, name, def string) string {
	if !t.ok {
		return def
	}
	switch {
	case strings.ContainsFunc(t.value, func(r rune) bool { return !unicode.IsPrint(r) }):
		s.errorf(t.at, "", "%s holds a character that isn't printable", name)
	case !filepath.IsAbs(t.value):
		s.errorf(t.at, "begin it with \"/\": had's working directory is not yours", "%s is a relative path: %s", name, quote(t.value))
	}
	return filepath.Clean(t.value)
}

// span is a range of durations that make sense, and why no others do.
type span struct {
	min, max time.Duration
	low      string // why not below min
	high     string // why not above max
}

// duration returns a written duration, and def when none is written.
func (s *source) duration(body *hclsyntax.Body, name string, def time.Duration, sp span) time.Duration {
	a := body.Attributes[name]
	if a == nil {
		return def
	}
	hint := "write a number with its unit, in quotes: " + name + " = " + quote(shortest(def))
	if l, ok := a.Expr.(*hclsyntax.LiteralValueExpr); ok && l.Val.Type() == cty.Number {
		s.errorf(a.Expr.Range(), hint, "%s has no unit", name)
		return def
	}
	t := s.literal(a.Expr, name, name+" = "+quote(shortest(def)))
	if !t.ok {
		return def
	}
	d, err := time.ParseDuration(t.value)
	switch {
	case err != nil:
		s.errorf(t.at, hint, "%s is not a duration: %s", name, quote(t.value))
	case d < sp.min:
		s.errorf(t.at, sp.low, "%s is %s, but must be at least %s", name, shortest(d), shortest(sp.min))
	case d > sp.max:
		s.errorf(t.at, sp.high, "%s is %s, but must be at most %s", name, shortest(d), shortest(sp.max))
	}
	return d
}

// shortest is d without units that are zero: "1h", not "1h0m0s".
func shortest(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}
