#!/bin/sh
# Dagster Pipes on the local cluster: a reader as strict as Dagster's, and payloads that write what they like.
. "$(dirname "$0")/../lib/tap.sh"

# shellcheck disable=SC2119
mount_local
within 200 python3 "$ROOT/tests/lib/pipes.py" check "$MNT" kill="$STATE/worker.pid" >"$T/results" 2>"$T/errors" || diag "$(cat "$T/errors")"
tap_lines "$T/results"
is "all cases were tried" "$(grep -c '^ok\|^not ok' "$T/results")" 17
done_testing
