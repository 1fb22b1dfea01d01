package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"had/internal/clock"
	"had/internal/hook"
	"had/internal/peer"
	"had/storage"
	"had/vip"
)

// Op is what had asks of its guard.
type Op string

const (
	OpHold        Op = "hold"         // addresses may be in the kernel for an epoch from now on
	OpDrop        Op = "drop"         // all of the epoch is proven gone
	OpScript      Op = "script"       // a hook script is about to run
	OpScriptEnded Op = "script_ended" // and all of it has ended
	OpClose       Op = "close"        // had ends in an orderly way and holds nothing
	OpMount       Op = "mount"        // mount a volume of the epoch
	OpUnmount     Op = "unmount"      // unmount one in order, and prove it
	OpArm         Op = "arm"          // arm this host's watchdog, and feed it
	OpDisarm      Op = "disarm"       // stop it
	OpReserve     Op = "reserve"      // take the disks of all the epoch's volumes, before one is mounted
	OpEvict       Op = "evict"        // take disks away from the owner of another epoch
	OpCertify     Op = "certify"      // show other nodes these certificates from now on
	OpEnrol       Op = "enrol"        // tell these members from now on
	OpSecure      Op = "secure"       // end all of the epoch's by force, prove it, and mount nothing of it any more
)

// Request is one message of had to its guard. Fields that its Op doesn't name
// are zero.
type Request struct {
	Op        Op               `json:"op"`
	Epoch     uint64           `json:"epoch,omitempty"`     // OpHold, OpDrop, OpReserve, OpMount, OpUnmount, OpSecure
	Until     clock.Instant    `json:"until,omitempty"`     // OpHold: the lease's end when it was sent
	Addresses []vip.Address    `json:"addresses,omitempty"` // OpHold: all that may be in the kernel
	Volumes   []storage.Volume `json:"volumes,omitempty"`   // OpHold: all that the epoch may ever mount, in this order; OpEvict: whose disks
	Adopted   bool             `json:"adopted,omitempty"`   // OpHold: an earlier guard held it
	Mounted   []string         `json:"mounted,omitempty"`   // OpHold, Adopted: the volumes that one may have left mounted, by name
	Name      string           `json:"name,omitempty"`      // OpMount, OpUnmount: the volume's
	ClearMMP  bool             `json:"clear_mmp,omitempty"` // OpMount: there is evidence that nobody else has it mounted
	Key       uint64           `json:"key,omitempty"`       // OpReserve, OpEvict: to take the disks with; see package fence
	Script    *hook.Running    `json:"script,omitempty"`    // OpScript
	ID        string           `json:"id,omitempty"`        // OpScriptEnded: the script's
	TLS       *peer.PEM        `json:"tls,omitempty"`       // OpCertify
	Members   *peer.Roster     `json:"members,omitempty"`   // OpEnrol
}

// Slow reports whether a request may take as long as a device does. It is
// answered when it is done, and others meanwhile.
func (r Request) Slow() bool {
	return slices.Contains([]Op{OpReserve, OpEvict, OpMount, OpUnmount, OpSecure}, r.Op)
}

const (
	maxAddresses = 4096
	maxVolumes   = 64
	maxOptions   = 64
	maxRunID     = 64
)

// check returns an error for a request that no had would send.
func (r Request) check() error {
	bare := Request{Op: r.Op}
	switch r.Op {
	case OpHold:
		bare.Epoch, bare.Until, bare.Addresses, bare.Volumes, bare.Adopted = r.Epoch, r.Until, r.Addresses, r.Volumes, r.Adopted
		bare.Mounted = r.Mounted
		if err := r.checkHold(); err != nil {
			return err
		}
	case OpDrop, OpSecure:
		bare.Epoch = r.Epoch
		if r.Epoch == 0 {
			return fmt.Errorf("a request to %s names no epoch", r.Op)
		}
	case OpMount, OpUnmount:
		bare.Epoch, bare.Name = r.Epoch, r.Name
		if r.Op == OpMount {
			bare.ClearMMP = r.ClearMMP
		}
		if r.Epoch == 0 || r.Name == "" {
			return fmt.Errorf("a request to %s names no epoch or no volume", r.Op)
		}
	case OpReserve:
		bare.Epoch, bare.Key = r.Epoch, r.Key
		if r.Epoch == 0 || r.Key == 0 {
			return fmt.Errorf("a request to %s names no epoch or no key", r.Op)
		}
	case OpEvict:
		bare.Volumes, bare.Key = r.Volumes, r.Key
		if len(r.Volumes) == 0 || r.Key == 0 {
			return fmt.Errorf("a request to %s names no volumes or no key", r.Op)
		}
		if err := checkVolumes(r.Volumes); err != nil {
			return fmt.Errorf("a request to %s: %w", r.Op, err)
		}
	case OpScript:
		bare.Script = r.Script
		if r.Script == nil {
			return errors.New("a script is missing")
		}
		if err := checkRunID(r.Script.ID); err != nil {
			return err
		}
	case OpScriptEnded:
		bare.ID = r.ID
		if err := checkRunID(r.ID); err != nil {
			return err
		}
	case OpCertify:
		bare.TLS = r.TLS
		if r.TLS == nil {
			return errors.New("certificates are missing")
		}
	case OpEnrol:
		bare.Members = r.Members
		if r.Members == nil {
			return errors.New("members are missing")
		}
	case OpClose, OpArm, OpDisarm:
	default:
		return fmt.Errorf("%.40q is no request", r.Op)
	}
	if !bare.same(r) {
		return fmt.Errorf("a request to %s carries what belongs to another", r.Op)
	}
	return nil
}

