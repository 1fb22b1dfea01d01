package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	hadv1 "had/proto/had/v1"
)

// Tenure is what this node may hold in its kernel and how to let go of it: all
// that a restarted daemon needs to clean up after one that was killed.
type Tenure struct {
	Epoch         uint64
	Instance      *hadv1.Instance
	Addresses     []*hadv1.HeldAddress // in policy order
	Volumes       []*hadv1.HeldVolume  // in the order in which they are mounted
	Tokens        []*hadv1.HeldToken
	HooksDir      string
	HookTimeout   time.Duration
	PolicyVersion uint64
	Namespace     string // of the network, as in /proc/PID/ns/net; empty: written before that was noted
	Released      bool   // its release has been reported: only hooks are left to run
	Forced        bool   // with Released: PreRel is among them
}

// storedTenure is the form in the file.
type storedTenure struct {
	Version       int               `json:"version"`
	Epoch         uint64            `json:"epoch"`
	Instance      json.RawMessage   `json:"instance"`
	Addresses     []json.RawMessage `json:"addresses"`
	Volumes       []json.RawMessage `json:"volumes,omitempty"`
	Tokens        []json.RawMessage `json:"tokens,omitempty"`
	HooksDir      string            `json:"hooks_dir"`
	HookTimeout   time.Duration     `json:"hook_timeout_ns"`
	PolicyVersion uint64            `json:"policy_version"`
	Namespace     string            `json:"network_namespace,omitempty"`
	Released      bool              `json:"released"`
	Forced        bool              `json:"forced"`
}

// SetTenure must have returned nil before the kernel is touched for t. When it
// fails, t may be on disk all the same, or get there later: that is the safe
// side, and ClearTenure undoes it.
func (j *Journal) SetTenure(t *Tenure) error {
	value, err := encodeTenure(t)
	if err != nil {
		return fmt.Errorf("write down what this node is about to hold: %w", err)
	}
	return j.setTenure(value, "write down what this node is about to hold")
}

// ClearTenure says that this node holds nothing. When it fails the file may
// still name the last tenure, and the next start cleans up once more.
func (j *Journal) ClearTenure() error {
	return j.setTenure(nil, "write down that this node holds nothing")
}

// Release takes the report that the tenure's epoch is released, as Append
// does, and marks the tenure in the same write: a daemon that dies afterwards
// doesn't report it again. Without a tenure it is Append.
func (j *Journal) Release(ctx context.Context, r *hadv1.Report, forced bool) error {
	e, err := newEntry(r)
	if err != nil {
		return err
	}
	t, err := j.Tenure()
	if err != nil {
		return err
	}
	var value []byte
	if t != nil {
		t.Released, t.Forced = true, forced
		if value, err = encodeTenure(t); err != nil {
			return fmt.Errorf("write down that this node released: %w", err)
		}
	}
	wait, err := j.enqueue(func() []change {
		changes := []change{j.add(e)}
		if value != nil {
			j.tenure = value
			changes = append(changes, change{bucket: metaBucket, key: []byte(tenureKey), value: value})
		}
		return changes
	})
	if err != nil {
		return fmt.Errorf("append a release to the journal: %w", err)
	}
	_ = wait(ctx) // Problem tells
	return nil
}

func (j *Journal) setTenure(value []byte, what string) error {
	err := j.commit(context.Background(), func() []change {
		j.tenure = value
		return []change{{bucket: metaBucket, key: []byte(tenureKey), value: value}}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Tenure returns what was last set, or nil when that was cleared. After Open
// it is what an earlier run may have left in the kernel.
func (j *Journal) Tenure() (*Tenure, error) {
	j.mu.Lock()
	value := j.tenure
	j.mu.Unlock()
	if value == nil {
		return nil, nil
	}
	return decodeTenure(value)
}

func encodeTenure(t *Tenure) ([]byte, error) {
	s := storedTenure{
		Version:       formatVersion,
		Epoch:         t.Epoch,
		HooksDir:      t.HooksDir,
		HookTimeout:   t.HookTimeout,
		PolicyVersion: t.PolicyVersion,
		Namespace:     t.Namespace,
		Released:      t.Released,
		Forced:        t.Forced,
	}
	var errs []error
	var err error
	s.Instance, err = protojson.Marshal(t.Instance)
	errs = append(errs, err)
	for _, a := range t.Addresses {
		b, err := protojson.Marshal(a)
		s.Addresses = append(s.Addresses, b)
		errs = append(errs, err)
	}
	for _, v := range t.Volumes {
		b, err := protojson.Marshal(v)
		s.Volumes = append(s.Volumes, b)
		errs = append(errs, err)
	}
	for _, k := range t.Tokens {
		b, err := protojson.Marshal(k)
		s.Tokens = append(s.Tokens, b)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

func decodeTenure(value []byte) (*Tenure, error) {
	var s storedTenure
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, fmt.Errorf("read what this node held: %w", err)
	}
	if s.Version != formatVersion {
		return nil, fmt.Errorf("read what this node held: it has format %d, this had knows %d", s.Version, formatVersion)
	}
	t := &Tenure{
		Epoch:         s.Epoch,
		Instance:      new(hadv1.Instance),
		HooksDir:      s.HooksDir,
		HookTimeout:   s.HookTimeout,
		PolicyVersion: s.PolicyVersion,
		Namespace:     s.Namespace,
		Released:      s.Released,
		Forced:        s.Forced,
	}
	if err := protojson.Unmarshal(s.Instance, t.Instance); err != nil {
		return nil, fmt.Errorf("read what this node held: %w", err)
	}
	for _, b := range s.Addresses {
		a := new(hadv1.HeldAddress)
		if err := protojson.Unmarshal(b, a); err != nil {
			return nil, fmt.Errorf("read what this node held: %w", err)
		}
		t.Addresses = append(t.Addresses, a)
	}
	for _, b := range s.Volumes {
		v := new(hadv1.HeldVolume)
		if err := protojson.Unmarshal(b, v); err != nil {
			return nil, fmt.Errorf("read what this node held: %w", err)
		}
		t.Volumes = append(t.Volumes, v)
	}
	for _, b := range s.Tokens {
		k := new(hadv1.HeldToken)
		if err := protojson.Unmarshal(b, k); err != nil {
			return nil, fmt.Errorf("read what this node held: %w", err)
		}
		t.Tokens = append(t.Tokens, k)
	}
	return t, nil
}
