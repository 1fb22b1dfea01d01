package policy

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// References are the one thing in a file that isn't literal: in the command of a
// sync, ${vip.NAME.address} stands for the address of that vip block, so that a
// command can't go on using an address that the policy has given up. They are
// looked up by name, in one fixed set; nothing is evaluated.

// argument is one item of a command line as it is written.
type argument struct {
	parts []argumentPart
	at    hcl.Range
}

// argumentPart is text, or the name of the vip whose address belongs there.
type argumentPart struct {
	literal string
	vip     text // ok only in a reference
}

const referenceHint = `"${vip.NAME.address}" is all that may stand between "${" and "}"; to mean the characters themselves double the first: "$${", "%%{"`

// requiredArguments is requiredList for a command line whose items may hold
// references.
func (s *source) requiredArguments(b *hclsyntax.Block, name, example string) []argument {
	a := b.Body.Attributes[name]
	if a == nil {
		s.errorf(b.DefRange(), fmt.Sprintf("add a line: %s = %s", name, example), "the %s block has no %s", b.Type, name)
		return nil
	}
	tuple, ok := a.Expr.(*hclsyntax.TupleConsExpr)
	if !ok || len(tuple.Exprs) == 0 {
		s.errorf(a.Expr.Range(), fmt.Sprintf("write %s = %s", name, example), "%s must be a list of a program and its arguments", name)
		return nil
	}
	var args []argument
	for _, e := range tuple.Exprs {
		args = append(args, s.argument(e, "each item of "+name, fmt.Sprintf("%s = %s", name, example)))
	}
	return args
}

// argument reads one item; without parts it has been refused.
func (s *source) argument(e hclsyntax.Expression, name, example string) argument {
	arg := argument{at: e.Range()}
	parts := []hclsyntax.Expression{}
	switch e := e.(type) {
	case *hclsyntax.TemplateExpr:
		parts = e.Parts
		if len(parts) == 0 {
			arg.parts = []argumentPart{{}} // ""
		}
	case *hclsyntax.TemplateWrapExpr: // nothing but one reference
		parts = append(parts, e.Wrapped)
	default:
		if t := s.literal(e, name, example); t.ok {
			arg.parts = []argumentPart{{literal: t.value}}
		}
		return arg
	}
	for _, part := range parts {
		if l, ok := part.(*hclsyntax.LiteralValueExpr); ok {
			arg.parts = append(arg.parts, argumentPart{literal: l.Val.AsString()})
			continue
		}
		vip := vipReference(part)
		if !vip.ok {
			s.errorf(arg.at, referenceHint, "%s holds a template", name)
			return argument{at: arg.at}
		}
		arg.parts = append(arg.parts, argumentPart{vip: vip})
	}
	return arg
}

// vipReference returns NAME of vip.NAME.address; not ok for all else.
func vipReference(e hclsyntax.Expression) text {
	t, ok := e.(*hclsyntax.ScopeTraversalExpr)
	if !ok || len(t.Traversal) != 3 || t.Traversal.RootName() != "vip" {
		return text{}
	}
	name, named := t.Traversal[1].(hcl.TraverseAttr)
	what, attr := t.Traversal[2].(hcl.TraverseAttr)
	if !named || !attr || what.Name != "address" {
		return text{}
	}
	return text{value: name.Name, at: name.SrcRange, ok: true}
}

// resolve puts the addresses in place of the references.
func (s *source) resolve(a argument, vips []VIP) text {
	var b strings.Builder
	for _, part := range a.parts {
		if !part.vip.ok {
			b.WriteString(part.literal)
			continue
		}
		var known []string
		found := false
		for _, v := range vips {
			known = append(known, v.Name)
			if v.Name == part.vip.value && !found {
				found = true
				b.WriteString(v.Address.String())
			}
		}
		if !found {
			hint := `add it: vip ` + quote(part.vip.value) + ` { address = "192.0.2.10" }`
			if len(known) > 0 {
				hint = suggest(part.vip.value, known)
			}
			s.errorf(part.vip.at, hint, "the policy has no vip called %s", quote(part.vip.value))
			return text{}
		}
	}
	return text{value: b.String(), at: a.at, ok: len(a.parts) > 0}
}
