// Package packagetest follows docs/install.md word for word, with the deb that it
// builds, on three hosts: network namespaces with a Debian root and systemd of
// their own. `make test-packages` runs it.
package packagetest
