package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// listAddresses has ip(8) list this host's addresses, as JSON.
func listAddresses(ctx context.Context) ([]byte, error) {
	return exec.CommandContext(ctx, "ip", "-j", "address").Output()
}

// leftAddress is an address that a daemon has left in this host's kernel.
type leftAddress struct {
	Address   string  `json:"address"`
	Interface string  `json:"interface"`
	LeftMs    float64 `json:"left_ms"` // until the kernel removes it, in whole seconds
}

// ofDaemon is the longest lifetime of an address that had puts into a kernel: what
// lives longer, such as a DHCP server's, is somebody else's.
const ofDaemon = time.Minute

// leftAddresses reads what ip(8) prints. had's addresses are those of a single host
// that are about to expire.
func leftAddresses(text []byte) ([]leftAddress, error) {
	var links []struct {
		Name      string `json:"ifname"`
		Addresses []struct {
			Family string `json:"family"`
			Local  string `json:"local"`
			Prefix int    `json:"prefixlen"`
			Valid  int64  `json:"valid_life_time"` // in seconds; 2^32-1: for ever
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(text, &links); err != nil {
		return nil, fmt.Errorf("read what ip address says: %w", err)
	}
	var left []leftAddress
	for _, l := range links {
		for _, a := range l.Addresses {
			host := a.Family == "inet" && a.Prefix == 32 || a.Family == "inet6" && a.Prefix == 128
			if host && a.Valid <= int64(ofDaemon/time.Second) {
				left = append(left, leftAddress{a.Local, l.Name, float64(a.Valid) * 1000})
			}
		}
	}
	return left, nil
}

// noDaemonDocument stands in for a status of a host without a daemon.
type noDaemonDocument struct {
	SchemaVersion int           `json:"schema_version"`
	Error         string        `json:"error"`
	Holds         []leftAddress `json:"holds"`
}

// noDaemon reports whether err says that no daemon runs on this host.
func noDaemon(err error) bool {
	if lost, ok := errors.AsType[*lostError](err); ok {
		return !lost.remote && (errors.Is(lost.dial, fs.ErrNotExist) || errors.Is(lost.dial, syscall.ECONNREFUSED))
	}
	return errors.Is(err, errNoSocket)
}

// statusWithoutDaemon says what this host holds when no daemon can: had's addresses
// outlive it by their lifetime, unless its guard takes them down. It returns err,
// which is why there is no status.
func (c *cli) statusWithoutDaemon(ctx context.Context, err error) error {
	text, listErr := c.addresses(ctx)
	if listErr != nil {
		return err // nothing is known beyond it
	}
	left, listErr := leftAddresses(text)
	if listErr != nil {
		return err
	}
	if c.json() {
		doc := noDaemonDocument{schemaVersion, oneLine(asFailure(err).Error()), left}
		if left == nil {
			doc.Holds = []leftAddress{}
		}
		return errors.Join(c.printValue(doc), err)
	}
	if len(left) == 0 {
		return errors.Join(c.print("had isn't running here, and this host holds none of its addresses\n"), err)
	}
	var all []string
	for _, a := range left {
		all = append(all, fmt.Sprintf("%s on %s for %s more", a.Address, a.Interface, span(millis(a.LeftMs))))
	}
	return errors.Join(c.print(clean("had isn't running here; this host still holds "+strings.Join(all, ", "))+"\n"), err)
}
