package cluster

import (
	"reflect"

	"google.golang.org/protobuf/reflect/protoreflect"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// records is a set of kinds of records, by the types that Command.GetRecord returns.
type records map[reflect.Type]bool

// has reports whether a command's record is of a kind in the set.
func (r records) has(cmd *hadv1.Command) bool { return r[reflect.TypeOf(cmd.GetRecord())] }

// recordsWithout returns the kinds of records with which a command has no field
// that is such a one, however deep. Renewals are written several times a second,
// and to look through each by reflection was 3 % of what an idle owner cost.
func recordsWithout(is func(protoreflect.FieldDescriptor) bool) records {
	out := records{}
	without := level.Without(new(hadv1.Command), is)
	for fields, i := new(hadv1.Command).ProtoReflect().Descriptor().Fields(), 0; i < fields.Len(); i++ {
		f := fields.Get(i)
		switch bare := !is(f) && (f.Message() == nil || without[f.Message()]); {
		case f.ContainingOneof() == nil && !bare:
			return nil // every command may have it
		case f.ContainingOneof() != nil && bare:
			cmd := new(hadv1.Command)
			m := cmd.ProtoReflect()
			m.Set(f, m.NewField(f))
			out[reflect.TypeOf(cmd.GetRecord())] = true
		}
	}
	return out
}

// needs returns level.Needs for commands.
func needs() func(*hadv1.Command) (level uint32, what string) {
	unmarked := recordsWithout(level.Marked)
	return func(cmd *hadv1.Command) (uint32, string) {
		if unmarked.has(cmd) {
			return level.First, ""
		}
		return level.Needs(cmd)
	}
}
