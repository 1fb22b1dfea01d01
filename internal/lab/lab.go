// Package lab builds a whole cluster on this machine: servers and a client,
// each in a network namespace of its own, on one switched segment whose every
// path can be cut, made lossy or unplugged. An independent observer sees which
// host has which virtual address, and a client measures, request by request,
// who answers for it.
//
// `had dev`, `make demo` and the end-to-end tests run on it. It needs root.
//
// Nothing of a lab has a name outside this process but its directory, so
// nothing else is left when it ends, by Close or by SIGKILL: the kernel removes
// namespaces nobody refers to and kills the processes the lab started. Only
// what those started themselves needs Close.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// ErrClosed is returned for what needs a lab that is already closed.
var ErrClosed = errors.New("the lab is closed")

// ClientName is the name of the host that only measures.
const ClientName = "client"

// closeTimeout bounds how long Close waits for killed processes to be gone.
const closeTimeout = 10 * time.Second

// Config says what to build. The zero value is three servers without a daemon.
type Config struct {
	// Names of the servers, at most 9; default alpha, beta, gamma. A name is
	// also a host name and a link name: 1 to 15 bytes.
	Names []string
	// Witnesses are those of Names that vote but never own.
	Witnesses []string
	// Founders is how many of Names the cluster is born with, and list nobody else in
	// their had.hcl; default all. The others' files list every server.
	Founders int
	// Cluster is the cluster's name; default "lab".
	Cluster string
	// Detect is how fast a silent node is to be noticed; default 500 ms.
	Detect time.Duration
	// VIPs are the addresses the observer watches; default DefaultVIPs.
	VIPs []netip.Addr
	// Dir keeps a directory a server: had.hcl, had.log, had.sock, data. Default:
	// a temporary directory that Close removes.
	Dir string
	// HadBinary is the daemon; needed only for Host.StartDaemon.
	HadBinary string
	// Env is added to the environment of every process, as "NAME=value".
	Env []string
	// Disks gives each server's data folder a small disk of its own, which can
	// be filled, stalled and broken. It needs mkfs.ext4.
	Disks bool
	// TLS has the daemons prove who they are, with files that belong into each
	// Host.TLSDir before they start.
	TLS bool
	// Volumes are disks that every server sees, each through a device of its own,
	// as hosts see a disk of a storage network. None is mounted.
	Volumes []Volume
	// Array has the volumes' disks on one that can be stalled.
	Array bool
	// Web makes the web service of a server (port 80); default: a line of text
	// that says "hello from" and the server's name. A nil handler: none.
	Web func(h *Host) http.Handler
}

func (c Config) withDefaults() Config {
	if len(c.Names) == 0 {
		c.Names = []string{"alpha", "beta", "gamma"}
	}
	if c.Founders == 0 {
		c.Founders = len(c.Names)
	}
	if c.Cluster == "" {
		c.Cluster = "lab"
	}
	if c.Detect == 0 {
		c.Detect = 500 * time.Millisecond
	}
	if len(c.VIPs) == 0 {
		c.VIPs = DefaultVIPs()
	}
	if c.Web == nil {
		c.Web = hello
	}
	return c
}

func (c Config) validate() error {
	if len(c.Names) > maxServers {
		return fmt.Errorf("build a lab of %d servers: at most %d", len(c.Names), maxServers)
	}
	for i, name := range c.Names {
		if name == "" || len(name) > 15 || name == ClientName || name == "lo" || name == bridgeName {
			return fmt.Errorf("name a server %q: use 1 to 15 bytes other than %q, \"lo\" and %q", name, ClientName, bridgeName)
		}
		if slices.Contains(c.Names[:i], name) {
			return fmt.Errorf("name two servers %q: names must differ", name)
		}
	}
	if err := validVolumes(c.Volumes); err != nil {
		return err
	}
	for _, name := range c.Witnesses {
		if !slices.Contains(c.Names, name) {
			return fmt.Errorf("make %q a witness: the servers are %v", name, c.Names)
		}
	}
	return nil
}

