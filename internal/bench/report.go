package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Report is everything a run has measured, trial by trial.
type Report struct {
	Machine  Machine   `json:"machine"`
	Trials   int       `json:"trials"` // asked for, a fault and subject
	Complete bool      `json:"complete"`
	Subjects []Subject `json:"subjects"`
	Faults   []Trial   `json:"faults"`
	Scale    []Many    `json:"scale"`
	Steady   []Renewal `json:"steady"`
	Idle     []Cost    `json:"idle"`
	// Volumes are the trials of owners of volumes.
	Volumes []VolumeTrial `json:"volumes"`
	// Later has the version of had for each part, by key, that was measured anew
	// with another one than Machine says.
	Later map[string]string `json:"later,omitempty"`
	// Missing says what could not be measured and why.
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is what of a part could not be measured, and why.
type Missing struct {
	Part string `json:"part"` // its key
	What string `json:"what"`
}

// Machine is where and with what a run was made.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMB   int    `json:"memory_mb"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"` // of the logs
	Load       string `json:"load"`        // of the last minute when the run began (proc_loadavg(5))
	Had        string `json:"had"`
	Keepalived string `json:"keepalived"` // "": not installed
}

// Trial is one fault in one cluster.
type Trial struct {
	Subject   string `json:"subject"`
	Fault     string `json:"fault"`
	Owner     string `json:"owner"`
	Successor string `json:"successor"` // "" when the client heard no other host until the fault was mended
	V4        Seen   `json:"v4"`
	V6        Seen   `json:"v6"`
	// LastedMs is how long the fault lasted, and so the longest time in which
	// two hosts could answer because of it.
	LastedMs float64 `json:"lasted_ms"`
	// Stalled: the client itself asked nothing for more than 10 ms before the
	// longest gap, or less than half as often in it as it should have.
	Stalled bool `json:"stalled"`
	// Rebuilt says why the cluster was not well again after the fault and had
	// to be made anew; "" otherwise.
	Rebuilt string `json:"rebuilt,omitempty"`

	struck time.Time // when it came
}

// VolumeTrial is a trial of an owner that has a volume mounted. Times are in ms.
type VolumeTrial struct {
	Trial

	FSType string `json:"fstype"`
	Dirty  bool   `json:"dirty"` // something was written and not synced before the fault
	// Mounted is when, after the fault, the successor's kernel had the volume.
	Mounted float64 `json:"mounted_ms"`
	// Forced is how long the owner's guard took to end it and to prove that, from the
	// end of the address on; 0 where that wasn't the guard's to do.
	Forced float64 `json:"forced_ms"`
}

// Seen is what the client and the judges saw of one address in a trial. All
// times are in ms.
type Seen struct {
	// Gap is the longest time between two answers from the fault until it is
	// mended, and HealGap from then until all is well.
	Gap     float64 `json:"gap_ms"`
	HealGap float64 `json:"heal_gap_ms"`
	// Both is how long two hosts answered for the address, by the answers on
	// the wire, and Times how often; once for an instant has no length.
	Both  float64 `json:"both_ms"`
	Times int     `json:"both_times"`
	// Listed is how long two kernels had the address in their lists.
	Listed float64 `json:"listed_ms"`
}

// Many is a takeover of many addresses at once. Times are in ms from the
// trigger on.
type Many struct {
	Subject string  `json:"subject"`
	Family  string  `json:"family"` // IPv4, IPv6
	Count   int     `json:"count"`
	Trigger string  `json:"trigger"`
	First   float64 `json:"first_ms"` // the successor's kernel has the first address
	All     float64 `json:"all_ms"`   // and the last one
}

// Renewal is what holding many addresses costs their owner.
type Renewal struct {
	Subject string  `json:"subject"`
	Family  string  `json:"family"`
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"` // measured
	CPU     float64 `json:"cpu_ms_per_s"`
	Packets float64 `json:"packets_per_s"` // sent and received
}

// Cost is what a host pays while nothing happens.
type Cost struct {
	Subject   string  `json:"subject"`
	Role      string  `json:"role"` // owner, standby
	Seconds   float64 `json:"seconds"`
	Processes int     `json:"processes"`
	CPU       float64 `json:"cpu_ms_per_minute"`
	RSS       int64   `json:"rss_bytes"` // sum of all processes; shared pages count in each
	PSS       int64   `json:"pss_bytes"` // sum of all processes; shared pages are divided among them
	Written   float64 `json:"disk_bytes_per_s"`
	Sent      float64 `json:"packets_sent_per_s"`
	Received  float64 `json:"packets_received_per_s"`
}

// ReadReport reads a report that Write has written.
func ReadReport(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the results: %w (measure first: make bench)", err)
	}
	r := &Report{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("parse the results in %s: %w", path, err)
	}
	return r, nil
}

// Write puts the report into a file as JSON, as a whole or not at all.
func (r *Report) Write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	return writeFile(path, text)
}

// writeFile replaces a file and makes its folder.
func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", path, err)
	}
	temporary := path + ".new"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}
