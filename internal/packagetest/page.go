package packagetest

import (
	"fmt"
	"regexp"
	"strings"
)

// step is a block of the page: what somebody types, or a file they write.
type step struct {
	line  int // of the page
	file  string
	hosts []string // in this order; "here" is the machine with the clone
	text  string
}

var (
	mark   = regexp.MustCompile(`^<!-- (?:(/\S+) )?on ([a-z ]+) -->$`)
	notRun = regexp.MustCompile(`^<!-- not run: .+ -->$`)
)

// sections returns the steps of a page below each of its headings. A block that
// nothing is said of is an error: the page has changed, and the test has not.
func sections(page string) (map[string][]step, error) {
	all := map[string][]step{}
	heading := ""
	var next *step // what was said of the block to come
	skip := false
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		m := mark.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "## "):
			heading = line[3:]
		case m != nil:
			next = &step{file: m[1], hosts: strings.Fields(m[2])}
		case notRun.MatchString(line):
			skip = true
		case line == "```hcl", strings.HasPrefix(line, "    "):
			b := step{line: i + 1}
			b.text, i = block(lines, i)
			switch {
			case skip:
			case next == nil:
				return nil, fmt.Errorf("line %d: say before this block where it is run, <!-- on alpha beta -->, or why it isn't, <!-- not run: … -->", b.line)
			case (next.file != "") != (line == "```hcl"):
				return nil, fmt.Errorf("line %d: files are ```hcl blocks, and only files", b.line)
			default:
				b.file, b.hosts = next.file, next.hosts
				all[heading] = append(all[heading], b)
			}
			next, skip = nil, false
		}
	}
	return all, nil
}

// block returns the text of the block that begins at lines[i], and its last line.
func block(lines []string, i int) (string, int) {
	var text strings.Builder
	if strings.HasPrefix(lines[i], "```") {
		for i++; lines[i] != "```"; i++ {
			text.WriteString(lines[i] + "\n")
		}
		return text.String(), i
	}
	for ; i < len(lines) && strings.HasPrefix(lines[i], "    "); i++ {
		text.WriteString(lines[i][4:] + "\n")
	}
	return text.String(), i - 1
}
