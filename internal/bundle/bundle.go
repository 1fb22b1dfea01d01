// Package bundle is the form of the files that hactl support-bundle writes: a
// compressed tar archive of one folder, with a list of what is in it, what was cut,
// and what could not be had.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// How much goes into a bundle, in bytes before it is compressed.
const (
	MostOfOne = 16 << 20
	mostOfAll = 96 << 20
)

// Bundle is an archive while it is filled.
type Bundle struct {
	Name string    // of its folder
	At   time.Time // when it was made
	List List

	contents [][]byte // of List.Files
	size     int
}

// List is what manifest.json says.
type List struct {
	SchemaVersion int       `json:"schema_version"`
	About         []string  `json:"about"` // whole sentences: whose it is
	Files         []File    `json:"files"`
	Missing       []Missing `json:"missing"`
	Notes         []string  `json:"notes"` // whole sentences: what a reader may be misled by
}

// File is one of the archive.
type File struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	// CutBytes is how much of its beginning was left out; 0: nothing.
	CutBytes int    `json:"cut_bytes,omitempty"`
	From     string `json:"from"` // the command or the file it is the output of
}

// Missing is what could not be had.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Add takes a file. Of a long one the end is kept, from the beginning of a line on:
// logs and the history have the newest last.
func (b *Bundle) Add(name, from string, content []byte) {
	room := min(MostOfOne, mostOfAll-b.size)
	cut := 0
	if len(content) > room {
		cut = len(content) - room
		if end := bytes.IndexByte(content[cut:], '\n'); end >= 0 {
			cut += end + 1
		}
	}
	content = content[cut:]
	b.size += len(content)
	b.contents = append(b.contents, content)
	b.List.Files = append(b.List.Files, File{name, len(content), cut, from})
}

// Miss notes what could not be had.
func (b *Bundle) Miss(what, why string) {
	b.List.Missing = append(b.List.Missing, Missing{what, why})
}

// Text is the list for people.
func (l List) Text() string {
	var b strings.Builder
	for _, line := range l.About {
		fmt.Fprintln(&b, line)
	}
	b.WriteString("\nWhat is in it:\n")
	for _, f := range l.Files {
		cut := ""
		if f.CutBytes > 0 {
			cut = fmt.Sprintf(", without its first %d bytes", f.CutBytes)
		}
		fmt.Fprintf(&b, "  %-28s %9d bytes%s  (%s)\n", f.Name, f.Bytes, cut, f.From)
	}
	if len(l.Missing) > 0 {
		b.WriteString("\nWhat is not, and why:\n")
	}
	for _, m := range l.Missing {
		fmt.Fprintf(&b, "  %-28s %s\n", m.What, m.Why)
	}
	if len(l.Notes) > 0 {
		b.WriteString("\nTo know:\n")
	}
	for _, n := range l.Notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	return b.String()
}

// Bytes is the archive, a tar file (pax) compressed with gzip.
func (b *Bundle) Bytes() ([]byte, error) {
	list, err := json.MarshalIndent(b.List, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the bundle's list: %w", err)
	}
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	archive := tar.NewWriter(packed)
	put := func(name string, content []byte) {
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Name: b.Name + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.At})
		}
		if err == nil {
			_, err = archive.Write(content)
		}
	}
	put("README.txt", []byte(b.List.Text()))
	put("manifest.json", append(list, '\n'))
	for i, f := range b.List.Files {
		put(f.Name, b.contents[i])
	}
	for _, c := range []io.Closer{archive, packed} {
		if err == nil {
			err = c.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("pack the bundle: %w", err)
	}
	return out.Bytes(), nil
}
