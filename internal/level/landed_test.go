package level

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	hadv1 "had/proto/had/v1"
)

var update = flag.Bool("update", false, "write testdata/landed.txt, all of it but the commits: at a landing")

// landed is what the latest landed version knows of what it is sent, and with which
// mark: calls, fields and values of enums by their full names.
type landed struct {
	commit string
	below  string // the latest landed version of a lower level
	level  uint32
	names  map[string]uint32 // 0: never marked, or passable
}

const landedPath = "testdata/landed.txt"

func readLanded(t *testing.T) landed {
	t.Helper()
	text, err := os.ReadFile(landedPath)
	if err != nil {
		t.Fatal(err)
	}
	l := landed{names: map[string]uint32{}}
	for n, line := range strings.Split(string(text), "\n") {
		w := strings.Fields(line)
		if len(w) == 0 || w[0] == "#" {
			continue
		}
		var number uint64
		if len(w) == 2 && w[0] != "commit" && w[0] != "below" {
			if number, err = strconv.ParseUint(w[1], 10, 32); err != nil {
				t.Fatalf("%s:%d: %v", landedPath, n+1, err)
			}
		}
		switch w[0] {
		case "commit":
			l.commit = w[1]
		case "below":
			l.below = w[1]
		case "level":
			l.level = uint32(number) //nolint:gosec // 32 bits were parsed
		default:
			l.names[w[0]] = uint32(number) //nolint:gosec // 32 bits were parsed
		}
	}
	return l
}

func (l landed) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What the latest landed version knows: landed_test.go holds the .proto files against\n# it, and make lint and the tests of upgrades take the commits: the latest, and the latest\n# that knew a level below. -update writes the rest.\ncommit %s\nbelow %s\nlevel %d\n", l.commit, l.below, l.level)
	for _, name := range slices.Sorted(maps.Keys(l.names)) {
		b.WriteString(name)
		if since := l.names[name]; since != 0 {
			fmt.Fprintf(&b, " %d", since)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// mark is what a .proto file says of a field or a value.
type mark struct {
	since    uint32
	passable bool
}

// walk tells of every field and value that a had may be sent and has to act on:
// records, what a snapshot holds, calls and their requests. It looks into what it
// tells of if visit says so.
func walk(visit func(name string, m mark) (into bool)) {
	seen := map[protoreflect.FullName]bool{}
	var message func(protoreflect.MessageDescriptor)
	enum := func(e protoreflect.EnumDescriptor) {
		for i := range e.Values().Len() {
			v := e.Values().Get(i)
			passable, _ := proto.GetExtension(v.Options(), hadv1.E_ValuePassable).(bool)
			visit(string(e.FullName())+"."+string(v.Name()), mark{SinceValue(v), passable})
		}
	}
	message = func(d protoreflect.MessageDescriptor) {
		if seen[d.FullName()] || d.ParentFile().Package() != "had.v1" {
			return
		}
		seen[d.FullName()] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			passable, _ := proto.GetExtension(f.Options(), hadv1.E_Passable).(bool)
			switch into := visit(string(f.FullName()), mark{Since(f), passable}); {
			case !into:
			case f.Message() != nil:
				message(f.Message())
			case f.Enum() != nil:
				enum(f.Enum())
			}
		}
	}
	message((&hadv1.Command{}).ProtoReflect().Descriptor())
	message((&hadv1.State{}).ProtoReflect().Descriptor())
	services := hadv1.File_had_v1_ha_proto.Services()
	for _, s := range []protoreflect.ServiceDescriptor{services.ByName("HA"), hadv1.File_had_v1_peer_proto.Services().ByName("Peer")} {
		for i := range s.Methods().Len() {
			if m := s.Methods().Get(i); visit(string(m.FullName()), mark{passable: true}) { // an older had says that it doesn't know it
				message(m.Input())
			}
		}
	}
}

// wrong says what is amiss with the marks, given what has landed.
func (l landed) wrong(known uint32) (out []string) {
	missing := maps.Clone(l.names)
	walk(func(name string, m mark) bool {
		since, old := l.names[name]
		delete(missing, name)
		switch {
		case old && m.since != since:
			out = append(out, fmt.Sprintf("%s has landed with level %d and is marked with %d: what has landed stays as it is", name, since, m.since))
		case old:
		case m.since != 0 && m.passable:
			out = append(out, name+" is marked with a level and as passable: it is one or the other")
		case m.passable:
		case known == l.level:
			out = append(out, fmt.Sprintf("%s is new: raise level.Known to %d and mark it [(since) = %d], or [(passable) = true] if an older had may pass it over (CONTRIBUTING.md, Records of the log)", name, known+1, known+1))
		case m.since != known:
			out = append(out, fmt.Sprintf("%s is new and marked with level %d: mark it [(since) = %d], or [(passable) = true] if an older had may pass it over (CONTRIBUTING.md, Records of the log)", name, m.since, known))
		}
		return old // what is in something new needs no mark of its own
	})
	for name := range missing {
		out = append(out, name+" has landed and is gone: old logs have it")
	}
	if known > l.level+1 {
		out = append(out, fmt.Sprintf("level.Known is %d and %d has landed: one level a landing is enough", known, l.level))
	}
	return out
}

func TestWhatIsNewHasALevel(t *testing.T) {
	l := readLanded(t)
	if *update {
		l.level, l.names = Known, map[string]uint32{}
		walk(func(name string, m mark) bool { l.names[name] = m.since; return true })
		if err := os.WriteFile(landedPath, []byte(l.String()), 0o644); err != nil { //nolint:gosec // test data
			t.Fatal(err)
		}
	}
	for _, w := range l.wrong(Known) {
		t.Error(w)
	}
}

// Each rule of the test above finds what it is for.
func TestWhatHasNoLevelIsFound(t *testing.T) {
	for want, spoil := range map[string]func(*landed){
		"had.v1.Command.acquire is new and marked with level 0":            func(l *landed) { delete(l.names, "had.v1.Command.acquire") },
		"had.v1.Evidence.Kind.KIND_WAITED is new and marked with level 0":  func(l *landed) { delete(l.names, "had.v1.Evidence.Kind.KIND_WAITED") },
		"had.v1.MoveRequest.target is new and marked with level 0":         func(l *landed) { delete(l.names, "had.v1.MoveRequest.target") },
		"had.v1.Terms.ttl_ns has landed with level 1 and is marked with 0": func(l *landed) { l.names["had.v1.Terms.ttl_ns"] = 1 },
		"had.v1.Terms.fuse has landed and is gone":                         func(l *landed) { l.names["had.v1.Terms.fuse"] = 0 },
		fmt.Sprintf("raise level.Known to %d and mark it", Known+1):        func(l *landed) { l.level = Known; delete(l.names, "had.v1.Terms.ttl_ns") },
		fmt.Sprintf("level.Known is %d and %d has landed", Known, Known-2): func(l *landed) { l.level = Known - 2 },
	} {
		l := readLanded(t)
		l.level = Known - 1
		spoil(&l)
		if got := l.wrong(Known); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("not found: %s, but %q", want, got)
		}
	}
}

