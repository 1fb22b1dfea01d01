package bench

import (
	"math"
	"slices"
)

// Summary describes a set of measurements, in their unit.
type Summary struct {
	N                int
	Median, P95, Max float64
}

// Summarize describes the values, in any order; the zero Summary is that of
// none. The median of an even number is the mean of the middle two; P95 is the
// smallest value that at least 95 % of the values don't exceed (nearest rank).
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	rank := int(math.Ceil(float64(n) * 95 / 100))
	return Summary{N: n, Median: (v[(n-1)/2] + v[n/2]) / 2, P95: v[rank-1], Max: v[n-1]}
}
