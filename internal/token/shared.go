package token

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// sharedFileSystems are those that several hosts can have mounted at once and
// see the same files in, as the mount table names them. FUSE's come as
// "fuse.NAME".
func sharedFileSystems() []string {
	return []string{
		"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "coda", "gfs2", "glusterfs", "lustre", "ocfs2", "orangefs", "gpfs", "virtiofs",
		"fuse.glusterfs", "fuse.sshfs", "fuse.ceph-fuse", "fuse.mfs", "fuse.juicefs", "fuse.s3fs", "beegfs",
	}
}

// Shared tells which place a path is on, so that hosts can compare: the same
// words on two hosts mean one file. It fails when the path is on a file system
// that only this host sees, or its folder isn't there. It may hang for as long
// as a server doesn't answer.
func Shared(path string) (string, error) {
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("the folder of %s can't be reached: %w (mount the shared storage it is on)", path, err)
	}
	folder, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("the folder of %s can't be reached: %w", path, err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(folder))
	if err != nil {
		return "", fmt.Errorf("tell on which file system %s is: %w", path, err)
	}
	on := last(mounts)
	if on == nil {
		return "", fmt.Errorf("the mount table doesn't say on which file system %s is", path)
	}
	if !slices.Contains(sharedFileSystems(), on.FSType) {
		return "", fmt.Errorf("%s is on %s (%s), which only this host has: each node has a token of its own, and no client can reconnect. Put it on shared storage or on a volume of this policy, or write replicate = true", path, on.Mountpoint, on.FSType)
	}
	// The source and the folder's number are the server's, not this host's.
	return fmt.Sprintf("%s %s %d", on.FSType, on.Source, info.Sys().(*syscall.Stat_t).Ino), nil
}

// last is the mount that a path is on: the longest mount point, and of one with
// several the newest, which hides the others.
func last(mounts []*mountinfo.Info) (on *mountinfo.Info) {
	for _, m := range mounts {
		if on == nil || len(strings.TrimSuffix(m.Mountpoint, "/")) >= len(strings.TrimSuffix(on.Mountpoint, "/")) {
			on = m
		}
	}
	return on
}
