package fence

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sysfs makes a folder with these files and links ("to -> from").
func sysfs(t *testing.T, entries ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, e := range entries {
		name, text, _ := strings.Cut(e, "=")
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, is := strings.CutPrefix(text, "@"); is {
			err = os.Symlink(filepath.Join(root, to), path)
		} else {
			err = os.WriteFile(path, []byte(text+"\n"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDisksBelow(t *testing.T) {
	root := sysfs(t,
		"sda/dev=8:0", "sda/sda1/partition=1", "sda/sda2/partition=2", "sdb/dev=8:16", "sdc/dev=8:32", "sdd/dev=8:48", "cciss!c0d0/dev=1",
		"dm-0/dm/uuid=LVM-x", "dm-0/slaves/sda2=@sda/sda2", "dm-0/slaves/sdb=@sdb", // a volume on a partition and a disk
		"dm-1/dm/uuid=mpath-3600", "dm-1/slaves/sdc=@sdc", "dm-1/slaves/sdd=@sdd", // two paths
		"dm-2/dm/uuid=part1-mpath-3600", "dm-2/slaves/dm-1=@dm-1", // a partition of it
		"dm-3/dm/uuid=CRYPT-LUKS2-y", "dm-3/slaves/dm-2=@dm-2",
		"block/8:1=@sda/sda1",
	)
	for device, want := range map[string]string{
		"sda": "/dev/sda", "block/8:1": "/dev/sda", "dm-0": "/dev/sda /dev/sdb", "dm-1": "/dev/dm-1", "dm-2": "/dev/dm-1", "dm-3": "/dev/dm-1",
		"cciss!c0d0": "/dev/cciss/c0d0",
	} {
		disks, err := disksBelow(filepath.Join(root, device))
		if slices.Sort(disks); err != nil || strings.Join(disks, " ") != want {
			t.Errorf("%s is on %v, %v; want %s", device, disks, err, want)
		}
	}
	if _, err := DisksOfNumber(0, 1); !os.IsNotExist(err) && !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no device: %v", err)
	}
}

func TestADeadPathIsSeen(t *testing.T) {
	root := sysfs(t, "a/state=running", "b/state=offline", "sda/device=@a", "sdb/device=@b",
		"dm-0/slaves/sda=@sda", "dm-1/slaves/sda=@sda", "dm-1/slaves/sdb=@sdb")
	for device, says := range map[string]string{"sdb": "", "dm-0": "", "dm-1": `path sdb of /dev/dm-1 is "offline"`} {
		err := deadPathIn(filepath.Join(root, device), "/dev/"+device)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %q", device, err, says)
		}
	}
}

func TestWhatCanAbort(t *testing.T) {
	root := sysfs(t,
		"hosts/host2/proc_name=tcm_loopback", "hosts/host3/proc_name=iscsi_tcp", "hosts/host4/proc_name=virtio_scsi",
		"sda/device=@2:0:1:0", "sdb/device=@3:0:0:0", "sdc/device=@4:0:0:0", "sdd/device=@4:0:0:1", "sde/dev=1",
		"2:0:1:0/vendor=LIO-ORG ", "3:0:0:0/vendor=LIO-ORG", "4:0:0:0/vendor=LIO-ORG", "4:0:0:1/vendor=QEMU",
		"dm-0/slaves/sdc=@sdc",
	)
	for device, want := range map[string]UnderWay{"sda": Finish, "sdb": Abort, "sdc": Finish, "sdd": Abort, "sde": Abort, "dm-0": Finish} {
		if got := commandsOf(filepath.Join(root, device), filepath.Join(root, "hosts")); got != want {
			t.Errorf("%s: %v, want %v", device, got, want)
		}
	}
}
