// Package level knows which messages an older had would misread. A record level
// is a number that grows with what the log may have in it: a had of level n reads
// every record up to n as those do who wrote it, and stops at a later one. The
// .proto files mark each new field and kind with the level it came with.
package level

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	hadv1 "had/proto/had/v1"
)

const (
	// First is what was before there were levels: whoever says none has it.
	First uint32 = 1
	// Known is the latest that this build reads. It is one more than the latest
	// landing's as soon as anything is added (testdata/landed.txt).
	Known uint32 = 2
)

// Of reads a level as others say it: those who don't, are of the first.
func Of(said uint32) uint32 { return max(said, First) }

// Needs returns the level that a reader of a message must have, and the name of
// what makes it so: a field, or a value of an enum; empty at the first level.
func Needs(m proto.Message) (level uint32, what string) {
	level = First
	need(m.ProtoReflect(), func(since uint32, name protoreflect.Name) {
		if since > level {
			level, what = since, string(name)
		}
	})
	return level, what
}

// need tells of everything marked in a message.
func need(m protoreflect.Message, tell func(uint32, protoreflect.Name)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		tell(Since(f), f.Name())
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { need(v.Message(), tell); return true })
			}
		case f.IsList():
			for i := range v.List().Len() {
				needOne(f, v.List().Get(i), tell)
			}
		default:
			needOne(f, v, tell)
		}
		return true
	})
}

func needOne(f protoreflect.FieldDescriptor, v protoreflect.Value, tell func(uint32, protoreflect.Name)) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		need(v.Message(), tell)
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			tell(SinceValue(d), d.Name())
		}
	}
}

// Marked reports whether a field, or a value of its enum, is marked with a level.
func Marked(f protoreflect.FieldDescriptor) bool {
	if Since(f) != 0 {
		return true
	}
	if f.Enum() == nil {
		return false
	}
	for values, i := f.Enum().Values(), 0; i < values.Len(); i++ {
		if SinceValue(values.Get(i)) != 0 {
			return true
		}
	}
	return false
}

// Since returns the level that a field is marked with; 0: it is not.
func Since(f protoreflect.FieldDescriptor) uint32 {
	since, _ := proto.GetExtension(f.Options(), hadv1.E_Since).(uint32)
	return since
}

// SinceValue is Since for the value of an enum.
func SinceValue(v protoreflect.EnumValueDescriptor) uint32 {
	since, _ := proto.GetExtension(v.Options(), hadv1.E_ValueSince).(uint32)
	return since
}

// Lacks says what the had that v is of would pass over in a message, as if it
// weren't there; empty: nothing.
func Lacks(m proto.Message, v *hadv1.VersionResponse) string {
	needs, what := Needs(m)
	if needs <= Of(v.GetRecordLevel()) {
		return ""
	}
	return fmt.Sprintf("%s runs had %s, which doesn't know %q: upgrade had there first", v.GetNode(), v.GetVersion(), what)
}