// Lab is a running cluster of hosts. Its methods may be called from several
// goroutines.
type Lab struct {
	// Observer watches the VIPs on every server from the start.
	Observer *Observer
	// Client is the host that only measures.
	Client *Host

	cfg     Config
	dir     string
	ownDir  bool
	servers []*Host
	fabric  *fabric
	cuts    *cuts

	closeOnce sync.Once
	closeErr  error
}

// New builds the namespaces, the switch and every server's directory, and
// starts the observer and the servers' small services (responder and web). No
// daemon runs yet. On an error nothing is left.
func New(cfg Config) (_ *Lab, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build the lab: %w", err), l.Close())
		}
	}()
	if err := l.makeDir(); err != nil {
		return nil, err
	}
	if l.fabric, err = newFabric(); err != nil {
		return nil, err
	}
	if l.cuts, err = newCuts(l.fabric.ns); err != nil {
		return nil, err
	}
	for i, name := range cfg.Names {
		h, err := l.addHost(name, firstServer+i)
		if err != nil {
			return nil, err
		}
		l.servers = append(l.servers, h)
	}
	if l.Client, err = l.addHost(ClientName, clientNumber); err != nil {
		return nil, err
	}
	if err := l.makeVolumes(); err != nil {
		return nil, err
	}
	if l.Observer, err = newObserver(l.fabric, l.servers, cfg.VIPs); err != nil {
		return nil, err
	}
	for _, h := range l.servers {
		if err := l.outfit(h); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Lab) makeDir() (err error) {
	l.dir = l.cfg.Dir
	if l.dir == "" {
		l.ownDir = true
		if l.dir, err = os.MkdirTemp("", "had-lab-"); err != nil {
			return fmt.Errorf("create the lab's directory: %w", err)
		}
	}
	if l.dir, err = filepath.Abs(l.dir); err != nil {
		return fmt.Errorf("resolve the lab's directory: %w", err)
	}
	return nil
}

// addHost creates a host and connects it; what it can't finish it takes back.
func (l *Lab) addHost(name string, number int) (*Host, error) {
	h, err := newHost(l, name, number)
	if err != nil {
		return nil, err
	}
	if err := l.fabric.attach(h); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// outfit gives a server its directory and its services.
func (l *Lab) outfit(h *Host) error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("create the directory of host %s: %w", h.Name, err)
	}
	if err := h.writeConfig(); err != nil {
		return err
	}
	if l.cfg.Disks {
		if err := h.addDisk(); err != nil {
			return err
		}
	}
	if err := h.plugVolumes(); err != nil {
		return err
	}
	return h.startServices(l.cfg.Web(h))
}

// Dir returns the lab's directory, absolute.
func (l *Lab) Dir() string { return l.dir }

// VIPs returns the addresses the observer watches.
func (l *Lab) VIPs() []netip.Addr { return slices.Clone(l.cfg.VIPs) }

// Servers returns the hosts that run a daemon, in the order of Config.Names.
func (l *Lab) Servers() []*Host { return slices.Clone(l.servers) }

// Host returns the host of that name. It panics when there is none: names are
// written by the programmer, not by a user.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.hosts() {
		if h.Name == name {
			return h
		}
	}
	panic(l.check(name))
}

func (l *Lab) hosts() []*Host {
	if l.Client == nil {
		return l.servers
	}
	return append(slices.Clone(l.servers), l.Client)
}

func (l *Lab) names() []string {
	var names []string
	for _, h := range l.hosts() {
		names = append(names, h.Name)
	}
	return names
}

// Close kills every process in the lab's namespaces, stops everything the lab
// runs and removes its own temporary directory. It may be called again and
// returns the same error then.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	inodes := map[uint64]bool{}
	if l.cfg.Array && l.Client != nil {
		errs = append(errs, l.ResumeVolumes())
	}
	for _, h := range l.hosts() {
		inodes[h.ns.ino] = true
		if h.disk != nil {
			errs = append(errs, h.thawDisk()) // who writes to a stalled one can't be killed
		}
	}
	errs = append(errs, sweep(ctx, inodes))
	for _, h := range l.hosts() {
		errs = append(errs, h.close())
	}
	if l.Observer != nil {
		l.Observer.close()
	}
	if l.fabric != nil {
		errs = append(errs, l.fabric.close())
	}
	if l.ownDir {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the lab: %w", err)
	}
	return nil
}
