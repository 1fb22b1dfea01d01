package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"

	"had/internal/policy"
	"had/internal/reconnect"
	"had/storage"
)

// inspector looks at volumes in a child process, because a look may hang in the
// kernel for as long as a device or a server doesn't answer. There is one child at
// a time; while one hangs that even a kill doesn't end, nothing more is asked.
type inspector struct {
	exe string // the program

	mu    sync.Mutex
	child chan struct{} // closed when the latest child has ended; nil: there was none
}

// What an inspector is asked.
const (
	inspectCheck   = "check"   // could this host mount them?
	inspectReserve = "reserve" // could it reserve their disks?
	inspectWrite   = "write"   // has nobody reserved them?
	inspectUnused  = "unused"  // is it certain that nothing of this kernel, which started anew, can write to them?
	inspectFlush   = "flush"   // is what was written to them on their disks? It is then
	inspectWorks   = "works"   // do they take writes?
	inspectTokens  = "tokens"  // where are these tokens, and is each as it should be? Answered with a list of reconnect.Place
)

// inspection is a question, as JSON on the child's standard input.
type inspection struct {
	Op      string           `json:"op"`
	Volumes []storage.Volume `json:"volumes"`
	Tokens  []policy.Token   `json:"tokens,omitempty"` // of inspectTokens
	Policy  []policy.Volume  `json:"policy_volumes,omitempty"`
	Mark    uint64           `json:"mark,omitempty"` // inspectReserve: of the cluster's keys
}

// Inspect is the child: it answers a question read from in with a list of what is
// wrong, as JSON. An empty list is good news.
func Inspect(ctx context.Context, in io.Reader, out io.Writer) error {
	var q inspection
	if err := json.NewDecoder(in).Decode(&q); err != nil {
		return fmt.Errorf("read what to inspect: %w", err)
	}
	if q.Op == inspectTokens {
		places := []reconnect.Place{}
		for _, t := range q.Tokens {
			places = append(places, reconnect.LookAt(t, q.Policy))
		}
		return json.NewEncoder(out).Encode(places)
	}
	wrong := []string{}
	for i, v := range q.Volumes {
		var err error
		switch q.Op {
		case inspectCheck:
			err = storage.Check(ctx, v, q.Volumes[:i])
		case inspectReserve:
			err = reservable(ctx, v, q.Mark)
		case inspectWrite:
			err = unreserved(ctx, v)
		case inspectUnused:
			err = storage.Unused(ctx, v)
			if errors.Is(err, storage.ErrAbsent) {
				err = nil // had has mounted nothing of it since, and nobody what isn't there
			}
		case inspectFlush:
			err = storage.Flush(v)
		case inspectWorks:
			err = storage.Works(v)
		default:
			return fmt.Errorf("inspect volumes: %q is no question", q.Op)
		}
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return json.NewEncoder(out).Encode(wrong)
}

var errHangs = errors.New("a look at the volumes hangs in the kernel: a device or a server doesn't answer")

// ask returns what is wrong with volumes. It returns when ctx ends, whatever the
// child does.
func (i *inspector) ask(ctx context.Context, q inspection) (wrong []string, err error) {
	err = i.answer(ctx, q, &wrong)
	return wrong, err
}

// answer is ask for any kind of answer.
func (i *inspector) answer(ctx context.Context, q inspection, into any) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.child:
	default:
		if i.child != nil {
			return errHangs
		}
	}
	question, err := json.Marshal(q)
	if err != nil {
		return err
	}
	var out, said bytes.Buffer
	// What kills it is below: all of its session, and without waiting for that.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), i.exe, "inspect")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(question), &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("look at the volumes: %w", err)
	}
	var failed error // of the child; to be read when it has ended
	ended := make(chan struct{})
	i.child = ended
	go func() { // joined by ended; what hangs in the kernel can't be
		defer close(ended)
		failed = cmd.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // fsck's like, too; gone already: all the better
		return fmt.Errorf("%w (%w)", errHangs, context.Cause(ctx))
	}
	if failed != nil {
		return fmt.Errorf("look at the volumes: %w: %s", failed, bytes.TrimSpace(said.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fmt.Errorf("look at the volumes: %w", err)
	}
	return nil
}
