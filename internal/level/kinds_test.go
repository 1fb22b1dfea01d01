package level

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	hadv1 "had/proto/had/v1"
)

// What has nothing within it is passed over, and what has it anywhere isn't.
func TestWithout(t *testing.T) {
	plain := Without(new(hadv1.Command), func(f protoreflect.FieldDescriptor) bool { return f.Enum() != nil })
	for _, c := range []struct {
		m     protoreflect.ProtoMessage
		plain bool
	}{
		{new(hadv1.LeaseRenew), true},
		{new(hadv1.Instance), true},
		{new(hadv1.Evidence), false},       // has one
		{new(hadv1.Acquire), false},        // within a list of its own
		{new(hadv1.Command), false},        // deeper
		{new(hadv1.StatusResponse), false}, // isn't within a command
	} {
		if d := c.m.ProtoReflect().Descriptor(); plain[d] != c.plain {
			t.Errorf("%s: %t, want %t", d.Name(), plain[d], c.plain)
		}
	}
}
