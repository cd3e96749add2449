#!/bin/sh
# Whole runs and steps of stock Dagster as jobs, on local and on a real Slurm behind a real sshd. The cases are in
# tests/lib/dagster_runs.py.
# TEST_TIMEOUT=900
# LONG=1 also kills a worker too often, which takes a minute.
# TEST_SECONDS=135
. "$(dirname "$0")/../lib/tap.sh"

python=$("$ROOT/scripts/dagster-env" 2>"$T/env.err") || {
	fail "an environment with Dagster is made" "$(tail -n 20 "$T/env.err")"
	done_testing
}
# shellcheck disable=SC2119
mount_demo
PYTHONPATH=$ROOT/docs/examples/dagster
WORK=$T/work
DAGSTER_DISABLE_TELEMETRY=yes
PYTHONPYCACHEPREFIX=$BUILD/pycache
unset PYTHONDONTWRITEBYTECODE
export MNT WORK PYTHONPATH DAGSTER_DISABLE_TELEMETRY PYTHONPYCACHEPREFIX
mkdir "$WORK"

# runs COUNT CLUSTER CASE...
runs() {
	runs_count=$1
	CLUSTER=$2
	DAGSTER_HOME=$T/dagster-$2
	export CLUSTER DAGSTER_HOME
	shift 2
	mkdir -p "$DAGSTER_HOME"
	cat >"$DAGSTER_HOME/dagster.yaml" <<-EOT
		telemetry: {enabled: false}
		run_launcher:
		  module: slurmray_launcher
		  class: SlurmrayRunLauncher
		  config:
		    mount: {env: MNT}
		    spec: {cluster: $CLUSTER, ntasks: 1}
		    env: [PYTHONPATH, MNT, CLUSTER, WORK, DAGSTER_DISABLE_TELEMETRY, PYTHONPYCACHEPREFIX]
		run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator} # the other one needs the daemon
		run_monitoring: {enabled: true, start_timeout_seconds: 604800, max_resume_run_attempts: 1}
	EOT
	within 600 "$python" "$ROOT/tests/lib/dagster_runs.py" "$@" >"$T/results" 2>"$T/errors" || diag "$(tail -n 30 "$T/errors")"
	grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
	tap_lines "$T/lines"
	is "all cases on $CLUSTER were tried" "$(grep -c '^ok\|^not ok' "$T/results")" "$runs_count"
}

runs 5 local success failing cancels killed command_line
if [ "${LONG:-}" = 1 ]; then
	runs 6 demo success cancels never_began killed killed_too_often retries
else
	runs 5 demo success cancels never_began killed retries
fi
for file in slurmray_launcher.py slurmray_executor.py; do
	ok "$file has at most 120 lines" [ "$(wc -l <"$ROOT/docs/examples/dagster/$file")" -le 120 ]
done
# The sample is that of the documentation, with a mount of its own.
ok "the sample of dagster.yaml is taken" env DAGSTER_HOME="$ROOT/docs/examples/dagster" "$python" -c 'if 1:
	import dagster as dg, os, shutil, tempfile
	home = tempfile.mkdtemp()
	shutil.copy(os.environ["DAGSTER_HOME"] + "/dagster.yaml", home)
	os.environ["DAGSTER_HOME"] = home
	with dg.DagsterInstance.get() as instance:
		assert instance.run_launcher.mount == "/home/me/cluster", instance.run_launcher.mount
		assert instance.run_monitoring_max_resume_run_attempts == 2'
done_testing
