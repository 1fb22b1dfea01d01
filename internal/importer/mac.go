package importer

import (
	"bytes"
	"encoding/binary"
	"path"
	"regexp"
	"strings"
)

// isMachO reports whether data is a program of a Mac (mach-o/loader.h,
// mach-o/fat.h).
func isMachO(data []byte) bool {
	if len(data) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(data) {
	case 0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe, 0xcafebabe:
		return true
	}
	return false
}

// macWord is what a script for a Mac says, and what Linux has instead.
type macWord struct {
	words   string // separated by "|", as a regular expression
	instead string
}

func macWords() []macWord {
	return []macWord{
		{"serveradmin|SystemStarter|launchctl|sa_srchr|/System/Library/StartupItems|/Library/StartupItems", "on Linux it is systemctl start UNIT or systemctl stop UNIT"},
		{"diskutil|hdiutil|mount_hfs|mount_afp|mount_smbfs|disktool|fsck_hfs|cvadmin|xsanctl|/Volumes", "a volume block of the policy mounts and unmounts what moves with the address"},
		{"ifconfig|networksetup|ipconfig|systemsetup|scutil", "had carries the address itself; ip(8) shows and changes the rest"},
		{"ditto", "on Linux it is rsync or cp -a"},
		{"ProcessFailover|NotifyFailover|failoverd|heartbeatd|IPFailover", "had does its work"},
		{"osascript|say|defaults|plutil|dscl|nicl|niutil|lookupd|dscacheutil|kextload|kextunload|softwareupdate|AppleFileServer|sso_util|mkpassdb", "it exists on Macs only"},
	}
}

// examine lists what in a script will not work as it stands.
func (m *macTree) examine(data []byte, at place) {
	lines := bytes.Split(data, []byte("\n"))
	if before, _, found := bytes.Cut(data, []byte("\r")); found {
		m.ledger.note("the ends of lines", "they are not those of Unix, and the script won't run: take the carriage returns out", place{at.file, 1 + bytes.Count(before, []byte("\n"))})
	}
	first := place{at.file, 1}
	interpreter, ok := bytes.CutPrefix(lines[0], []byte("#!"))
	switch fields := bytes.Fields(interpreter); {
	case !ok || len(fields) == 0:
		m.ledger.note("the first line", "it names no interpreter: write #!/bin/sh, without which Linux doesn't run the script", first)
	case path.Base(string(fields[0])) == "csh", path.Base(string(fields[0])) == "tcsh", path.Base(string(fields[0])) == "zsh", path.Base(string(fields[0])) == "ksh":
		m.ledger.note(string(fields[0]), "Linux may not have it: install it on every node", first)
	}
	for _, w := range macWords() {
		expr := regexp.MustCompile(`(?:^|[^A-Za-z0-9_.-])(` + w.words + `)(?:$|[^A-Za-z0-9_-])`)
		for i, line := range lines {
			code, _, _ := strings.Cut(string(line), " #")
			if i > 0 && strings.HasPrefix(strings.TrimSpace(code), "#") {
				continue
			}
			if found := expr.FindStringSubmatch(code); found != nil {
				m.ledger.note(found[1], w.instead, place{at.file, i + 1})
			}
		}
	}
}
