package importer

import (
	"fmt"
	"strconv"
	"strings"
)

// sequence unfolds a line that begins with ~SEQ(var, start, step, end),
// ~SEQx(…) or ~LST(var, value, …), once for each value.
func (r *reader) sequence(text string, at place) bool {
	if text[0] != '~' {
		return false
	}
	head, rest, ok := strings.Cut(text, "(")
	inside, rest, closed := strings.Cut(rest, ")")
	if !ok || !closed {
		r.bad.add(at, "%s is no sequence: write ~SEQ(NAME, 1, 9) or ~LST(NAME, a, b)", quote(text))
		return true
	}
	// The numbers may be parameters themselves.
	for range maxReplaced {
		next, multi, found := r.replace(inside)
		if multi != nil || !found || len(next) > maxLineLength {
			break
		}
		inside = next
	}
	var names []string
	var rounds [][]string
	var err error
	switch strings.TrimSpace(head) {
	case "~SEQ", "~SEQx":
		names, rounds, err = numbers(inside, strings.TrimSpace(head) == "~SEQx")
	case "~LST":
		names, rounds, err = list(inside)
	default:
		err = fmt.Errorf("there is ~SEQ, ~SEQx and ~LST")
	}
	if err != nil {
		r.bad.add(at, "%s is no sequence: %v", quote(text), err)
		return true
	}
	if rest = strings.TrimSpace(rest); rest == "" {
		r.bad.add(at, "nothing follows the sequence %s", quote(text))
		return true
	}
	for _, values := range rounds {
		for i, name := range names {
			r.params[name] = &param{value: values[i], at: at, plain: true}
		}
		r.unfold(rest, at, false)
		if r.count > maxStatements || r.steps > maxUnfoldSteps {
			break
		}
	}
	return true
}

func numbers(inside string, hex bool) ([]string, [][]string, error) {
	words := strings.Split(inside, ",")
	name := strings.TrimSpace(words[0])
	if !isParam(name) || len(words) < 2 || len(words) > 4 {
		return nil, nil, fmt.Errorf("it takes a name and one to three numbers")
	}
	var n []int64
	for _, w := range words[1:] {
		// 0x and a leading zero as strtol(3) has them.
		v, err := strconv.ParseInt(strings.TrimSpace(w), 0, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("%s is no number", quote(strings.TrimSpace(w)))
		}
		n = append(n, v)
	}
	var start, step, end int64
	switch len(n) {
	case 1:
		start, step, end = 1, 1, n[0]
		if end < 0 {
			start, step = -1, -1
		}
	case 2:
		start, step, end = n[0], 1, n[1]
		if start > end {
			step = -1
		}
	default:
		start, step, end = n[0], n[1], n[2]
	}
	switch {
	case step == 0 || start < end && step < 0 || start > end && step > 0:
		return nil, nil, fmt.Errorf("it never reaches %d", end)
	case hex && (start < 0 || end < 0):
		return nil, nil, fmt.Errorf("~SEQx counts from 0 up")
	case (end-start)/step >= maxStatements:
		return nil, nil, fmt.Errorf("it has more than %d numbers", maxStatements)
	}
	var rounds [][]string
	base := 10
	if hex {
		base = 16
	}
	for v := start; step > 0 && v <= end || step < 0 && v >= end; v += step {
		rounds = append(rounds, []string{strconv.FormatInt(v, base)})
	}
	return []string{name}, rounds, nil
}

func list(inside string) ([]string, [][]string, error) {
	groups, err := listGroups(inside)
	if err != nil {
		return nil, nil, err
	}
	if len(groups) < 2 {
		return nil, nil, fmt.Errorf("it takes a name and at least one value")
	}
	names := groups[0]
	for _, name := range names {
		if !isParam(name) {
			return nil, nil, fmt.Errorf("%s is no name", quote(name))
		}
	}
	for _, values := range groups[1:] {
		if len(values) != len(names) {
			return nil, nil, fmt.Errorf("%d names, but %d values in {%s}", len(names), len(values), strings.Join(values, ","))
		}
	}
	return names, groups[1:], nil
}

// listGroups splits "a, {b, c}" into [a] and [b c].
func listGroups(inside string) (groups [][]string, err error) {
	for inside = strings.TrimSpace(inside); inside != ""; {
		var group string
		if braced, ok := strings.CutPrefix(inside, "{"); ok {
			if group, inside, ok = strings.Cut(braced, "}"); !ok {
				return nil, fmt.Errorf("a { is not closed")
			}
			inside = strings.TrimSpace(inside)
			if inside != "" && inside[0] != ',' {
				return nil, fmt.Errorf("a comma is missing after }")
			}
			inside = strings.TrimPrefix(inside, ",")
			var values []string
			for v := range strings.SplitSeq(group, ",") {
				values = append(values, strings.TrimSpace(v))
			}
			groups = append(groups, values)
		} else {
			group, inside, _ = strings.Cut(inside, ",")
			groups = append(groups, []string{strings.TrimSpace(group)})
		}
		inside = strings.TrimSpace(inside)
	}
	return groups, nil
}
