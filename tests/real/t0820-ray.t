#!/bin/bash
# Ray in allocations of real Slurm: a run's own cluster, a session's that stays warm, both on the same nodes; what is killed,
# and that nothing is left (more of that in t0825). With LONG=1 also Ray of two years ago.
# TEST_SECONDS=145
# TEST_TIMEOUT=1800
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/ray.sh" || exit 99
mount_ray

# --- a session that keeps one ---

# Somebody's own token must not be taken for the cluster's.
mkdir "$DEMO_HOME/.ray" && echo stray >"$DEMO_HOME/.ray/auth_token"
mkdir "$MNT/runs/warm"
echo 'launcher=session nodes=2 ntasks=2 cpus_per_task=2 idle=0 ray=true' >"$MNT/runs/warm/spec"
running warm
n=$(number warm)
[ -n "$n" ] || n=1
W=$(dir_of "$n")
got=
for _ in 1 2 3 4 5; do
	id=$(submit "session=warm launcher=ray -- python $T/both.py")
	got="$got$(ended "$id" 300) $(cat "$MNT/runs/$id/stdout")
"
done
at=$(cat "$W/ray/address")
is "five runs one after another on both nodes of one cluster" "$got" "$(for _ in 1 2 3 4 5; do echo "succeeded 0 2 $at"; done)
"
is "of one job" "$(admin squeue -h -t all -o %i | wc -l)" 1
is "who is there" "$(awk '{ print $1, $4, $5 }' "$W/ray/nodes" | tr '\n' ' ')" "n1 ALIVE 1 n2 ALIVE 1 "
is "the token is nobody else's" "$(stat -c %a "$W/ray/token")" 600
like "the version" "$(cat "$W/ray/version")" '^2\.'
ok "the dashboard wants the token" sh -c "curl -s -o '$T/out' -w '%{http_code}' 'http://$(cat "$W/ray/dashboard")/api/jobs/' | grep -q 401"
ok "and takes it" sh -c "curl -s -f -H 'Authorization: Bearer $(cat "$W/ray/token")' 'http://$(cat "$W/ray/dashboard")/api/jobs/' >/dev/null"
ok "logs of both nodes" eventually 20 sh -c "test -s '$W/ray/logs/n1/gcs_server.out' && test -s '$W/ray/logs/n2/raylet.out'"
begun=$(date +%s%N)
id=$(submit 'session=warm launcher=ray -- date +%s%N')
ended "$id" >/dev/null
warm=$((($(cat "$MNT/runs/$id/stdout") - begun) / 1000000))

# --- a run with its own, on the same nodes ---

begun=$(date +%s%N)
id=$(submit '{"launcher": "ray", "nodes": 2, "ntasks": 2, "cpus_per_task": 2, "ray": {"num_cpus_per_node": null}, '"\"command\": \"date +%s%N; python $T/both.py; exit 3\"}")
is "a run with a cluster of its own beside it" "$(ended "$id" 300) $(tail -n 1 "$MNT/runs/$id/stdout" | cut -d' ' -f1)" "failed 3 2"
like "it has the job's processors, not the machine's" "$(cat "$(dir_of "$(number "$id")")/ray/available")" '^CPU [0-9]+ of 4$'
isnt "at an address of its own" "$(tail -n 1 "$MNT/runs/$id/stdout" | cut -d' ' -f2)" "$at"
cold=$((($(head -n 1 "$MNT/runs/$id/stdout") - begun) / 1000000))
diag "from the write to the command: warm $warm ms, cold $cold ms"
ok "the warm one is ten times sooner" test "$cold" -gt $((warm * 10))
ok "nothing is left of it" eventually 30 nothing_left "$(number "$id")/"
is "and the session's is untouched" "$(cat "$W/ray/state")" ready
id=$(submit 'launcher=ray ray.ray_version=1.13 -- true')
is "another version than was asked for" "$(ended "$id" 300)" "failed -"
like "is named" "$(why "$id")" 'ray_version=1.13 was asked for, and n[12] has Ray 2'

