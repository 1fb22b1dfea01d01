// Package archtest holds one test: who may import whom in this module, and
// why. The picture behind the rules is in docs/architecture.md.
package archtest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// ban forbids imports. Patterns are import paths, or trees ending in "/...".
// Test files are free: a test may bring a whole cluster.
type ban struct {
	from    []string // packages the ban is for
	except  []string // of those, the ones that may
	to      []string // what they must not import
	allowed []string // of that, what they may
	through bool     // also by way of other packages, not just by themselves
	why     string
}

const (
	raft    = "github.com/hashicorp/raft/..."
	netlink = "github.com/vishvananda/netlink/..."
	grpc    = "google.golang.org/grpc/..."
	wireAPI = module + "/proto/..."
)

// leaves are the rooms at the bottom: each does one thing to a host, or knows
// one format, and can be understood and tested alone.
var leaves = []string{
	module + "/internal/backup/...",
	module + "/internal/boltfile/...",
	module + "/internal/bundle/...",
	module + "/internal/cgroup/...",
	module + "/internal/check/...",
	module + "/internal/checkup/...",
	module + "/internal/clock/...",
	module + "/internal/durable/...",
	module + "/internal/fence/...",
	module + "/internal/frame/...",
	module + "/internal/gate/...",
	module + "/internal/hook/...",
	module + "/internal/importer/...",
	module + "/internal/journal/...",
	module + "/internal/level/...",
	module + "/internal/logs/...",
	module + "/internal/peer/...",
	module + "/internal/pki/...",
	module + "/internal/policy/...",
	module + "/internal/program/...",
	module + "/internal/redact/...",
	module + "/internal/secret/...",
	module + "/internal/steps/...",
	module + "/internal/thread/...",
	module + "/internal/token/...",
	module + "/internal/wal/...",
	module + "/storage/...",
	module + "/vip/...",
}

var bans = []ban{
	{
		from: leaves, through: true,
		to: []string{
			raft, module + "/cluster/...", module + "/internal/failover/...",
			module + "/internal/api/...", module + "/internal/daemon/...", module + "/internal/lab/...",
		},
		why: "a leaf knows nothing of consensus or of who calls it; imports point down",
	},
	{
		from: leaves, to: []string{grpc},
		why: "a leaf speaks no RPC; the records of proto/ are all it may take from there",
	},
	{
		from: []string{module + "/internal/clock/..."}, to: []string{module + "/..."},
		why: "everything measures leases with it, so it stands on nothing of ours",
	},
	{
		from: []string{module + "/..."}, except: []string{module + "/cluster/..."},
		to:  []string{raft},
		why: "raft's traps are dealt with in one place (docs/decisions/0002)",
	},
	{
		from: []string{module + "/..."}, except: []string{module + "/cluster/...", module + "/internal/journal/..."},
		to:  []string{"go.etcd.io/bbolt/..."},
		why: "two things are durable, the log and the journal; all else is derived from them",
	},
	{
		from: []string{module + "/cluster/..."}, through: true,
		to:  []string{netlink, module + "/vip/...", module + "/storage/...", module + "/internal/hook/...", module + "/internal/failover/...", module + "/internal/api/...", module + "/internal/daemon/..."},
		why: "replicated state touches nothing of the host; effects follow after commit, elsewhere",
	},
	{
		from: []string{module + "/internal/failover/..."},
		to:   []string{netlink, "github.com/mdlayher/packet/...", "golang.org/x/sys/unix/..."},
		why:  "ownership is carried out through interfaces, of which it takes vip's values: a simulation runs the same code without a kernel",
	},
	{
		from: []string{module + "/internal/mirror/..."}, through: true,
		to:  []string{netlink, module + "/vip/...", module + "/storage/...", module + "/internal/failover/...", module + "/internal/api/...", module + "/internal/daemon/..."},
		why: "a copy knows whom it is made from by the log alone, and moves nothing: who owns tells it to stop",
	},
	{
		from: []string{module + "/internal/failover/..."}, through: true,
		to:  []string{module + "/internal/peer/...", module + "/internal/api/...", module + "/internal/daemon/..."},
		why: "ownership doesn't know how nodes reach each other, nor who asks",
	},
	{
		from: []string{module + "/internal/failover/...", module + "/cluster/...", module + "/internal/guard/..."}, through: true,
		to:  []string{module + "/internal/notify/..."},
		why: "nothing that a failover waits for may wait for a mail server",
	},
	{
		from: []string{module + "/internal/failover/...", module + "/cluster/...", module + "/internal/guard/..."}, through: true,
		to:  []string{module + "/internal/telemetry/...", "github.com/prometheus/..."},
		why: "nothing that a failover does may wait for who asks how it is",
	},
	{
		from: []string{module + "/internal/telemetry/..."}, through: true,
		to:  []string{module + "/internal/failover/...", module + "/internal/api/...", module + "/internal/daemon/...", netlink},
		why: "it reads the history and shows; what it is to tell of the node is handed in",
	},
	{
		from: []string{module + "/internal/notify/..."}, through: true,
		to:  []string{module + "/internal/failover/...", module + "/internal/api/...", module + "/internal/daemon/..."},
		why: "it reads the history and sends; what it wants to know of the node is handed in",
	},
	{
		from: []string{module + "/..."},
		except: []string{
			wireAPI, module + "/internal/api/...", module + "/internal/daemon/...",
			module + "/internal/guard/...", module + "/internal/lab/...", module + "/cmd/hactl/...",
		},
		to:  []string{grpc},
		why: "RPC stays at the edge: the server, its clients and what wires them up",
	},
	{
		from: []string{module + "/internal/guard/..."}, through: true,
		to: []string{
			raft, "go.etcd.io/bbolt/...", module + "/cluster/...", module + "/internal/journal/...", module + "/internal/failover/...",
			module + "/internal/policy/...", module + "/internal/api/...", module + "/internal/daemon/...", module + "/internal/lab/...",
		},
		why: "the guard must be right when had isn't: it stands on as little of it as can be",
	},
	{
		from: []string{module + "/cmd/hactl/..."}, through: true,
		to: []string{module + "/..."}, allowed: []string{wireAPI, module + "/cmd/hactl/...", module + "/internal/importer/...", module + "/internal/pki/...", module + "/internal/peer/...", module + "/internal/clock/...", module + "/internal/durable/...", module + "/internal/backup/...", module + "/internal/level/...", module + "/internal/bundle/...", module + "/internal/redact/..."},
		why: "hactl is a client like any other: it must work against a remote node of another version; an import and a CA ask none, a saved file is read and a bundle is written without one, and peer is how a node's port is opened",
	},
	{
		from: []string{module + "/internal/importer/..."}, through: true,
		to:  []string{module + "/...", raft, netlink, "github.com/hashicorp/hcl/..."},
		why: "it turns text into text, and hactl shouldn't grow by the half of had",
	},
	{
		from: []string{module + "/cmd/hactl/..."}, through: true,
		to:  []string{raft, netlink},
		why: "hactl asks a daemon; it neither votes nor touches the kernel",
	},
	{
		from: []string{module + "/..."}, except: []string{module + "/cmd/had/..."},
		to:  []string{module + "/internal/daemon/..."},
		why: "the composition root is the top; only the program had starts it",
	},
	{
		from: []string{module + "/..."}, except: []string{module + "/internal/simtest/...", module + "/internal/nettest/..."},
		to:  []string{module + "/internal/simtest/...", module + "/internal/nettest/...", module + "/internal/vmtest/...", module + "/internal/mailtest/...", module + "/internal/fusetest/...", module + "/internal/archtest/...", "testing/..."},
		why: "test scaffolding stays out of the product",
	},
	{
		from: []string{module + "/..."}, to: []string{"github.com/gopacket/..."},
		why: "it fills 5 MB of tables in each process it is linked into; tests may compare with it",
	},
	{
		from: []string{module + "/internal/reconnect/..."}, through: true,
		to:  []string{netlink, module + "/internal/failover/...", module + "/internal/api/...", module + "/internal/peer/..."},
		why: "what the log has of tokens and what is in their files is all it compares: who owns, it is told",
	},
	{
		from: []string{module + "/..."}, to: []string{module + "/cmd/..."},
		why: "a program is nobody's library",
	},
}

