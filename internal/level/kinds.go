package level

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Kinds is a set of kinds of messages.
type Kinds map[protoreflect.MessageDescriptor]bool

// Without returns the kinds of messages that may be within m, m's own included,
// in which no field is such a one, however deep.
func Without(m proto.Message, is func(protoreflect.FieldDescriptor) bool) Kinds {
	all := Kinds{}
	collect(m.ProtoReflect().Descriptor(), all)
	with := Kinds{}
	for before := -1; len(with) > before; { // until nothing comes to it: kinds may be within each other
		before = len(with)
		for kind := range all {
			if with[kind] || has(kind, func(f protoreflect.FieldDescriptor) bool { return is(f) || with[f.Message()] }) {
				with[kind] = true
			}
		}
	}
	for kind := range with {
		delete(all, kind)
	}
	return all
}

func collect(kind protoreflect.MessageDescriptor, into Kinds) {
	if into[kind] {
		return
	}
	into[kind] = true
	has(kind, func(f protoreflect.FieldDescriptor) bool {
		if f.Message() != nil {
			collect(f.Message(), into)
		}
		return false
	})
}

// has reports whether a kind of message has a field that is such a one.
func has(kind protoreflect.MessageDescriptor, is func(protoreflect.FieldDescriptor) bool) bool {
	for fields, i := kind.Fields(), 0; i < fields.Len(); i++ {
		if is(fields.Get(i)) {
			return true
		}
	}
	return false
}
