#!/bin/sh
# Scenarios of other submitters' suites on the local cluster, without Dagster: the cases are in tests/lib/scenarios.py.
# docs/testing.md has the list.
# shellcheck disable=SC2119
# TEST_SECONDS=12
. "$(dirname "$0")/../lib/tap.sh"

mount_local
tap_from 300 python3 "$ROOT/tests/lib/scenarios.py" "$MNT" "$STATE"
done_testing
