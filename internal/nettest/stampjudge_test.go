package nettest

import (
	"slices"
	"testing"
)

// The judge of what is on a volume finds what must never be.
func TestStampsAreJudged(t *testing.T) {
	good := "\nalpha 3 1 .\n\nalpha 3 2 .\n\nbe\nbeta 7 1 .\n"
	notes := []record{{"alpha", 3, 1, 10, 10}, {"alpha", 3, 2, 20, 20}, {"beta", 7, 1, 30, 30}}
	if wrong := judgeStamps(good, notes); len(wrong) > 0 {
		t.Errorf("found %q", wrong)
	}
	for name, tc := range map[string]struct {
		text  string
		notes []record
	}{
		"lost":              {"\nalpha 3 1 .\n\nbeta 7 1 .\n", notes},
		"all lost":          {"\nbeta 7 1 .\n", notes},
		"the last lost":     {good, append(slices.Clone(notes), record{"beta", 7, 2, 40, 40})},
		"twice":             {good + "\nbeta 7 1 .\n", notes},
		"an old owner last": {"\nalpha 3 1 .\n\nbeta 7 1 .\n\nalpha 3 2 .\n", notes},
		"safe out of turn":  {good, []record{{"alpha", 3, 1, 10, 10}, {"beta", 7, 1, 30, 30}, {"alpha", 3, 2, 40, 40}}},
		"unfinished, and not the record it looks like": {good + "\nbeta 7 2", append(slices.Clone(notes), record{"beta", 7, 2, 40, 40})},
		"rubbish": {"x\ny\nz\n" + good, notes},
	} {
		if wrong := judgeStamps(tc.text, tc.notes); len(wrong) == 0 {
			t.Errorf("%s: found nothing", name)
		}
	}
}
