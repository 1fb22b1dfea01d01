package main

import (
	"fmt"
	"unicode/utf8"

	hadv1 "had/proto/had/v1"
)

// findings writes a checklist: how it is, what was looked at, what was found, and
// below it what to do.
func (p *page) findings(all []*hadv1.Finding) {
	checks := 0
	for _, f := range all {
		checks = max(checks, utf8.RuneCountInString(clean(f.GetCheck())))
	}
	for _, f := range all {
		mark, s := levelMark(f.GetLevel())
		p.entry(fmt.Sprintf("  %s  %s  ", pad(mark, 4), pad(clean(f.GetCheck()), checks)), s, f.GetDetail())
		if advice := f.GetAdvice(); advice != "" && f.GetLevel() != hadv1.Finding_LEVEL_OK {
			p.entry(pad("", 8+checks)+"  -> ", plain, advice)
		}
	}
}

func levelMark(l hadv1.Finding_Level) (string, style) {
	switch l {
	case hadv1.Finding_LEVEL_OK:
		return "ok", plain
	case hadv1.Finding_LEVEL_WARN:
		return "warn", yellow
	case hadv1.Finding_LEVEL_SKIPPED:
		return "-", faint
	case hadv1.Finding_LEVEL_FAIL:
		return "FAIL", red
	case hadv1.Finding_LEVEL_UNSPECIFIED:
	}
	return "?", red // of a newer had: nothing to be taken for good
}

// countFindings counts those of a level; what this hactl doesn't know counts as
// failed.
func countFindings(all []*hadv1.Finding, level hadv1.Finding_Level) int {
	n := 0
	for _, f := range all {
		known := f.GetLevel()
		if mark, _ := levelMark(known); mark == "?" {
			known = hadv1.Finding_LEVEL_FAIL
		}
		if known == level {
			n++
		}
	}
	return n
}

// doubted says that an answer may be old.
func (p *page) doubted(by, doubt string) {
	if doubt != "" {
		p.entry("", red, fmt.Sprintf("by %s alone, not confirmed: %s", by, doubt))
	}
}
