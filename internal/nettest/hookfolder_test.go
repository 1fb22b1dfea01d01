package nettest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	hadv1 "had/proto/had/v1"
)

// hookFolder is an IPFailover folder that all hosts of a site share. Each
// script writes a line into a ledger, and fails on a node where it was told to.
type hookFolder struct {
	dir    string
	orders string // holds a file <script>.<node> for each script that must fail
	ledger string
}

func newHookFolder(t *testing.T, vips []netip.Addr) *hookFolder {
	t.Helper()
	root := t.TempDir()
	f := &hookFolder{dir: filepath.Join(root, "hooks"), orders: filepath.Join(root, "orders"), ledger: filepath.Join(root, "ledger")}
	must(t, os.Mkdir(f.orders, 0o700))
	for _, vip := range vips {
		for _, script := range []string{"Test", "PreAcq10", "PreAcq20", "PostAcq10", "PreRel10", "PostRel10"} {
			must(t, os.MkdirAll(filepath.Join(f.dir, vip.String()), 0o755))
			f.add(t, vip, script, "")
		}
	}
	return f
}

// add puts a script into an address's folder that does what body says and then
// writes into the ledger.
func (f *hookFolder) add(t *testing.T, vip netip.Addr, name, body string) {
	t.Helper()
	f.write(t, vip, name, body+strings.NewReplacer("LEDGER", f.ledger, "ORDERS", f.orders).Replace(`
name=${0##*/}
echo "$HAD_NODE $HAD_EPOCH $name $2 ${HAD_FORCED:-0}" >>'LEDGER'
[ ! -e 'ORDERS/'"$name.$HAD_NODE" ]`))
}

// write puts a script that keeps no ledger into an address's folder.
func (f *hookFolder) write(t *testing.T, vip netip.Addr, name, body string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(f.dir, vip.String(), name), []byte("#!/bin/sh\n"+body+"\n"), 0o755))
}

func (f *hookFolder) remove(t *testing.T, vip netip.Addr, name string) {
	t.Helper()
	must(t, os.Remove(filepath.Join(f.dir, vip.String(), name)))
}

// empty removes every script of an address.
func (f *hookFolder) empty(t *testing.T, vip netip.Addr) {
	t.Helper()
	folder := filepath.Join(f.dir, vip.String())
	must(t, os.RemoveAll(folder))
	must(t, os.Mkdir(folder, 0o755))
}

// fail makes a script fail on these nodes until mend.
func (f *hookFolder) fail(t *testing.T, script string, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		must(t, os.WriteFile(filepath.Join(f.orders, script+"."+node), nil, 0o600))
	}
}

// mend lets every script succeed again.
func (f *hookFolder) mend(t *testing.T) {
	t.Helper()
	must(t, os.RemoveAll(f.orders))
	must(t, os.Mkdir(f.orders, 0o700))
}

// runs counts the ledger's lines, one for each time a script ran to its end.
func (f *hookFolder) runs(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(f.ledger)
	if !errors.Is(err, fs.ErrNotExist) {
		must(t, err)
	}
	runs := map[string]int{}
	for line := range strings.Lines(string(text)) {
		runs[strings.TrimSpace(line)]++
	}
	return runs
}

// ledgerLine is the line that the run of an event has written.
func ledgerLine(node string, r *hadv1.HookResult) string {
	forced := 0
	if r.GetForced() {
		forced = 1
	}
	return fmt.Sprintf("%s %d %s %s %d", node, r.GetEpoch(), r.GetScript(), r.GetVip(), forced)
}

// ledgerOwner returns the node and the epoch of a ledger's line.
func ledgerOwner(line string) (node string, epoch uint64) {
	words := strings.Fields(line)
	if len(words) < 2 {
		return "", 0
	}
	epoch, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil {
		return "", 0
	}
	return words[0], epoch
}
