#!/bin/sh
# What users do, on a real Slurm behind a real sshd: the scenario of tests/mount/t0200-scenario.t, unchanged.
# TEST_SECONDS=45
. "$(dirname "$0")/../lib/tap.sh"
. "$ROOT/tests/lib/scenario-test.sh"

mount_demo
scenario_test
done_testing
