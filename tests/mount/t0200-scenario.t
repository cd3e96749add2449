#!/bin/sh
# What users do, on the local cluster. The same scenario runs on Slurm in tests/real/t0200-scenario.t; both must print
# what tests/data/scenario.expected holds.
. "$(dirname "$0")/../lib/tap.sh"
. "$ROOT/tests/lib/scenario-test.sh"

mount_local
scenario_test
done_testing