// A report that was kept back would keep back those behind it, releases among them.
func TestReportsNeedNoLevel(t *testing.T) {
	d := (&hadv1.Report{}).ProtoReflect().Descriptor()
	for i := range d.Fields().Len() {
		if f := d.Fields().Get(i); Since(f) != 0 {
			t.Errorf("%s is marked with a level: a report must be passable", f.FullName())
		}
	}
}

func TestNeeds(t *testing.T) {
	rise := &hadv1.Command{Record: &hadv1.Command_LevelRise{LevelRise: &hadv1.LevelRise{Level: 9}}}
	for name, c := range map[string]struct {
		m     proto.Message
		level uint32
		what  string
	}{
		"what is old":           {&hadv1.Command{Record: &hadv1.Command_Resume{Resume: &hadv1.Resume{By: "root"}}}, 1, ""},
		"a record":              {rise, 2, "level_rise"},
		"within a request":      {&hadv1.ProposeRequest{Command: rise}, 2, "level_rise"},
		"nothing":               {&hadv1.StatusRequest{}, 1, ""},
		"in a list of messages": {&hadv1.State{History: []*hadv1.Event{{}, {Body: &hadv1.Event_LevelRisen{LevelRisen: &hadv1.LevelRise{}}}}}, 2, "level_risen"},
	} {
		if level, what := Needs(c.m); level != c.level || what != c.what {
			t.Errorf("%s: level %d for %q, want %d for %q", name, level, what, c.level, c.what)
		}
	}
	old, now := &hadv1.VersionResponse{Node: "beta", Version: "0.1"}, &hadv1.VersionResponse{RecordLevel: Known}
	if got, want := Lacks(rise, old), `beta runs had 0.1, which doesn't know "level_rise": upgrade had there first`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Lacks(rise, now); got != "" {
		t.Error(got)
	}
}
