package policy

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// shape says what may stand in a file or block.
type shape struct {
	what   string            // the block with its labels, as an example; "" for a file
	labels int               // how many
	attrs  map[string]string // attribute to an example value, as it is written
	blocks map[string]shape
	once   string            // not empty: the block may stand once, and why
	later  []string          // attributes and blocks of later versions
	others map[string]string // names that belong elsewhere, and where
}

// names returns every name that may stand here, in order.
func (sh shape) names() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(sh.attrs)), maps.Keys(sh.blocks))
	slices.Sort(names)
	return names
}

// conform refuses every name in body that sh doesn't have, and every block
// with the wrong number of labels. in names the body's block, for people.
func (s *source) conform(body *hclsyntax.Body, sh shape, in string) {
	for _, a := range inOrder(body.Attributes) {
		if _, ok := sh.attrs[a.Name]; ok {
			continue
		}
		if b, ok := sh.blocks[a.Name]; ok {
			s.errorf(a.NameRange, fmt.Sprintf("write %s { … }, without \"=\"", b.what), "%s is a block, not an attribute", quote(a.Name))
			continue
		}
		s.unknown(a.NameRange, "attribute", a.Name, in, sh)
	}

	seen := map[string]*hclsyntax.Block{}
	for _, b := range body.Blocks {
		inner, ok := sh.blocks[b.Type]
		if !ok {
			if example, ok := sh.attrs[b.Type]; ok {
				s.errorf(b.TypeRange, fmt.Sprintf("write %s = %s", b.Type, example), "%s is an attribute, not a block", quote(b.Type))
				continue
			}
			s.unknown(b.TypeRange, "block", b.Type, in, sh)
			continue
		}
		if first := seen[b.Type]; first != nil && inner.once != "" {
			s.errorf(b.DefRange(), fmt.Sprintf("the first is on line %d; %s", first.TypeRange.Start.Line, inner.once), "there is a second %s block", b.Type)
			continue
		}
		seen[b.Type] = b
		switch n := len(b.Labels); {
		case n < inner.labels:
			s.errorf(b.DefRange(), fmt.Sprintf("write %s { … }", inner.what), "the %s block has no name", b.Type)
		case n > inner.labels:
			s.errorf(b.LabelRanges[inner.labels], fmt.Sprintf("write %s { … }", inner.what), "the %s block has a name too many", b.Type)
		}
		s.conform(b.Body, inner, "the "+b.Type+" block")
	}
}

// inOrder returns attributes as they stand in the file.
func inOrder(attrs hclsyntax.Attributes) []*hclsyntax.Attribute {
	return slices.SortedFunc(maps.Values(attrs), func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.NameRange.Start.Byte, b.NameRange.Start.Byte)
	})
}

// unknown refuses a name that doesn't belong here.
func (s *source) unknown(at hcl.Range, kind, name, in string, sh shape) {
	if slices.Contains(sh.later, name) {
		s.errorf(at, "remove it: had refuses what it can't do, rather than ignore it", "this version of had does not support %s yet", quote(name))
		return
	}
	hint := suggest(name, sh.names())
	if where, ok := sh.others[name]; ok {
		hint = where
	}
	s.errorf(at, hint, "unknown %s %s in %s", kind, quote(name), in)
}

// text is a string of the file and where it stands. ok is false when it isn't
// written, and when it was refused.
type text struct {
	value string
	at    hcl.Range
	ok    bool
}

// rawAssignment is one item of a map.
type rawAssignment struct{ key, value text }

// label returns a block's first label, which conform has counted.
func label(b *hclsyntax.Block) text {
	return text{value: b.Labels[0], at: b.LabelRanges[0], ok: true}
}

// required returns the attribute of b, and refuses b without it.
func (s *source) required(b *hclsyntax.Block, name, example string) text {
	if b.Body.Attributes[name] == nil {
		s.errorf(b.DefRange(), fmt.Sprintf("add a line: %s = %s", name, example), "the %s block has no %s", b.Type, name)
		return text{}
	}
	return s.optional(b.Body, name, example)
}

// optional returns an attribute that may be left out.
func (s *source) optional(body *hclsyntax.Body, name, example string) text {
	a := body.Attributes[name]
	if a == nil {
		return text{}
	}
	return s.literal(a.Expr, name, fmt.Sprintf("%s = %s", name, example))
}

