#!/bin/sh
# Before a removal; upgrades come here too, and leave had running. Debian says
# "remove", "deconfigure" or "upgrade", RPM how many versions will be left.
set -e
case "$1" in
  remove | deconfigure | 0) ;;
  *) exit 0 ;;
esac
[ -d /run/systemd/system ] || exit 0
# A stop hands over first. As root's own word: policy-rc.d is about starting.
systemctl stop 'had@*.service' had.service
for unit in $(systemctl list-units --plain --no-legend --state=failed 'had.service' 'had@*.service' | cut -d' ' -f1); do
  echo "had: $unit didn't end in order, and this host may still hold something: journalctl -u $unit" >&2
done
