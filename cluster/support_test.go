package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// Whatever two nodes ask of each other, in whatever order the questions and
// the answers arrive, they don't both stand with the other's support.
func TestSupportGoesToOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hold = time.Second
		turn := contact{leader: "alpha", term: 3}
		for _, order := range [][]string{
			{"b asks", "c asks", "b gets", "c gets", "b takes", "c takes"},
			{"b asks", "c asks", "b gets", "c gets", "c takes", "b takes"},
			{"b asks", "c asks", "b gets", "b takes", "c gets", "c takes"},
			{"b asks", "c asks", "c gets", "c takes", "b gets", "b takes"},
			{"c asks", "c gets", "b asks", "b gets", "c takes", "b takes"},
			{"b asks", "b gets", "b takes", "c asks", "c gets", "c takes"},
		} {
			var b, c support // ranks 0 and 1
			asked, got, stands := map[byte]time.Time{}, map[byte]bool{}, 0
			for _, step := range order {
				time.Sleep(time.Millisecond)
				switch step {
				case "b asks", "c asks":
					other := &b
					if step[0] == 'c' {
						other = &c
					}
					if time.Since(other.given(turn)) > hold { // as look does before it asks
						asked[step[0]] = time.Now()
					}
				case "b gets":
					got['b'] = !asked['b'].IsZero() && c.give(turn, 0, hold)
				case "c gets":
					got['c'] = !asked['c'].IsZero() && b.give(turn, 1, hold)
				case "b takes":
					if got['b'] && b.take(turn, 0, asked['b']) {
						stands++
					}
				case "c takes":
					if got['c'] && c.take(turn, 1, asked['c']) {
						stands++
					}
				}
			}
			if stands != 1 {
				t.Errorf("%v: %d stand", order, stands)
			}
		}
	})
}

func TestSupportLapses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s support
		turn, next := contact{leader: "alpha", term: 3}, contact{leader: "beta", term: 4}
		if !s.give(turn, 1, time.Second) || s.give(turn, 0, time.Second) {
			t.Error("it went to two, or to none")
		}
		time.Sleep(900 * time.Millisecond)
		if !s.give(turn, 1, time.Second) {
			t.Error("the one who has it may ask again")
		}
		time.Sleep(100 * time.Millisecond)
		if !s.give(turn, 0, time.Second) {
			t.Error("it didn't lapse, or asking again made it longer")
		}
		if !s.give(next, 2, time.Second) || !s.given(turn).IsZero() {
			t.Error("another leader's turn is another matter")
		}
		if !s.take(next, 0, time.Now()) || s.give(next, 1, time.Second) || !s.given(next).IsZero() {
			t.Error("a node that stands supports itself alone")
		}
		if s.leave(); !s.give(next, 1, time.Second) {
			t.Error("a node that doesn't stand after all supports nobody")
		}
	})
}
