#!/bin/sh
# The machine goes to sleep while readers wait: the cases are in tests/lib/bus.py.
. "$(dirname "$0")/../lib/tap.sh"

DBUS_SYSTEM_BUS_ADDRESS=unix:path=$T/bus
export DBUS_SYSTEM_BUS_ADDRESS
# shellcheck disable=SC2119
mount_local
tap_from 120 python3 "$ROOT/tests/lib/bus.py" "$MNT" "$STATE"
done_testing
