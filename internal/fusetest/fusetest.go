// Package fusetest stands in for a file server where a kernel has no client for one:
// FUSE is one for a process, and waits for its answers as they do.
package fusetest

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Server exports one folder with one file.
type Server struct {
	fs.Inode

	conn   *fuse.Server
	gone   chan struct{} // closed: it answers nothing any more
	back   chan struct{} // closed: it does, with an error
	missed sync.Once
	closed sync.Once
	waits  chan struct{} // closed by the first who is not answered
}

// File is the name of its file.
const File = "file"

// Mount mounts what a new server exports on a folder, in the mount namespace of the
// process, with source as what is mounted. It needs root and /dev/fuse.
func Mount(path, source string) (*Server, error) {
	s := &Server{gone: make(chan struct{}), back: make(chan struct{}), waits: make(chan struct{})}
	var err error
	s.conn, err = fs.Mount(path, s, &fs.Options{MountOptions: fuse.MountOptions{FsName: source, Name: "served", DirectMountStrict: true}})
	if err != nil {
		return nil, fmt.Errorf("mount a file server of the test's on %s: %w", path, err)
	}
	return s, nil
}

// Leave lets it answer nothing any more, once: who asks it for something waits, out of
// SIGKILL's reach.
func (s *Server) Leave() { close(s.gone) }

// Waits returns a channel that is closed when somebody waits for an answer that doesn't
// come.
func (s *Server) Waits() <-chan struct{} { return s.waits }

// Close ends it, and its mount if there is one left.
func (s *Server) Close() {
	s.closed.Do(func() {
		close(s.back)
		_ = s.conn.Unmount() // it may be unmounted
		s.conn.Wait()
	})
}

// OnAdd puts the file there.
func (s *Server) OnAdd(ctx context.Context) {
	s.AddChild(File, s.NewPersistentInode(ctx, &fs.MemRegularFile{Data: []byte("data")}, fs.StableAttr{}), false)
}

// Lookup implements fs.NodeLookuper.
func (s *Server) Lookup(_ context.Context, name string, _ *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := s.answer(); errno != fs.OK {
		return nil, errno
	}
	child := s.GetChild(name)
	if child == nil {
		return nil, syscall.ENOENT
	}
	return child, fs.OK
}

// OpendirHandle implements fs.NodeOpendirHandler.
func (s *Server) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, s.answer()
}

// answer returns when the server answers.
func (s *Server) answer() syscall.Errno {
	select {
	case <-s.gone:
		s.missed.Do(func() { close(s.waits) })
		<-s.back
		return syscall.EIO
	default:
		return fs.OK
	}
}
