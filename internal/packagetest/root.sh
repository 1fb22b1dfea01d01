#!/usr/bin/env bash
# Makes a small Debian with systemd and an SSH server in the folder given, unless
# it is there already, from where this machine has its packages.
set -euo pipefail
into=$1
[ ! -d "$into" ] || exit 0
fail() { echo "make test-packages: $*" >&2; exit 1; }
for tool in debootstrap apt-get; do
  command -v "$tool" >/dev/null || fail "there is no $tool: apt-get install --no-install-recommends debootstrap"
done
read -r mirror suite < <(apt-get indextargets 'Created-By: Packages' 'Component: main' --format '$(REPO_URI) $(CODENAME)' | grep -vE -- '-(security|updates|backports)$') ||
  fail "apt has no Debian among its sources"
mkdir -p "$(dirname "$into")"
new=$(mktemp -d "$into.XXXX")
trap 'rm -rf "$new"' EXIT
debootstrap --variant=minbase --include=systemd,systemd-sysv,openssh-server,openssh-client,iproute2,man-db \
  "$suite" "$new/root" "$mirror" >"$into.log" || fail "debootstrap failed: see $into.log"
rm -f "$new"/root/var/cache/apt/archives/*.deb
mv "$new/root" "$into"
