package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"had/cluster"
	"had/internal/clock"
	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// newInstance names this run of the daemon; the node ID comes from the data
// folder.
func newInstance(node string) (*hadv1.Instance, error) {
	if err := clock.CheckNoOffset(); err != nil {
		return nil, err
	}
	boot, err := clock.BootID()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, 8)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("draw this run's number: %w", err)
	}
	return &hadv1.Instance{Node: node, BootId: boot, Nonce: hex.EncodeToString(nonce)}, nil
}

// checkPrivileges refuses to start without what holding an address needs:
// found out later, it would be found out in the middle of a failover.
func checkPrivileges(witness bool) error {
	if witness {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_NET_RAW, "CAP_NET_RAW"}} {
		if data[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			return fmt.Errorf("had needs %s to hold addresses: run it as root, which the hook scripts need too", c.name)
		}
	}
	return nil
}

// listenLocal opens the socket for hactl; only root may connect. A socket
// that a killed daemon left behind is replaced; the journal's lock has made
// sure that none runs.
func listenLocal(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the socket itself is root's
		return nil, fmt.Errorf("create the socket's folder: %w", err)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at the socket: %w", err)
	case info.Mode()&os.ModeSocket == 0:
		return nil, fmt.Errorf("open the socket %s: there is a file that isn't a socket; remove it or name another `socket`", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replace the old socket: %w", err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket root's: %w", err), l.Close())
	}
	return l, nil
}

func openPort(cfg Config, identity *peer.Identity) (*peer.Port, error) {
	f := cfg.File
	var files *peer.TLSFiles
	if f.TLS.Enabled() {
		var err error
		if files, err = peer.LoadTLS(f.TLS.CA, f.TLS.Cert, f.TLS.Key, f.Node); err != nil {
			return nil, err
		}
		if err := files.CheckCluster(f.Cluster); err != nil {
			return nil, err
		}
	}
	return peer.Listen(peer.PortConfig{
		Identity: identity, Listen: f.Self().Address, TLS: files,
		Logger: cfg.Logger.Named("peer"), Version: cfg.Version.GetVersion(),
	})
}

// tellSystemd passes a state on; without systemd it does nothing.
func tellSystemd(logger hclog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		logger.Warn("systemd could not be told", "state", state, "error", err)
	}
}

// keepAlive feeds systemd's watchdog, if the unit asks for it.
func keepAlive(ctx context.Context, logger hclog.Logger) error {
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return err
	}
	tick := time.NewTicker(every / 3)
	defer tick.Stop()
	for {
		tellSystemd(logger, "WATCHDOG=1")
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// clockTrouble says that this host's clock runs too fast or too slow for a
// lease to be measured with it.
func clockTrouble() []string {
	slew, err := clock.Slew()
	switch {
	case err != nil:
		return []string{err.Error()}
	case slew > cluster.ClockRateError || slew < -cluster.ClockRateError:
		return []string{fmt.Sprintf("its time daemon makes its clock run %.1f %% off, and leases allow %.1f %%: wait until the time is right; with chrony set maxslewrate 500", 100*slew, 100*cluster.ClockRateError)}
	}
	return nil
}
