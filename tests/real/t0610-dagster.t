#!/bin/sh
# The example project of docs/examples/dagster and its helpers, with stock Dagster: from the command line on local and on a real
# Slurm, steps that are tried again, stopped and canceled, and some of it with the oldest Dagster that is supported.
# TEST_TIMEOUT=900
# TEST_SECONDS=150
. "$(dirname "$0")/../lib/tap.sh"

DAGSTER_DISABLE_TELEMETRY=yes
SLURMRAY_MOUNT=$MNT
PYTHONPYCACHEPREFIX=$BUILD/pycache
unset PYTHONDONTWRITEBYTECODE
PYTHONWARNINGS=ignore
export DAGSTER_DISABLE_TELEMETRY SLURMRAY_MOUNT PYTHONPYCACHEPREFIX PYTHONWARNINGS

environment() { # environment [VERSION]: leaves $python
	python=$("$ROOT/scripts/dagster-env" "$@" 2>"$T/env.err") || {
		fail "an environment with Dagster is made" "$(tail -n 20 "$T/env.err")"
		done_testing
	}
}

helpers() { # helpers COUNT NAME ARG...: its results; of another Dagster the database would be of no use
	helpers_count=$1
	DAGSTER_HOME=$T/$2
	CASES=$DAGSTER_HOME/cases
	export DAGSTER_HOME CASES
	shift 2
	mkdir -p "$CASES"
	printf 'telemetry:\n  enabled: false\n' >"$DAGSTER_HOME/dagster.yaml"
	within 500 "$python" "$ROOT/tests/lib/dagster_project.py" "$@" >"$T/results" 2>"$T/errors" || diag "$(tail -n 30 "$T/errors")"
	grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
	tap_lines "$T/lines"
	is "all cases were tried" "$(grep -c '^ok\|^not ok' "$T/results")" "$helpers_count"
}

environment
mount_demo <<-EOT
	environment = venv:$(dirname "$(dirname "$python")")
	[cluster local]
	environment = venv:$(dirname "$(dirname "$python")")
EOT

helpers 33 new local demo
environment 1.10
helpers 13 1.10 few local
done_testing
