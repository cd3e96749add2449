#!/bin/bash
# Scenarios of other submitters' suites on a real Slurm behind a real sshd: stock Dagster with the example of
# docs/from-dagster-slurm.md, and what only Slurm can show. docs/testing.md has the list.
# TEST_SECONDS=50
# TEST_TIMEOUT=600
# shellcheck disable=SC2016,SC2119
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99

python=$("$ROOT/scripts/dagster-env" 2>"$T/env.err") || {
	fail "an environment with Dagster is made" "$(tail -n 20 "$T/env.err")"
	done_testing
}
DAGSTER_HOME=$T/dagster
DAGSTER_DISABLE_TELEMETRY=yes
export DAGSTER_HOME DAGSTER_DISABLE_TELEMETRY
PYTHONPYCACHEPREFIX=$BUILD/pycache
unset PYTHONDONTWRITEBYTECODE
PYTHONWARNINGS=ignore
export PYTHONPYCACHEPREFIX PYTHONWARNINGS
mkdir "$DAGSTER_HOME" "$T/moving"
mount_demo <<END
environment = ${python%/bin/python}
END

# --- what Slurm shows; the signal before the time limit is slow, so it begins first ---

submit_json() {
	within 20 slurmray submit --mount "$MNT" - <"$1"
}

echo '{"command": "trap '"'echo saved; exit 7'"' USR1; echo ready; sleep 300 & wait", "time": "1", "signal": "B:USR1@60"}' >"$T/spec"
warned=$(submit_json "$T/spec")
two=$(submit "nodes=2 ntasks=2 -- echo ran \$SLURM_JOB_NUM_NODES; srun -l echo step")
blank=$(submit 'printf "\n\na\n\n\nb\n"; printf "\nerr\n\n" >&2')
failed=$(submit 'echo said; echo kept > $SLURMRAY_RESULTS/r; pwd; exit 9')
held=$(submit 'hold=true -- echo ran')

within 300 "$python" "$ROOT/tests/lib/moving_assets.py" check "$MNT" "$T/moving" >"$T/results" 2>"$T/errors" || diag "$(tail -n 30 "$T/errors")"
grep '^ok\|^not ok\|^# ' "$T/results" >"$T/lines"
tap_lines "$T/lines"
is "all cases were tried" "$(grep -c '^ok\|^not ok' "$T/results")" 5

is "a job of two nodes ends well" "$(ended "$two")" "succeeded 0"
is "its command ran once, its step on both" "$(sort "$MNT/runs/$two/stdout" | tr '\n' ' ')" "0: step 1: step ran 2 "
is "blank lines" "$(ended "$blank")" "succeeded 0"
is "are there once" "$(od -An -c "$MNT/runs/$blank/stdout" | tr -d ' \n')" '\n\na\n\n\nb\n'
is "a failed run" "$(ended "$failed")" "failed 9"
is "keeps its results" "$(cat "$MNT/runs/$failed/results/r")" kept
where=$(sed -n 2p "$MNT/runs/$failed/stdout")
ok "and its directory" on_cluster test -d "$where"
ok "until rmdir" eventually 20 rmdir "$MNT/runs/$failed"
ok "which removes it there" eventually 20 on_cluster test ! -e "$where"
ok "a held one is pending" eventually 20 is_now "$held" pending
echo cancel >"$MNT/runs/$held/ctl"
is "and can be cancelled" "$(ended "$held")" "cancelled -"
is "it did not run" "$(cat "$MNT/runs/$held/log")" ""
is "the signal before the time limit reaches the command, whose code is its own" "$(ended "$warned" 90)" "failed 7"
is "it saved what it had" "$(tr '\n' ' ' <"$MNT/runs/$warned/stdout")" "ready saved "
done_testing
