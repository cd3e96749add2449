#!/bin/sh
# How specs are written and answers read, with every tool that people use for it: the cases are in tests/lib/conversation.py.
# TEST_SECONDS=60
. "$(dirname "$0")/../lib/tap.sh"

: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers die where a case wants it, and are replaced without a pause
export SLURMRAY_TEST_DIE T
# Held runs stay where they are: nothing competes for this machine's cores but what a case starts itself.
# shellcheck disable=SC2119
mount_local
tap_from 280 python3 "$ROOT/tests/lib/conversation.py" "$MNT" "$STATE"
done_testing
