#!/bin/sh
# After a removal, and for Debian's purge. A removal keeps /etc/had and
# /var/lib/had, and Debian's also what is enabled: installed again, the node is
# the one it was. Debian says "remove" or "purge", RPM how many versions are left.
set -e
if [ "$1" = purge ]; then
  # Clusters of had@NAME keep their data beside (docs/install.md).
  for file in /etc/had/*.hcl; do
    name=$(basename "$file" .hcl)
    case "$name" in
      had | '*') ;;
      *) rm -rf --one-file-system "/var/lib/had-$name" ;;
    esac
  done
  rm -rf --one-file-system /var/lib/had /run/had /etc/had
fi
case "$1" in
  purge | 0) find /etc/systemd/system -type l \( -name had.service -o -name 'had@*.service' \) -delete ;;
esac
case "$1" in
  purge | remove | 0 | 1)
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    ;;
esac
