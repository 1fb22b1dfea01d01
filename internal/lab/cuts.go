package lab

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// path is one direction between two hosts.
type path struct{ from, to string }

// cuts is the reachability matrix: what the switch drops, as nftables rules on
// the bridge's forward hook. The rules are always written from the whole
// matrix in one transaction, so that no intermediate state ever exists.
type cuts struct {
	conn *nftables.Conn
	mu   sync.Mutex
	drop map[path]int // percent of frames dropped, 1 to 100
}

func newCuts(ns *namespace) (*cuts, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.fd)))
	if err != nil {
		return nil, fmt.Errorf("open nftables in the switch: %w", err)
	}
	c := &cuts{conn: conn, drop: map[path]int{}}
	return c, c.change(func(map[path]int) {})
}

// change edits the matrix and makes the switch follow; when it can't, the
// matrix stays as it was.
func (c *cuts) change(edit func(drop map[path]int)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := maps.Clone(c.drop)
	edit(next)
	if err := c.write(next); err != nil {
		return fmt.Errorf("set the switch's filter to %v: %w", next, err)
	}
	c.drop = next
	return nil
}

func (c *cuts) write(drop map[path]int) error {
	table := c.conn.AddTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: "lab"})
	chain := c.conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	c.conn.FlushChain(chain)
	for p, percent := range drop {
		exprs := append(ifname(expr.MetaKeyIIFNAME, p.from), ifname(expr.MetaKeyOIFNAME, p.to)...)
		if percent < 100 {
			exprs = append(exprs, chance(percent)...)
		}
		exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
		c.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return c.conn.Flush()
}

// ifname matches a bridge port by its whole name.
func ifname(key expr.MetaKey, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

// chance matches percent of the frames at random. The comparison is one of
// bytes, hence the conversion to network order.
func chance(percent int) []expr.Any {
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(uint32(percent))},
	}
}

// Cut drops every frame that from sends to to; the other direction stays.
func (l *Lab) Cut(from, to string) error { return l.Loss(from, to, 100) }

// CutBoth drops every frame between a and b.
func (l *Lab) CutBoth(a, b string) error {
	return l.setDrop(100, path{a, b}, path{b, a})
}

// Loss drops each frame that from sends to to with a probability of percent:
// 0 (heals this direction) to 100.
func (l *Lab) Loss(from, to string, percent int) error {
	return l.setDrop(percent, path{from, to})
}

// Isolate cuts a host off from everybody, the client included, both ways. The
// host keeps its carrier.
func (l *Lab) Isolate(host string) error {
	var paths []path
	for _, other := range l.names() {
		if other != host {
			paths = append(paths, path{host, other}, path{other, host})
		}
	}
	return l.setDrop(100, paths...)
}

// SplitServers cuts every server from every other, while the client still
// reaches them all.
func (l *Lab) SplitServers() error {
	var paths []path
	for _, a := range l.Servers() {
		for _, b := range l.Servers() {
			if a != b {
				paths = append(paths, path{a.Name, b.Name})
			}
		}
	}
	return l.setDrop(100, paths...)
}

// Heal ends every cut and every loss. Links set down stay down.
func (l *Lab) Heal() error {
	return l.cuts.change(func(drop map[path]int) { clear(drop) })
}

// LinkDown takes a host's carrier away, as a pulled cable would.
func (l *Lab) LinkDown(host string) error { return l.setPort(host, false) }

// LinkUp gives a host its carrier back.
func (l *Lab) LinkUp(host string) error { return l.setPort(host, true) }

func (l *Lab) setPort(host string, up bool) error {
	if err := l.check(host); err != nil {
		return err
	}
	return l.fabric.setPort(host, up)
}

func (l *Lab) setDrop(percent int, paths ...path) error {
	if percent < 0 || percent > 100 {
		return fmt.Errorf("set a loss of %d %%: must be 0 to 100", percent)
	}
	for _, p := range paths {
		if err := l.check(p.from, p.to); err != nil {
			return err
		}
	}
	return l.cuts.change(func(drop map[path]int) {
		for _, p := range paths {
			if percent == 0 {
				delete(drop, p)
			} else {
				drop[p] = percent
			}
		}
	})
}

// check refuses names that aren't hosts of the lab.
func (l *Lab) check(names ...string) error {
	for _, name := range names {
		if !slices.Contains(l.names(), name) {
			return fmt.Errorf("find host %q: the lab has %v", name, l.names())
		}
	}
	return nil
}
