package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Forever is the lifetime of an address that doesn't expire.
const Forever time.Duration = 0

// raftPort is the one TCP port of a daemon.
const raftPort = 7400

// Host is one machine of the lab: network, mount, UTS and IPC namespaces, a link
// named eth0, and the processes in it.
type Host struct {
	Name string
	V4   netip.Addr       // in a /24
	V6   netip.Addr       // in a /64
	MAC  net.HardwareAddr // of eth0

	lab    *Lab
	number int
	dir    string
	ns     *namespace
	nl     *netlink.Handle
	keeper *keeper
	slice  *slice // nil: there are no control groups
	disk   *disk  // nil without Config.Disks
	plugs  []plug // one for each of Config.Volumes
	off    bool   // its power is
	dark   bool   // and all of it has ended

	services []io.Closer // set once, by startServices

	mu      sync.Mutex
	had     string // what Install named; empty: the lab's
	daemon  *Process
	procs   map[*Process]bool
	clients map[*Client]bool
}

// newHost creates a host that is not connected to anything.
func newHost(l *Lab, name string, number int) (_ *Host, err error) {
	h := &Host{
		Name: name, V4: hostAddr4(number), V6: hostAddr6(number), MAC: hostMAC(number),
		lab: l, number: number, dir: filepath.Join(l.dir, name),
		procs: map[*Process]bool{}, clients: map[*Client]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create host %s: %w", name, err), h.close())
		}
	}()
	if h.ns, err = newNamespace(); err != nil {
		return nil, err
	}
	if h.nl, err = prepare(h.ns); err != nil {
		return nil, err
	}
	if h.keeper, err = newKeeper(h.ns, name); err != nil {
		return nil, err
	}
	if h.slice, err = newSlice(l.dir); err != nil {
		return nil, err
	}
	return h, nil
}

// Dir returns the host's own directory, absolute.
func (h *Host) Dir() string { return h.dir }

// Config returns the path of the daemon's configuration file, had.hcl.
func (h *Host) Config() string { return filepath.Join(h.dir, "had.hcl") }

// DataDir returns the daemon's data directory.
func (h *Host) DataDir() string { return filepath.Join(h.dir, "data") }

// Socket returns the path of the daemon's local socket.
func (h *Host) Socket() string { return filepath.Join(h.dir, "had.sock") }

// TokenKey returns the path of the daemon's token key, which isn't there at
// first.
func (h *Host) TokenKey() string { return filepath.Join(h.dir, "token.key") }

// TLSDir returns the folder of the daemon's certificates with Config.TLS: ca.pem,
// node.pem and node-key.pem, which aren't there at first.
func (h *Host) TLSDir() string { return filepath.Join(h.dir, "tls") }

// ClusterPort returns the address of the daemon's cluster port.
func (h *Host) ClusterPort() string { return netip.AddrPortFrom(h.V4, raftPort).String() }

// Log returns the path of the file that keeps the daemon's output, of all its
// runs one after another.
func (h *Host) Log() string { return filepath.Join(h.dir, "had.log") }

// maxSocketPath is the longest path that fits sockaddr_un (unix(7)).
const maxSocketPath = 107