# --- what is killed ---

# shellcheck disable=SC2046 # pids
kill -KILL $(named raylet/raylet n2)
ok "a worker that is lost is seen" eventually 30 ray_is "$W" degraded
like "by name" "$(cat "$W/ray/why")" 'the worker on n2'
is "in the table, too" "$(awk '$1 == "n2" { print $4 }' "$W/ray/nodes")" DEAD
is "runs go on" "$(ended "$(submit 'session=warm launcher=ray -- true')")" "succeeded 0"
echo 'ray restart - .' >>"$W/orders"
ok "started anew" eventually 30 sh -c "! grep -q degraded '$W/ray/state'"
ok "it is whole" eventually 300 ray_is "$W" ready
# shellcheck disable=SC2046
kill -KILL $(named gcs/gcs_server n1)
ok "a head that is lost is the end of it" eventually 30 ray_is "$W" failed
ok "nothing is left" eventually 30 nothing_left
id=$(submit 'session=warm launcher=ray -- true')
is "runs fail" "$(ended "$id")" "failed -"
like "and say why" "$(why "$id")" 'Ray: the head on n1'
echo 'ray restart - .' >>"$W/orders"
ok "anew" eventually 300 ray_is "$W" ready
is "the session is cancelled" "$(order warm cancel) $(ended warm 60 | cut -d' ' -f1)" "ok cancelled"
ok "and nothing is left" eventually 30 nothing_left

id=$(submit 'launcher=ray nodes=2 ntasks=2 -- sleep 47900')
ok "a run's cluster" eventually 300 sh -c "pgrep -f '[s]leep 47900'"
# shellcheck disable=SC2046
kill -KILL $(named gcs/gcs_server n1)
is "without its head the run ends" "$(ended "$id" 60)" "failed -"
like "and says why" "$(why "$id")" 'the head on n1'
ok "nothing is left" eventually 5 sh -c '! pgrep -f "[s]leep 47900"'
ok "of Ray" eventually 30 nothing_left

if [ -n "${LONG:-}" ]; then
	if old=$("$ROOT/scripts/ray-env" 2.39 2>"$T/env.err"); then
		keys="environment=venv:${old%/bin/python} ray.ray_version=2.39"
		id=$(submit "launcher=ray nodes=2 ntasks=2 $keys -- python $T/both.py")
		is "Ray of two years ago" "$(ended "$id" 300) $(cut -d' ' -f1 "$MNT/runs/$id/stdout")" "succeeded 0 2"
		D=$(dir_of "$(number "$id")")
		is "it is that one" "$(cat "$D/ray/version")" 2.39.0
		ok "has no token" test ! -e "$D/ray/token"
		like "so its dashboard is for this node alone" "$(cat "$D/ray/dashboard")" '^127\.0\.0\.1:'
		ok "nothing is left" eventually 30 nothing_left
		mkdir "$MNT/runs/old"
		echo "launcher=session nodes=2 ntasks=2 cpus_per_task=2 idle=0 ray=true $keys" >"$MNT/runs/old/spec"
		got=
		for _ in 1 2; do
			id=$(submit "session=old launcher=ray environment=venv:${old%/bin/python} -- python $T/both.py")
			got="$got $(ended "$id" 300) $(cut -d' ' -f1 "$MNT/runs/$id/stdout")"
		done
		is "in a session, too" "$got" " succeeded 0 2 succeeded 0 2"
		D=$(dir_of "$(number old)")
		note "$D" >/dev/null
		# shellcheck disable=SC2046 # pids
		kill -KILL $(named raylet/raylet n2)
		ok "a worker that is lost is seen" eventually 60 ray_is "$D" degraded
		is "the session is cancelled" "$(order old cancel) $(ended old 60 | cut -d' ' -f1)" "ok cancelled"
		all_gone "and nothing is left" "$D"
	else
		fail "Ray of two years ago" "$(tail -n 5 "$T/env.err")"
	fi
fi
done_testing
