package vmtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"had/internal/fence"
)

// LIO, Linux's own SCSI target, is told what to show by folders and files
// (Linux Documentation/target/, and what targetcli writes).
const config = "/sys/kernel/config"

// loopback shows a disk to two initiators that need no wire. Such a disk can't
// abort; see fence.Finish.
func loopback(t *testing.T) (alpha, beta *host) {
	t.Helper()
	hosts := loopbacks(t, "loopback", "00", "01")
	return hosts[0], hosts[1]
}

// loopbacks shows a disk to initiators with these numbers.
func loopbacks(t *testing.T, name string, numbers ...string) (hosts []*host) {
	t.Helper()
	disk := ramdisk(t, name)
	for _, n := range numbers {
		before := disks(t)
		group := fmt.Sprintf("%s/target/loopback/naa.50014050000000%s/tpgt_1", config, n)
		must(t, os.MkdirAll(group, 0o700))
		put(t, group+"/nexus", "naa.50014051000000"+n)
		link(t, disk, group+"/lun/lun_0")
		hosts = append(hosts, newHost(t, before, fence.Finish))
	}
	return hosts
}

// srp shows a disk to two initiators over a network of this machine's: SCSI
// RDMA Protocol over Ethernet, all of it in the kernel. Such a disk can abort.
func srp(t *testing.T) (alpha, beta *host) {
	t.Helper()
	const address, port = "192.0.2.1", "5555"
	for _, name := range []string{"lo", "dummy0"} {
		device, err := netlink.LinkByName(name)
		must(t, err)
		if name != "lo" {
			must(t, netlink.AddrAdd(device, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(24, 32)}}))
		}
		must(t, netlink.LinkSetUp(device))
	}
	must(t, netlink.RdmaLinkAdd("rxe0", "rxe", "dummy0"))
	const adapter = "/sys/class/infiniband/rxe0"
	guid, gid := read(t, adapter+"/node_guid"), "0x"+read(t, adapter+"/ports/1/gids/0")

	group := config + "/target/srpt/" + gid + "/" + gid
	must(t, os.MkdirAll(group, 0o700))
	link(t, ramdisk(t, "srp"), group+"/lun/lun_0")
	for i := range 2 {
		initiator := fmt.Sprintf("%s/acls/0x%016x%s", group, i+1, guid)
		must(t, os.Mkdir(initiator, 0o700))
		link(t, group+"/lun/lun_0", initiator+"/lun_0")
	}
	put(t, group+"/enable", "1")
	put(t, config+"/target/srpt/discovery_auth/rdma_cm_port", port)
	service := strings.TrimPrefix(read(t, "/sys/module/ib_srpt/parameters/srpt_service_guid"), "0x")
	var hosts []*host
	for i := range 2 {
		before := disks(t)
		put(t, "/sys/class/infiniband_srp/srp-rxe0-1/add_target",
			fmt.Sprintf("id_ext=%s,ioc_guid=%s,dest=%s:%s,initiator_ext=%016x", service, service, address, port, i+1))
		hosts = append(hosts, newHost(t, before, fence.Abort))
	}
	return hosts[0], hosts[1]
}

// ramdisk makes a disk in memory and returns its folder.
func ramdisk(t *testing.T, name string) string {
	t.Helper()
	disk := config + "/target/core/rd_mcp_0/" + name
	must(t, os.MkdirAll(disk, 0o700))
	put(t, disk+"/control", "rd_pages=5120")
	put(t, disk+"/enable", "1")
	put(t, disk+"/wwn/vpd_unit_serial", "had-vmtest-"+name)
	return disk
}

// link makes a folder in which there is a link.
func link(t *testing.T, to, dir string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Symlink(to, dir+"/link"))
}

// newHost returns the host of a disk that wasn't there before, once the kernel
// has found all of it.
func newHost(t *testing.T, before []string, commands fence.UnderWay) *host {
	t.Helper()
	var err error
	for range 600 {
		for _, path := range disks(t) {
			if slices.Contains(before, path) {
				continue
			}
			var data *os.File
			if data, err = os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0); err == nil {
				disk, err := fence.OpenDisk(path)
				must(t, err)
				return &host{Disk: disk, t: t, path: path, data: data, commands: commands}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the disk doesn't appear: %v", err)
	return nil
}

func disks(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("/dev/sd?")
	must(t, err)
	return found
}

// read returns a file's text without blanks and colons.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return strings.ReplaceAll(strings.TrimSpace(string(b)), ":", "")
}

func put(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	must(t, err)
}
