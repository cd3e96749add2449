#!/bin/sh
# Dagster Pipes with stock Dagster, on local and on a real Slurm behind a real sshd.
# TEST_TIMEOUT=600
# TEST_SECONDS=115
. "$(dirname "$0")/../lib/tap.sh"

python=$("$ROOT/scripts/dagster-env" 2>"$T/env.err") || {
	fail "an environment with Dagster is made" "$(tail -n 20 "$T/env.err")"
	done_testing
}
DAGSTER_HOME=$T/dagster
DAGSTER_DISABLE_TELEMETRY=yes
export DAGSTER_HOME DAGSTER_DISABLE_TELEMETRY
mkdir "$DAGSTER_HOME"

dagster() { # dagster COUNT PROGRAM ARG...: its results
	dagster_count=$1
	dagster_program=$2
	shift 2
	within 200 "$python" "$ROOT/tests/lib/$dagster_program.py" "$@" >"$T/results" 2>"$T/errors" || diag "$(tail -n 30 "$T/errors")"
	grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
	tap_lines "$T/lines"
	is "all cases of $dagster_program $1 were tried" "$(grep -c '^ok\|^not ok' "$T/results")" "$dagster_count"
}

dagster 2 dagster_assets judge "$BUILD/tools/judge"
# shellcheck disable=SC2119
mount_demo
dagster 8 dagster_assets check "$MNT" local demo
dagster 2 dagster_assets again "$MNT" demo "$TESTBED_DIR/slurm.conf" "$T/mark"
# What a plain file loses; make bench-messages has both, more often.
dagster 16 dagster_messages check 1 "$MNT" demo

within 200 python3 "$ROOT/tests/lib/pipes.py" check "$MNT" kill="$STATE/worker.pid" outage="$ROOT/scripts/testbed" cluster=demo \
	only=sizes,nasty,cut >"$T/results" 2>"$T/errors" || diag "$(cat "$T/errors")"
tap_lines "$T/results"
is "all cases on Slurm were tried" "$(grep -c '^ok\|^not ok' "$T/results")" 8
done_testing
