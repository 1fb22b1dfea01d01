package cluster

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"had/internal/level"
	hadv1 "had/proto/had/v1"
)

// Whatever a command may have in it is looked for, but where it can't be.
func TestRecordsWithout(t *testing.T) {
	unmarked, plain := recordsWithout(level.Marked), recordsWithout(isEnum)
	for name, c := range map[string]struct {
		cmd             *hadv1.Command
		unmarked, plain bool
	}{
		"a renewal":         {&hadv1.Command{Record: &hadv1.Command_LeaseRenew{}}, true, true},
		"enums in lists":    {&hadv1.Command{Record: &hadv1.Command_Acquire{}}, true, false},
		"its own enum":      {&hadv1.Command{Record: &hadv1.Command_Secured{}}, true, false},
		"a marked record":   {&hadv1.Command{Record: &hadv1.Command_LevelRise{}}, false, true},
		"a marked field":    {&hadv1.Command{Record: &hadv1.Command_PolicyApply{}}, false, false},
		"no record at all":  {&hadv1.Command{}, false, false},
		"marked far within": {&hadv1.Command{Record: &hadv1.Command_Birth{}}, false, false},
	} {
		if u, p := unmarked.has(c.cmd), plain.has(c.cmd); u != c.unmarked || p != c.plain {
			t.Errorf("%s: %t %t, want %t %t", name, u, p, c.unmarked, c.plain)
		}
	}
	if all := recordsWithout(func(f protoreflect.FieldDescriptor) bool { return f.Name() == "proposer" }); len(all) > 0 {
		t.Errorf("%v are passed over, though every command has a proposer", all)
	}
}
