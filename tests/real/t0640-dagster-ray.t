#!/bin/bash
# Assets, runs and steps of stock Dagster on Ray: the examples of docs/examples/dagster on a Ray cluster that is there, in an allocation
# and in a session of a real Slurm. The cases are in tests/lib/dagster_on_ray.py.
# TEST_TIMEOUT=1200
# TEST_SECONDS=140
# LONG=1 has two nodes in each cluster, and one more in an allocation of its own.
. "$(dirname "$0")/../lib/tap.sh" || exit 99
RAY_NODES=1
LONG=${LONG:-0}
[ "$LONG" != 1 ] || RAY_NODES=2
export NODES=2 CPUS=4 RAY_NODES

python=$("$ROOT/scripts/ray-env" dagster 2>"$T/env.err") || {
	fail "an environment with Dagster and Ray is made" "$(tail -n 20 "$T/env.err")"
	done_testing
}
venv=${python%/bin/python}
need_testbed
# shellcheck disable=SC2119 # it has no arguments
mount_demo <<END_OF_CONFIG
environment = venv:$venv
ray.object_store_memory = 100M
ray.num_cpus_per_node = 4
ray.start_timeout = 400
[defaults]
cluster = demo
END_OF_CONFIG
CONFIG=$T/config
VENV=$venv
DAGSTER_DISABLE_TELEMETRY=yes
SLURMRAY_MOUNT=$MNT
SLURMRAY_CLUSTER=demo
DAGSTER_HOME=$T/dagster
CASES=$T/cases
PYTHONPATH=$ROOT/docs/examples/dagster
PYTHONPYCACHEPREFIX=$BUILD/pycache
PYTHONWARNINGS=ignore
unset PYTHONDONTWRITEBYTECODE
export LONG CONFIG VENV DAGSTER_DISABLE_TELEMETRY SLURMRAY_MOUNT SLURMRAY_CLUSTER SLURMRAY DAGSTER_HOME CASES PYTHONPATH PYTHONPYCACHEPREFIX PYTHONWARNINGS
mkdir "$DAGSTER_HOME" "$CASES"
cat >"$DAGSTER_HOME/dagster.yaml" <<-EOT
	telemetry: {enabled: false}
	run_launcher:
	  module: slurmray_launcher
	  class: SlurmrayRunLauncher
	  config:
	    mount: {env: SLURMRAY_MOUNT}
	    spec: {cluster: lab, ray: {entrypoint_num_cpus: 0.1}}
	    env: [PYTHONPATH, PYTHONPYCACHEPREFIX, SLURMRAY_MOUNT, CASES, DAGSTER_DISABLE_TELEMETRY]
	run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
	run_monitoring: {enabled: true, start_timeout_seconds: 604800}
EOT

within 1100 "$python" "$ROOT/tests/lib/dagster_on_ray.py" >"$T/results" 2>"$T/errors" ||
	diag "$(tail -n 30 "$T/errors" | tr -cd '[:print:]\n' | cut -c 1-400)"
[ -z "${TIMES:-}" ] || cp "$T/errors" "$TIMES"
grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
tap_lines "$T/lines"
is "all cases were tried" "$(grep -c '^ok\|^not ok' "$T/results")" $((LONG == 1 ? 13 : 12))
for file in slurmray_session.py on_ray.py; do
	ok "$file has at most 120 lines" [ "$(wc -l <"$ROOT/docs/examples/dagster/$file")" -le 120 ]
done
done_testing