func (r Request) same(s Request) bool { return reflect.DeepEqual(r, s) }

func (r Request) checkHold() error {
	switch {
	case r.Epoch == 0:
		return errors.New("a hold names no epoch")
	case r.Until <= 0:
		return fmt.Errorf("a hold of epoch %d ends at %d, which is no instant", r.Epoch, r.Until)
	case len(r.Addresses)+len(r.Volumes) == 0:
		return fmt.Errorf("a hold of epoch %d has neither addresses nor volumes", r.Epoch)
	case len(r.Addresses) > maxAddresses:
		return fmt.Errorf("a hold of epoch %d has %d addresses; %d can be held", r.Epoch, len(r.Addresses), maxAddresses)
	case r.Adopted && len(r.Volumes) == 0:
		return fmt.Errorf("epoch %d is another guard's and has no volumes that would have to be taken over", r.Epoch)
	}
	for _, a := range r.Addresses {
		if !a.Addr.IsValid() || a.Addr.Zone() != "" {
			return fmt.Errorf("a hold of epoch %d has %q as an address", r.Epoch, a.Addr)
		}
		if a.Interface == "" || len(a.Interface) >= unix.IFNAMSIZ {
			return fmt.Errorf("a hold of epoch %d has %.40q as an interface", r.Epoch, a.Interface)
		}
	}
	if err := checkVolumes(r.Volumes); err != nil {
		return fmt.Errorf("a hold of epoch %d: %w", r.Epoch, err)
	}
	for _, name := range r.Mounted {
		if !r.Adopted || !slices.ContainsFunc(r.Volumes, func(v storage.Volume) bool { return v.Name == name }) {
			return fmt.Errorf("a hold of epoch %d has %.40q mounted, which isn't another guard's volume", r.Epoch, name)
		}
	}
	return nil
}

// checkVolumes refuses what no policy lets through. What a device is, and
// whether it is there, the mounter finds out.
func checkVolumes(vs []storage.Volume) error {
	if len(vs) > maxVolumes {
		return fmt.Errorf("it has %d volumes; %d can be held", len(vs), maxVolumes)
	}
	names, paths := map[string]bool{}, map[string]bool{}
	for _, v := range vs {
		switch {
		case names[v.Name] || paths[v.Path]:
			return fmt.Errorf("volume %.40q at %.80q is there twice, or its path is", v.Name, v.Path)
		case !filepath.IsAbs(v.Path) || filepath.Clean(v.Path) != v.Path || v.Path == "/":
			return fmt.Errorf("volume %.40q has %.80q as its mount point", v.Name, v.Path)
		case v.Name == "" || v.Device == "" || len(v.Options) > maxOptions:
			return fmt.Errorf("volume %.40q on %.80q with %d options lacks a name or a device, or has too many options", v.Name, v.Device, len(v.Options))
		}
		for _, text := range append([]string{v.Name, v.Device, v.Path, v.FSType}, v.Options...) {
			if len(text) > unix.PathMax || strings.ContainsRune(text, 0) {
				return fmt.Errorf("volume %.40q has %.40q, which no kernel takes", v.Name, text)
			}
		}
		names[v.Name], paths[v.Path] = true, true
	}
	return nil
}

// checkRunID refuses what can't be a run's ID: its processes are found by it,
// so an empty or a foreign one could find others.
func checkRunID(id string) error {
	if id == "" || len(id) > maxRunID || strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return fmt.Errorf("%.80q is no script's ID", id)
	}
	return nil
}

// maxMessage bounds a datagram of the socket: a hold of maxAddresses IPv6
// addresses fits.
const maxMessage = 512 << 10

// message is a datagram from had: a request, numbered for its answer.
type message struct {
	Number  uint64  `json:"number"`
	Request Request `json:"request"`
}

// answer is a datagram from the guard: had may go on when Refused is empty.
type answer struct {
	Number     uint64 `json:"number"`
	Refused    string `json:"refused,omitempty"`
	NotMounted bool   `json:"not_mounted,omitempty"` // it was refused with ErrNotMounted
}

// refusal is an answer's error.
type refusal answer

func (r refusal) Error() string { return "the guard refused: " + r.Refused }

// Is implements errors.Is.
func (r refusal) Is(target error) bool { return r.NotMounted && target == ErrNotMounted }

// encode returns v as one datagram.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a message between had and its guard: %w", err)
	}
	if len(data) > maxMessage {
		return nil, fmt.Errorf("encode a message between had and its guard: %d bytes where %d fit", len(data), maxMessage)
	}
	return data, nil
}

// decode reads one datagram strictly: an unknown field or anything after the
// value is an error.
func decode(data []byte, v any) error {
	if len(data) > maxMessage {
		return fmt.Errorf("read a message between had and its guard: it has more than %d bytes", maxMessage)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("read a message between had and its guard: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("read a message between had and its guard: something follows it")
	}
	return nil
}

// decodeMessage reads a request; a nil error means that it is a whole and
// sensible one.
func decodeMessage(data []byte) (m message, err error) {
	if err := decode(data, &m); err != nil {
		return message{}, err
	}
	if err := m.Request.check(); err != nil {
		return message{Number: m.Number}, fmt.Errorf("read a request of had: %w", err)
	}
	return m, nil
}
