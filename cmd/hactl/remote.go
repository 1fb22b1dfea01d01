package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"had/internal/peer"
	"had/internal/pki"
)

// remote is how a node elsewhere is reached. Without an address it is not.
type remote struct {
	address       string
	ca, cert, key string // paths; empty: looked for
}

// nodeAddress returns the address of the node to ask; empty: the local socket.
func (c *cli) nodeAddress() string {
	if c.remote.address != "" || c.socket != "" {
		return c.remote.address
	}
	return c.env("HACTL_ADDRESS")
}

func (c *cli) checkRemote() error {
	r := c.remote
	switch {
	case r.address != "" && c.socket != "":
		return fail(exitUsage, "--address %s and --socket %s both name a daemon: give one", r.address, c.socket)
	case c.nodeAddress() == "" && r.ca+r.cert+r.key != "":
		return fail(exitUsage, "--tls-ca, --tls-cert and --tls-key are for a node elsewhere: name it with --address HOST:PORT")
	case c.nodeAddress() == "":
		return nil
	}
	if _, port, err := net.SplitHostPort(c.nodeAddress()); err != nil || port == "" {
		return fail(exitUsage, "--address %q: give HOST:PORT, as the node's address is in had.hcl", c.nodeAddress())
	}
	return nil
}

// operatorDialer connects to a node elsewhere with this person's certificate.
func (c *cli) operatorDialer(address string) (*dialer, error) {
	ca, cert, key, err := c.clientFiles()
	if err != nil {
		return nil, err
	}
	d, err := peer.NewOperatorDialer(peer.OperatorConfig{Address: address, CA: ca, Cert: cert, Key: key, Version: ownBuild().Version})
	if err != nil {
		code := exitUsage
		if errors.Is(err, fs.ErrPermission) {
			code = exitNotPermitted
		}
		return nil, fail(code, "prepare to ask %s: %w", address, err)
	}
	return &dialer{path: address, remote: true, open: d.Dial}, nil
}

// clientFiles are the paths of the CA, the certificate and its key: as given,
// the rest from the first folder that has a client's certificate.
func (c *cli) clientFiles() (ca, cert, key string, err error) {
	r := c.remote
	if r.ca != "" && r.cert != "" && r.key != "" {
		return r.ca, r.cert, r.key, nil
	}
	dirs := c.clientDirs()
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, pki.ClientFile)); err != nil {
			continue
		}
		or := func(given, name string) string {
			if given != "" {
				return given
			}
			return filepath.Join(dir, name)
		}
		return or(r.ca, pki.CAFile), or(r.cert, pki.ClientFile), or(r.key, pki.ClientKeyFile), nil
	}
	return "", "", "", fail(exitNotPermitted, "a node elsewhere wants a certificate, and there is no %s in %s: make one where the CA is, with hactl tls issue --client NAME --role viewer|operator|admin, or name the files with --tls-ca, --tls-cert and --tls-key",
		pki.ClientFile, strings.Join(dirs, " or "))
}

// clientDirs are where a client's certificate is looked for, in this order.
func (c *cli) clientDirs() (dirs []string) {
	config := c.env("XDG_CONFIG_HOME")
	if home := c.env("HOME"); config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		if c.cluster != "" {
			dirs = append(dirs, filepath.Join(config, "had", c.cluster))
		}
		dirs = append(dirs, filepath.Join(config, "had"))
	}
	return append(dirs, c.tlsDir)
}

// openSocket connects to the local socket.
func openSocket(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
}

// notReached says why a node elsewhere didn't answer.
func (e *lostError) notReached() *failure {
	if no, ok := errors.AsType[*peer.NotAdmittedError](e.dial); ok {
		return &failure{exitNotPermitted, no}
	}
	if e.dial != nil {
		return &failure{exitUnreachable, fmt.Errorf("connect to had on %s: %w", e.socket, e.dial)}
	}
	return &failure{exitUnreachable, fmt.Errorf("the connection to had on %s broke: any other node answers, too", e.socket)}
}
