package guard

import (
	"errors"
	"time"

	"had/internal/peer"
	hadv1 "had/proto/had/v1"
)

// setup is the first datagram: what the guard is to know. It opens everything
// it will need at once, for later there may be no disk.
type setup struct {
	DataDir    string          `json:"data_dir"`
	Cluster    string          `json:"cluster"`
	Node       string          `json:"node"`
	NodeID     string          `json:"node_id"`
	BootID     string          `json:"boot_id"`
	Nonce      string          `json:"nonce"`
	Margin     time.Duration   `json:"margin"`
	Members    []peer.Member   `json:"members"`
	TLS        *TLSPaths       `json:"tls,omitempty"`
	Version    string          `json:"version"`
	Watchdog   *WatchdogConfig `json:"watchdog,omitempty"`
	Gate       string          `json:"gate,omitempty"` // of the packet gate; empty: there is none
	LogLevel   string          `json:"log_level"`
	LogJSON    bool            `json:"log_json"`
	LogJournal bool            `json:"log_journal"`
}

// TLSPaths are the PEM files of peer.LoadTLS.
type TLSPaths struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// ready is the guard's answer to it.
type ready struct {
	Failed     string   `json:"failed,omitempty"`     // why it can't guard
	Shortfalls []string `json:"shortfalls,omitempty"` // what it has to do without, whole sentences
}

func (s setup) check() error {
	if s.DataDir == "" || s.Node == "" || s.NodeID == "" || s.BootID == "" || s.Nonce == "" || s.Margin <= 0 {
		return errors.New("read what the guard is to know: something is missing")
	}
	return nil
}

func (s setup) instance() *hadv1.Instance {
	return &hadv1.Instance{Node: s.Node, NodeId: s.NodeID, BootId: s.BootID, Nonce: s.Nonce}
}
