package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Change is one difference between two policies as they are written. Layout and
// comments make none.
type Change struct {
	Kind          ChangeKind
	Block         string // as it begins: `vip "web"`, `fence > agent "alpha"`; "": the top of the file
	Attribute     string // "": the block itself
	Before, After string // values as they are written, on one line; "": it isn't there
}

// ChangeKind says what has become of a block or an attribute.
type ChangeKind int

// The kinds of a Change.
const (
	Added   ChangeKind = iota + 1
	Removed            // of a block's attributes, too, when the block is
	Changed
	Moved // the blocks of a type, which Block names, have another order
)

// Diff returns the differences between two policies, in the order of the new one;
// what is only in the old one comes after it. Both must be HCL: one that isn't
// counts as empty.
func Diff(before, after string) []Change {
	d := differ{before: before, after: after}
	d.bodies("", bodyOf(before), bodyOf(after))
	return d.changes
}

func bodyOf(text string) *hclsyntax.Body {
	file, diags := hclsyntax.ParseConfig([]byte(text), "", hcl.InitialPos)
	if diags.HasErrors() {
		return new(hclsyntax.Body)
	}
	return file.Body.(*hclsyntax.Body)
}

type differ struct {
	before, after string
	changes       []Change
}

// bodies compares two bodies of the same block. nil is one that isn't there.
func (d *differ) bodies(block string, before, after *hclsyntax.Body) {
	for _, name := range attributes(after) {
		c := Change{Added, block, name, "", oneLine(d.after, after.Attributes[name].Expr)}
		if before != nil && before.Attributes[name] != nil {
			c.Kind, c.Before = Changed, oneLine(d.before, before.Attributes[name].Expr)
		}
		if c.Before != c.After {
			d.changes = append(d.changes, c)
		}
	}
	for _, name := range attributes(before) {
		if after == nil || after.Attributes[name] == nil {
			d.changes = append(d.changes, Change{Removed, block, name, oneLine(d.before, before.Attributes[name].Expr), ""})
		}
	}
	was, is := blocks(before), blocks(after)
	for _, b := range is {
		path := join(block, title(b))
		old := blockOf(was, title(b))
		if old == nil {
			d.changes = append(d.changes, Change{Kind: Added, Block: path})
			d.bodies(path, nil, b.Body)
			continue
		}
		d.bodies(path, old.Body, b.Body)
	}
	for _, b := range was {
		if path := join(block, title(b)); blockOf(is, title(b)) == nil {
			d.changes = append(d.changes, Change{Kind: Removed, Block: path})
			d.bodies(path, b.Body, nil)
		}
	}
	for _, kind := range []string{"vip", "volume"} { // whose order means something
		if block == "" && !slices.Equal(kept(was, is, kind), kept(is, was, kind)) {
			d.changes = append(d.changes, Change{Kind: Moved, Block: kind, Before: strings.Join(kept(was, is, kind), ", "), After: strings.Join(kept(is, was, kind), ", ")})
		}
	}
}

// attributes returns the names of a body's attributes in file order.
func attributes(b *hclsyntax.Body) []string {
	if b == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(b.Attributes), func(x, y string) int {
		return cmp.Compare(b.Attributes[x].SrcRange.Start.Byte, b.Attributes[y].SrcRange.Start.Byte)
	})
}

func blocks(b *hclsyntax.Body) hclsyntax.Blocks {
	if b == nil {
		return nil
	}
	return b.Blocks
}

// title is how a block begins.
func title(b *hclsyntax.Block) string {
	all := []string{b.Type}
	for _, l := range b.Labels {
		all = append(all, quote(l))
	}
	return strings.Join(all, " ")
}

func join(outer, inner string) string {
	if outer == "" {
		return inner
	}
	return outer + " > " + inner
}

func blockOf(all hclsyntax.Blocks, t string) *hclsyntax.Block {
	i := slices.IndexFunc(all, func(b *hclsyntax.Block) bool { return title(b) == t })
	if i < 0 {
		return nil
	}
	return all[i]
}

// kept returns the first labels of those blocks of a type that are also in others.
func kept(all, others hclsyntax.Blocks, kind string) (names []string) {
	for _, b := range all {
		if b.Type == kind && blockOf(others, title(b)) != nil {
			names = append(names, label(b).value)
		}
	}
	return names
}

// oneLine is an expression without layout and comments.
func oneLine(text string, e hclsyntax.Expression) string {
	r := e.Range()
	tokens, _ := hclsyntax.LexExpression([]byte(text[r.Start.Byte:r.End.Byte]), "", hcl.InitialPos)
	var b strings.Builder
	var last hclsyntax.TokenType
	quoted, newLine := 0, false
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenEOF:
			continue
		case hclsyntax.TokenNewline, hclsyntax.TokenComment:
			newLine = true
			continue
		case hclsyntax.TokenComma:
			newLine = true // written when something follows
			continue
		}
		opened, closing := opens(last), closes(t.Type)
		switch {
		case b.Len() == 0, quoted > 0, opened && (closing || last != hclsyntax.TokenOBrace), closing && t.Type != hclsyntax.TokenCBrace:
		case newLine && !opened && !closing:
			b.WriteString(", ")
		default:
			b.WriteString(" ")
		}
		b.Write(t.Bytes)
		switch t.Type {
		case hclsyntax.TokenOQuote:
			quoted++
		case hclsyntax.TokenCQuote:
			quoted--
		}
		last, newLine = t.Type, false
	}
	return b.String()
}

func opens(t hclsyntax.TokenType) bool {
	return t == hclsyntax.TokenOBrack || t == hclsyntax.TokenOBrace || t == hclsyntax.TokenOParen
}

func closes(t hclsyntax.TokenType) bool {
	return t == hclsyntax.TokenCBrack || t == hclsyntax.TokenCBrace || t == hclsyntax.TokenCParen
}