// literal returns the string that e is. name says what it is for, and example
// how it could be written.
func (s *source) literal(e hclsyntax.Expression, name, example string) text {
	at := e.Range()
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		var b strings.Builder
		for _, part := range e.Parts {
			l, ok := part.(*hclsyntax.LiteralValueExpr)
			if !ok {
				s.errorf(at, templateHint, "%s holds a template", name)
				return text{}
			}
			b.WriteString(l.Val.AsString())
		}
		return text{value: b.String(), at: at, ok: true}
	case *hclsyntax.TemplateWrapExpr:
		s.errorf(at, templateHint, "%s holds a template", name)
	case *hclsyntax.ScopeTraversalExpr:
		s.errorf(at, "text is written in quotes: "+quote(string(at.SliceBytes([]byte(s.text)))), "%s has a value without quotes, and this version of had has no variables", name)
	case *hclsyntax.FunctionCallExpr:
		s.errorf(at, "write the value itself, as in "+example, "%s calls %s, and this version of had has no functions", name, quote(e.Name))
	default:
		s.errorf(at, "write it in quotes, as in "+example, "%s must be text", name)
	}
	return text{}
}

// truth returns an attribute that is true or false, and false when it isn't
// written.
func (s *source) truth(body *hclsyntax.Body, name string) bool {
	a := body.Attributes[name]
	if a == nil {
		return false
	}
	if l, ok := a.Expr.(*hclsyntax.LiteralValueExpr); ok {
		if !l.Val.IsNull() && l.Val.Type() == cty.Bool {
			return l.Val.True()
		}
	}
	s.errorf(a.Expr.Range(), fmt.Sprintf("write %s = true, without quotes", name), "%s must be true or false", name)
	return false
}

// list returns a list of strings.
func (s *source) list(body *hclsyntax.Body, name, example string) []text {
	a := body.Attributes[name]
	if a == nil {
		return nil
	}
	tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		s.errorf(a.Expr.Range(), fmt.Sprintf("write %s = %s", name, example), "%s must be a list", name)
		return nil
	}
	var items []text
	for _, e := range tuple.Exprs {
		if t := s.literal(e, "each item of "+name, fmt.Sprintf("%s = %s", name, example)); t.ok {
			items = append(items, t)
		}
	}
	return items
}

// requiredList returns the list of b, and refuses b without it or with
// nothing in it.
func (s *source) requiredList(b *hclsyntax.Block, name, example string) []text {
	a := b.Body.Attributes[name]
	if a == nil {
		s.errorf(b.DefRange(), fmt.Sprintf("add a line: %s = %s", name, example), "the %s block has no %s", b.Type, name)
		return nil
	}
	if tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr); ok && len(tuple.Exprs) == 0 {
		s.errorf(a.Expr.Range(), fmt.Sprintf("write %s = %s", name, example), "%s is an empty list", name)
	}
	return s.list(b.Body, name, example)
}

// assignments returns the items of a map from text to text. key and value
// name what stands on either side.
func (s *source) assignments(object *hclsyntax.ObjectConsExpr, key, value, example string) []rawAssignment {
	var items []rawAssignment
	for _, item := range object.Items {
		k := text{value: hcl.ExprAsKeyword(item.KeyExpr), at: item.KeyExpr.Range(), ok: true}
		if k.value == "" {
			k = text{}
			if e, ok := item.KeyExpr.(*hclsyntax.ObjectConsKeyExpr); ok {
				k = s.literal(e.Wrapped, key, example)
			}
		}
		v := s.literal(item.ValueExpr, value, example)
		if k.ok && v.ok {
			items = append(items, rawAssignment{k, v})
		}
	}
	return items
}

// number returns a whole number from low to high, and 0 when none is written.
func (s *source) number(body *hclsyntax.Body, name string, low, high int) int {
	a := body.Attributes[name]
	if a == nil {
		return 0
	}
	if l, ok := a.Expr.(*hclsyntax.LiteralValueExpr); ok && !l.Val.IsNull() && l.Val.Type() == cty.Number {
		if n, accuracy := l.Val.AsBigFloat().Int64(); accuracy == big.Exact && int64(low) <= n && n <= int64(high) {
			return int(n)
		}
	}
	s.errorf(a.Expr.Range(), fmt.Sprintf("write %s = %d, without quotes", name, low), "%s must be a whole number from %d to %d", name, low, high)
	return 0
}
