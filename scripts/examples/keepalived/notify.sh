#!/bin/sh
# What keepalived ran at each change, as it was: had's hook scripts call it with
# the same words. A real one would start and stop services here, too.
echo "$(uname -n): $*" >>/var/log/failover.log
