// Package importer reads the configuration of other failover managers,
// keepalived's and Mac OS X Server's IPFailover, and writes what had needs
// instead: a policy, a node file that is the same on every node, hook folders,
// and the list of all that could not be carried over.
//
// No line is dropped in silence. A file is read in three stages, each of which
// has to give an account of every line to the ledger (ledger.go): text to
// statements, statements to a plan of the cluster, the plan to files. What no
// stage has claimed is in the list as not understood.
//
// Nothing is run and nothing is looked up: the same input gives the same
// output on every machine.
package importer

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
)

// Options are what the files to be read don't say. The zero value is valid.
type Options struct {
	Cluster string // the cluster's name; default "main"
	// Port is the nodes' TCP port; default 7400. A host in several clusters needs
	// one for each, and a data folder, which then is named after the cluster.
	Port     int
	HooksDir string // where the hook folders will lie on the nodes; default "/etc/had/hooks"
	// Nodes are the cluster's nodes as the operator names them. Without them
	// names and addresses are taken from the files, as far as they are there,
	// and what is missing has a place to be filled in.
	Nodes []Node
	// Only are the vrrp_instances and vrrp_sync_groups to carry over; none: all.
	Only []string
}

// Node is one node of the cluster to be.
type Node struct {
	Name    string
	Address netip.Addr // by which the other nodes reach it
	Witness bool       // votes, but never owns
}

func (o Options) withDefaults() Options {
	o.Cluster = cmp.Or(o.Cluster, "main")
	o.Port = cmp.Or(o.Port, raftPort)
	o.HooksDir = cmp.Or(o.HooksDir, "/etc/had/hooks")
	return o
}

// Result is what an import gives.
type Result struct {
	Files   []File    // had.hcl, policy.hcl, then the hook scripts in order of their paths
	Carried []Carried // by file and line
	Notes   []Note    // by file and line
	ToDo    []string  // sentences: what only the operator can add
}

// File is one file to be written.
type File struct {
	Path string // relative, with slashes
	Mode fs.FileMode
	Data []byte
}

// Carried says where a line of the input went.
type Carried struct {
	File string `json:"file"`
	Line int    `json:"line"`
	To   string `json:"to"`
}

// Note is something of the input that was not carried over.
type Note struct {
	File  string `json:"file"`
	Lines []int  `json:"lines"` // ascending; counts from 1; empty: the file as a whole
	What  string `json:"what"`  // the words in question; never a secret
	Why   string `json:"why"`   // a sentence, with what to do instead where there is something
}

// Place returns where the note is, as "file:3", "file:3-5,9" or "file".
func (n Note) Place() string {
	if len(n.Lines) == 0 {
		return n.File
	}
	return n.File + ":" + ranges(n.Lines)
}

// ranges writes ascending numbers as "3-5,9".
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		part := fmt.Sprint(numbers[i])
		if j > i {
			part = fmt.Sprintf("%d-%d", numbers[i], numbers[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// place is a line of a file as the operator knows it.
type place struct {
	file string
	line int
}

func (p place) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

func comparePlaces(a, b place) int {
	return cmp.Or(strings.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
}

// placedError is one reason why a file was refused, and where.
type placedError struct {
	at   place // with the line 0: the file as a whole
	text string
}

func (e placedError) Error() string {
	if e.at.line == 0 {
		return e.at.file + ": " + e.text
	}
	return fmt.Sprintf("%s: %s", e.at, e.text)
}

// maxProblems bounds how much is said about an import that is refused.
const maxProblems = 20

// problems collects reasons to refuse the input.
type problems struct{ list []placedError }

func (p *problems) add(at place, format string, args ...any) {
	one := placedError{at, fmt.Sprintf(format, args...)}
	if !slices.Contains(p.list, one) { // each node's view of a file meets it again
		p.list = append(p.list, one)
	}
}

// err returns nil, or every problem, one on a line, in order.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	slices.SortStableFunc(p.list, func(a, b placedError) int { return comparePlaces(a.at, b.at) })
	shown := p.list[:min(len(p.list), maxProblems)]
	errs := make([]error, 0, len(shown)+1)
	for _, one := range shown {
		errs = append(errs, one)
	}
	if more := len(p.list) - len(shown); more > 0 {
		errs = append(errs, fmt.Errorf("%d more errors are not shown: correct these first", more))
	}
	return errors.Join(errs...)
}
