#!/bin/bash
# secret_env on a real Slurm behind a real sshd: the cases of tests/lib/secret_env.py.
# TEST_SECONDS=40
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99

: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
CLUSTER=demo
export SLURMRAY_TEST_DIE CLUSTER T
# shellcheck disable=SC2119
mount_demo
PLACES=$DEMO_HOME:$TESTBED_DIR
export PLACES
tap_from 250 python3 "$ROOT/tests/lib/secret_env.py" "$MNT" "$STATE"
done_testing
