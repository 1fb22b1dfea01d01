#!/usr/bin/env bash
# Fetches Debian's kernel and unpacks it into the folder given, unless it is
# there already.
set -euo pipefail
into=$1
[ ! -d "$into" ] || exit 0
fail() { echo "make test-vm: $*" >&2; exit 1; }
for tool in apt-get apt-cache dpkg-deb; do
  command -v "$tool" >/dev/null || fail "there is no $tool to fetch a kernel with: unpack Debian's package linux-image-…-amd64 into $into"
done
package=$(apt-cache depends linux-image-amd64 | awk '$1 == "Depends:" { print $2; exit }')
[ -n "$package" ] || fail "apt knows no linux-image-amd64: run apt-get update"
mkdir -p "$(dirname "$into")"
new=$(mktemp -d "$into.XXXX")
trap 'rm -rf "$new"' EXIT
(cd "$new" && apt-get download -q "$package" 2>&1) || fail "fetching $package failed: run apt-get update"
dpkg-deb --fsys-tarfile "$new"/*.deb | tar -x -C "$new" --wildcards './boot/vmlinuz-*' './lib/modules/*'
rm "$new"/*.deb
mv "$new" "$into"
