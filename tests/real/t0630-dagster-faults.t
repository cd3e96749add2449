#!/bin/sh
# Faults with real Dagster: `dagster dev` and whatever a person does in its UI, on local and on a real Slurm behind a real sshd. The
# cases are in tests/lib/dagster_faults.py; what they found is in docs/design/19-dagster-faults.md.
# LONG=1 tries all, with a backfill of 100 and sshd away for a minute.
# TEST_TIMEOUT=1800
# TEST_SECONDS=160
. "$(dirname "$0")/../lib/tap.sh"

python=$("$ROOT/scripts/dagster-env" 2>"$T/env.err") || {
	fail "an environment with Dagster is made" "$(tail -n 20 "$T/env.err")"
	done_testing
}
# shellcheck disable=SC2119
mount_demo <<-EOT
	environment = venv:$(dirname "$(dirname "$python")")
	[cluster local]
	environment = venv:$(dirname "$(dirname "$python")")
EOT
DAGSTER_DISABLE_TELEMETRY=yes
SLURMRAY_MOUNT=$MNT
CONFIG=$T/config
TESTBED=$ROOT/scripts/testbed
DAGSTER_HOME=$T/dagster
CASES=$T/cases
PYTHONPYCACHEPREFIX=$BUILD/pycache
unset PYTHONDONTWRITEBYTECODE
PYTHONWARNINGS=ignore
export DAGSTER_DISABLE_TELEMETRY SLURMRAY_MOUNT SLURMRAY CONFIG STATE TESTBED DAGSTER_HOME CASES PYTHONPYCACHEPREFIX PYTHONWARNINGS
mkdir "$DAGSTER_HOME" "$CASES"
cat >"$DAGSTER_HOME/dagster.yaml" <<-EOT
	telemetry: {enabled: false}
	run_queue:
	  max_concurrent_runs: 15
	  dequeue_interval_seconds: 1
	  tag_concurrency_limits:
	  - {key: lane, value: {applyLimitPerUniqueValue: true}, limit: 1}
EOT

# FAULTS="CASE..." tries some; FAULTS="-n 100 backfill" is a large one.
if [ "${LONG:-}" = 1 ]; then
	faults_count=15
	set -- -n 100 -s 60
else
	faults_count=8
	set -- backfill step_killed_retried run_stopped canceled canceled_pending worker_killed outage mount_killed
fi
if [ -n "${FAULTS:-}" ]; then
	# shellcheck disable=SC2086
	set -- $FAULTS
	faults_count=$(printf '%s\n' "$@" | grep -c '^[a-z]')
fi
within 1700 "$python" "$ROOT/tests/lib/dagster_faults.py" "$@" >"$T/results" 2>"$T/errors" || diag "$(tail -n 30 "$T/errors")"
[ -z "${TIMES:-}" ] || cp "$T/errors" "$TIMES"
grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
tap_lines "$T/lines"
is "all cases were tried" "$(grep -c '^ok\|^not ok' "$T/results")" "$faults_count"
done_testing
