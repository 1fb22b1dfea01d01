package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestSummarize(t *testing.T) {
	t.Parallel()
	upTo := func(n int) []float64 {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(i + 1)
		}
		return values
	}
	for _, c := range []struct {
		name   string
		values []float64
		want   Summary
	}{
		{"none", nil, Summary{}},
		{"one", []float64{7}, Summary{1, 7, 7, 7}},
		{"two", []float64{1, 2}, Summary{2, 1.5, 2, 2}},
		{"three", []float64{3, 1, 2}, Summary{3, 2, 3, 3}},
		// Nearest rank: of 20 the 19th, one being worse; of 21 the 20th.
		{"twenty", upTo(20), Summary{20, 10.5, 19, 20}},
		{"twenty-one", upTo(21), Summary{21, 11, 20, 21}},
		{"hundred", upTo(100), Summary{100, 50.5, 95, 100}},
	} {
		rand.Shuffle(len(c.values), func(i, j int) { c.values[i], c.values[j] = c.values[j], c.values[i] })
		before := slices.Clone(c.values)
		if got := Summarize(c.values); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
		if !slices.Equal(c.values, before) {
			t.Errorf("%s: the values were put in another order", c.name)
		}
	}
}
