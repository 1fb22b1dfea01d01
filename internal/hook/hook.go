// Package hook finds and runs the scripts of an IPFailover folder: what a host
// does around acquiring and releasing a virtual address.
//
// The folder's layout, names and order are those of Mac OS X Server's
// IPFailover; docs and the reasons behind the choices made here are in
// DESIGN.md.
package hook

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Stage is when a script runs, and the prefix of its file name.
type Stage string

// The five stages. A Test script is named exactly so; the other stages have as
// many scripts as there are names with the prefix.
const (
	Test    Stage = "Test"    // may this host acquire? non-zero is a veto
	PreAcq  Stage = "PreAcq"  // before the addresses come up
	PostAcq Stage = "PostAcq" // after they are up and announced
	PreRel  Stage = "PreRel"  // before the addresses go
	PostRel Stage = "PostRel" // after they are gone
)

// stopsAtFailure reports whether a failed script keeps the rest of its stage
// from running. A release is never stopped by a script, and after PostAcq's
// failure the policy decides, not the order of the names.
func (s Stage) stopsAtFailure() bool { return s == Test || s == PreAcq }

// Event is what a script gets as $1 and HAD_EVENT.
type Event string

// The two events. Test always runs for Acquire.
const (
	Acquire Event = "acquire"
	Release Event = "release"
)

// Run is one stage to be run for one virtual address.
type Run struct {
	Stage Stage
	Event Event
	VIP   netip.Addr // $2 and HAD_VIP, bare
	Env   Env

	// Allowed is asked right before a script is started, after everything that
	// may take time; its error keeps the script from running. nil: all may run.
	Allowed func() error
}

func (r Run) allowed() error {
	if r.Allowed == nil {
		return nil
	}
	return r.Allowed()
}

// Env is what scripts are told beyond their arguments.
type Env struct {
	Cluster       string // HAD_CLUSTER
	Reason        string // HAD_REASON, a sentence for people
	Interface     string // HAD_INTERFACE
	Node          string // HAD_NODE, this node's name
	PreviousOwner string // HAD_PREVIOUS_OWNER, empty when there was none
	Epoch         uint64 // HAD_EPOCH; 0 before an epoch was opened
	Forced        bool   // HAD_FORCED=1, else unset: the addresses are gone already

	// Volumes are mount points by the names of their volumes: HAD_VOLUME_<NAME>.
	Volumes map[string]string
	// Tokens are files by the names of their reconnect tokens: HAD_TOKEN_<NAME>.
	Tokens map[string]string
}

// VolumeVariable is the variable that tells scripts where a volume is mounted:
// a name's letters in upper case, and "_" for what a shell's variable can't have.
func VolumeVariable(name string) string {
	return "HAD_VOLUME_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// TokenVariable is the variable that tells scripts where a reconnect token is,
// made as VolumeVariable makes its own.
func TokenVariable(name string) string {
	return "HAD_TOKEN_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// searchPath is Debian's PATH for root: scripts must not depend on how the
// daemon was started.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// runVariable marks every process of a run with its ID. See KillOrphan.
const runVariable = "HAD_RUN"

// plainEnvironment is what every program gets, whatever had was started with.
func plainEnvironment() []string {
	return []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8"}
}

// environ returns the whole environment of a script. None of the daemon's own
// is passed on.
func (r Run) environ(id string) []string {
	vars := []struct{ name, value string }{
		{"HAD_CLUSTER", r.Env.Cluster},
		{"HAD_EVENT", string(r.Event)},
		{"HAD_REASON", r.Env.Reason},
		{"HAD_VIP", r.VIP.String()},
		{"HAD_INTERFACE", r.Env.Interface},
		{"HAD_NODE", r.Env.Node},
		{"HAD_PREVIOUS_OWNER", r.Env.PreviousOwner},
		{"HAD_EPOCH", fmt.Sprint(r.Env.Epoch)},
		{runVariable, id},
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env.Volumes)) {
		vars = append(vars, struct{ name, value string }{VolumeVariable(name), r.Env.Volumes[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(r.Env.Tokens)) {
		vars = append(vars, struct{ name, value string }{TokenVariable(name), r.Env.Tokens[name]})
	}
	env := plainEnvironment()
	for _, v := range vars {
		// An environment can't hold NUL, and a reason is whatever someone typed.
		env = append(env, v.name+"="+strings.ReplaceAll(v.value, "\x00", ""))
	}
	if r.Env.Forced {
		env = append(env, "HAD_FORCED=1")
	}
	return env
}

// Outcome is how a run of a script ended.
type Outcome int

const (
	Exited   Outcome = iota + 1 // by itself; see ExitCode
	Signaled                    // by a signal that wasn't ours; see Signal
	TimedOut                    // it ran for longer than the timeout and was killed
	Canceled                    // the caller's context ended and it was killed
	Refused                     // it was not run: unsafe, unreadable or not executable by the kernel
	Unknown                     // the daemon died while it ran
)

// String returns the outcome as a past participle.
func (o Outcome) String() string {
	switch o {
	case Exited:
		return "exited"
	case Signaled:
		return "signaled"
	case TimedOut:
		return "timed out"
	case Canceled:
		return "canceled"
	case Refused:
		return "refused"
	case Unknown:
		return "unknown"
	default:
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
}

// Result is one run of one script.
type Result struct {
	Stage       Stage
	Script      string // file name
	VIP         string // bare address
	Digest      string // SHA-256 of the file as it was run, hex; empty when it couldn't be read
	Outcome     Outcome
	ExitCode    int    // when Exited
	Signal      string // what ended it, as "SIGKILL"; empty when it exited
	Started     time.Time
	Duration    time.Duration
	OutputTail  []byte    // the last bytes of stdout and stderr together, as they were written
	OutputBytes uint64    // how many there were in all
	Forced      bool      // ran with HAD_FORCED=1
	Err         string    // a sentence: why it was not run, or was stopped
	Left        *Leftover // with ErrStillRunning: what SIGKILL didn't end; nil: nothing
}

// OK reports whether the script did its work: it exited with 0.
func (r Result) OK() bool { return r.Outcome == Exited && r.ExitCode == 0 }

// String returns the result as one sentence without a full stop, for logs and
// for the reason of what follows from it.
func (r Result) String() string {
	what := r.what()
	took := r.Duration.Round(time.Millisecond)
	switch r.Outcome {
	case Exited:
		return fmt.Sprintf("%s exited with %d after %s", what, r.ExitCode, took)
	case Signaled:
		return fmt.Sprintf("%s was ended by %s after %s", what, r.Signal, took)
	default:
		return fmt.Sprintf("%s: %s", what, r.Err)
	}
}

// what names the run for people.
func (r Result) what() string {
	if r.VIP == "" {
		return r.Script // a command, which is for none
	}
	return fmt.Sprintf("%s for %s", r.Script, r.VIP)
}

// Running is a run that was begun and whose end is not recorded yet. It holds
// what a restarted daemon needs to kill the rest of it and to report it.
type Running struct {
	ID      string // random; in the environment of all its processes
	Stage   Stage
	Event   Event
	Script  string
	VIP     netip.Addr
	Digest  string
	Node    string
	Epoch   uint64
	Forced  bool
	Grouped bool // all of it is in the control group that Config.Group gave
	Started time.Time
}