// writeConfig writes had.hcl. Lab addresses are not loopback, so without
// certificates it says in so many words that the traffic is not encrypted.
func (h *Host) writeConfig() error {
	if n := len(h.Socket()); n > maxSocketPath {
		return fmt.Errorf("place the socket at %s: %d bytes, at most %d; choose a shorter lab directory", h.Socket(), n, maxSocketPath)
	}
	var f bytes.Buffer
	fmt.Fprintf(&f, "cluster %q {\n  detect = %q\n", h.lab.cfg.Cluster, h.lab.cfg.Detect)
	listed := h.lab.cfg.Names
	if slices.Contains(listed[:h.lab.cfg.Founders], h.Name) {
		listed = listed[:h.lab.cfg.Founders]
	}
	for i, name := range listed {
		fmt.Fprintf(&f, "  node %q {\n    address = %q\n", name, netip.AddrPortFrom(hostAddr4(firstServer+i), raftPort))
		if slices.Contains(h.lab.cfg.Witnesses, name) {
			fmt.Fprintln(&f, `    role = "witness"`)
		}
		fmt.Fprintln(&f, "  }")
	}
	fmt.Fprintf(&f, "}\nnode = %q\ndata_dir = %q\nsocket = %q\ntoken_key = %q\n", h.Name, h.DataDir(), h.Socket(), h.TokenKey())
	if h.lab.cfg.TLS {
		fmt.Fprintf(&f, "tls {\n  ca = %q\n  cert = %q\n  key = %q\n}\n", filepath.Join(h.TLSDir(), "ca.pem"), filepath.Join(h.TLSDir(), "node.pem"), filepath.Join(h.TLSDir(), "node-key.pem"))
	} else {
		fmt.Fprintf(&f, "tls {\n  insecure = true\n}\n")
	}
	if err := os.WriteFile(h.Config(), f.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the configuration of host %s: %w", h.Name, err)
	}
	return nil
}

// AddAddress puts an address on eth0, behind every daemon's back. With a
// lifetime (whole seconds) the kernel removes it by itself.
func (h *Host) AddAddress(p netip.Prefix, lifetime time.Duration) error {
	addr := h.address(p)
	addr.ValidLft = int(lifetime / time.Second)
	return h.changeAddress("add", p, func(eth netlink.Link) error { return h.nl.AddrAdd(eth, addr) })
}

// DelAddress takes an address off eth0, behind every daemon's back.
func (h *Host) DelAddress(p netip.Prefix) error {
	return h.changeAddress("delete", p, func(eth netlink.Link) error { return h.nl.AddrDel(eth, h.address(p)) })
}

func (h *Host) address(p netip.Prefix) *netlink.Addr {
	addr := &netlink.Addr{IPNet: &net.IPNet{
		IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

func (h *Host) changeAddress(verb string, p netip.Prefix, change func(netlink.Link) error) error {
	eth, err := h.nl.LinkByName(iface)
	if err == nil {
		err = change(eth)
	}
	if err != nil {
		return fmt.Errorf("%s %s on host %s: %w", verb, p, h.Name, err)
	}
	return nil
}

// Carrier reports whether the host's link has a carrier (IFF_LOWER_UP,
// netdevice(7)).
func (h *Host) Carrier() (bool, error) {
	eth, err := h.nl.LinkByName(iface)
	if err != nil {
		return false, fmt.Errorf("read the link of host %s: %w", h.Name, err)
	}
	return eth.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, nil
}

// DialContext connects from the host, as net.Dialer does.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.ns.do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Get fetches a URL from the host over a connection of its own and returns the
// body, of which it reads at most 64 KiB. The URL names a literal address.
func (h *Host) Get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("make a request for %s: %w", url, err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("fetch from host %s: %w", h.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetch %s from host %s: status %s: %s", url, h.Name, resp.Status, body)
	}
	return string(body), nil
}

// close ends everything of the host; its processes are dead already when the
// lab closes.
func (h *Host) close() error {
	h.mu.Lock()
	clients, procs := h.clients, h.procs
	h.clients, h.procs = nil, nil
	h.mu.Unlock()
	for c := range clients {
		c.Stop()
	}
	if h.keeper != nil {
		h.keeper.close()
	}
	for p := range procs {
		<-p.done
	}
	var errs []error
	for _, s := range h.services {
		errs = append(errs, s.Close())
	}
	if h.nl != nil {
		h.nl.Close()
	}
	if h.ns != nil {
		errs = append(errs, h.ns.close())
	}
	errs = append(errs, h.slice.close())
	for _, p := range h.plugs {
		errs = append(errs, p.loop.Close())
	}
	return errors.Join(errs...)
}