func TestImports(t *testing.T) {
	g := loadGraph(t)
	if len(g.ours()) == 0 {
		t.Fatal("no package of this module was listed: the rules were checked against nothing")
	}
	for _, b := range bans {
		for _, v := range g.violations(b) {
			t.Error(v)
		}
	}
}

// A rule that can't fail protects nothing: each ban must catch an import made
// up to break it.
func TestEveryBanCanFail(t *testing.T) {
	for _, b := range bans {
		from := strings.TrimSuffix(b.from[0], "/...") + "/offender"
		for _, pattern := range b.to {
			to := strings.TrimSuffix(pattern, "/...") + "/forbidden"
			direct := graph{imports: map[string][]string{from: {"fmt", to}}}
			if v := direct.violations(b); len(v) != 1 || !strings.Contains(v[0], to) {
				t.Errorf("%s imports %s and the ban %q found %q", from, to, b.why, v)
			}
			if !b.through {
				continue
			}
			indirect := graph{imports: map[string][]string{from: {"example.org/between"}, "example.org/between": {to}}}
			if v := indirect.violations(b); len(v) != 1 || !strings.Contains(v[0], "between imports "+to) {
				t.Errorf("%s reaches %s and the ban %q found %q", from, to, b.why, v)
			}
		}
	}
}

func TestBansSpareWhatTheyAllow(t *testing.T) {
	g := graph{imports: map[string][]string{
		module + "/cluster":        {"github.com/hashicorp/raft", module + "/proto/had/v1"},
		module + "/cmd/hactl":      {"google.golang.org/grpc", module + "/proto/had/v1"},
		module + "/cmd/had":        {module + "/internal/daemon"},
		module + "/internal/api":   {"google.golang.org/grpc", module + "/cluster"},
		module + "/internal/hook":  {module + "/proto/had/v1"},
		module + "/cmd/hactl/x":    {module + "/internal/importer"},
		module + "/proto/had/v1":   {"google.golang.org/grpc"},
		module + "/vip":            {"github.com/vishvananda/netlink"},
		module + "/internal/clock": {"golang.org/x/sys/unix"},
		// A tree ends at a slash: this is another package altogether.
		module + "/clusterish": {"github.com/hashicorp/raftish"},
	}}
	for _, b := range bans {
		for _, v := range g.violations(b) {
			t.Error(v)
		}
	}
}

// The programs are thin: what they do can be tested without starting them.
func TestMainFilesAreThin(t *testing.T) {
	const most = 60
	for _, file := range []string{"../../cmd/had/main.go", "../../cmd/hactl/main.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("read a program's main file: %v", err)
			continue
		}
		if n := len(slices.Collect(strings.Lines(string(text)))); n > most {
			t.Errorf("%s has %d lines, at most %d are allowed: move the work into a package", file, n, most)
		}
	}
}
