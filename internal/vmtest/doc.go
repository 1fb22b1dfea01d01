// Package vmtest holds the tests that need a machine to themselves: a watchdog
// resets it, a disk with two initiators takes a kernel with LIO, and NFS one with its
// client and server. There is nothing in it but tests (`make test-vm`).
//
// The machine is qemu's, in software, with Debian's kernel and an initramfs of
// one program: the test binary itself. A test has two sides, one on this host,
// which boots the machine and watches it, and one that the binary runs as the
// machine's init.
package vmtest
