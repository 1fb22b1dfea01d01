package cluster

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	hadv1 "had/proto/had/v1"
)

// newer reports whether a command is of a version of had that knows more than this
// one, in what decides whether it is accepted: its record, or the kind of something
// in it. This version would refuse what the others accept, a kind of evidence for
// instance, and its state would name other owners than theirs from then on. What
// nodes report is left out, but for how they prove a release: of the rest a newer
// kind is only history.
func newer(cmd *hadv1.Command) bool {
	switch r := cmd.GetRecord().(type) {
	case nil:
		return true
	case *hadv1.Command_Deliver:
		for _, report := range r.Deliver.GetReports() {
			if rel := report.GetReleased(); rel != nil && newerKind(rel.ProtoReflect()) {
				return true
			}
		}
		return false
	}
	return newerKind(cmd.ProtoReflect())
}

func isEnum(f protoreflect.FieldDescriptor) bool { return f.Enum() != nil }

// newerKind reports whether a message has a value of an enum that this version
// doesn't name.
func newerKind(m protoreflect.Message) (found bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap(): // there is none
		case f.IsList():
			for i := range v.List().Len() {
				found = found || newerValue(f, v.List().Get(i))
			}
		default:
			found = newerValue(f, v)
		}
		return !found
	})
	return found
}

func newerValue(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch f.Kind() {
	case protoreflect.EnumKind:
		return f.Enum().Values().ByNumber(v.Enum()) == nil
	case protoreflect.MessageKind:
		return newerKind(v.Message())
	}
	return false
}
