#!/bin/sh
# After an installation or an upgrade. Nothing is enabled or started: there is
# nothing to run before /etc/had/had.hcl is written. And nothing is restarted:
# the package may arrive on all nodes at once, and it is a person, or what
# upgrades node by node, that says when this one lets go.
set -e
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
for unit in $(systemctl list-units --plain --no-legend --state=active 'had.service' 'had@*.service' | cut -d' ' -f1); do
  echo "had: $unit runs the earlier version until: systemctl restart $unit"
done
