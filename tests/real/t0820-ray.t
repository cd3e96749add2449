#!/bin/bash
# Ray in allocations of real Slurm: a run's own cluster, a session's that stays warm, both on the same nodes; what is killed,
# and that nothing is left. With LONG=1 also Ray 2.9, a lost node, and every process in turn. TEST_SECONDS=90
# TEST_TIMEOUT=900
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export NODES=2 CPUS=4
python=$("$ROOT/scripts/ray-env" 2>"$T/env.err") || {
	skip_all "no Ray: $(tail -n 1 "$T/env.err")"
}
need_testbed
# shellcheck disable=SC2119 # it has no arguments
mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
environment = venv:${python%/bin/python}
ray.object_store_memory = 100M
ray.num_cpus_per_node = 1
ray.start_timeout = 300
END_OF_CONFIG

cat >"$T/both.py" <<'END'
import os, ray, time
ray.init(logging_level='ERROR')
@ray.remote(num_cpus=1, scheduling_strategy='SPREAD')
def node():
    time.sleep(1)
    return ray.get_runtime_context().get_node_id()
print(len(set(ray.get([node.remote() for _ in range(2)]))), os.environ['RAY_ADDRESS'])
END
dir_of() { # dir_of ID: the attempt's directory on the cluster
	ls -d "$DEMO_HOME"/.slurmray/*/runs/"$1"/a1
}
number() { sed -n 's/^number *//p' "$MNT/runs/$1/info"; }
marked() { # marked NODE|'': the pids of this testbed's Ray processes
	local d uuid
	for d in "$DEMO_HOME"/.slurmray/*/runs; do
		uuid=${d%/runs}
		grep -alsF "SLURMRAY_RAY_NODE=slurmray:${uuid##*/}/${2:-}" /proc/[0-9]*/environ | cut -d/ -f3 | while read -r p; do
			tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -q "^SLURMRAY_RAY_NODE=.*@${1:-.*};" && echo "$p"
		done
	done
}
named() { # named PROGRAM NODE [RUN/]: those whose command line has it
	local p
	for p in $(marked "$2" "${3:-}"); do
		tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q "$1" && echo "$p"
	done
}
nothing_left() { [ -z "$(marked '' "${1:-}")" ]; }
ray_is() { [ "$(cat "$1/ray/state" 2>/dev/null)" = "$2" ]; }

# --- a session that keeps one ---

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
id=$(submit "launcher=ray nodes=2 ntasks=2 cpus_per_task=2 ray.num_cpus_per_node=2 -- date +%s%N; python $T/both.py; exit 3")
is "a run with a cluster of its own beside it" "$(ended "$id" 300) $(tail -n 1 "$MNT/runs/$id/stdout" | cut -d' ' -f1)" "failed 3 2"
isnt "at an address of its own" "$(tail -n 1 "$MNT/runs/$id/stdout" | cut -d' ' -f2)" "$at"
cold=$((($(head -n 1 "$MNT/runs/$id/stdout") - begun) / 1000000))
diag "from the write to the command: warm $warm ms, cold $cold ms"
ok "the warm one is ten times sooner" test "$cold" -gt $((warm * 10))
ok "nothing is left of it" nothing_left "$(number "$id")/"
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
ok "nothing is left" eventually 10 nothing_left
id=$(submit 'session=warm launcher=ray -- true')
is "runs fail" "$(ended "$id")" "failed -"
like "and say why" "$(why "$id")" 'Ray: the head on n1'
if [ -n "${LONG:-}" ]; then
	for victim in ray-keeper ray-node srun ray; do
		echo 'ray restart - .' >>"$W/orders"
		ok "anew" eventually 300 ray_is "$W" ready
		# shellcheck disable=SC2046 # pids
		case $victim in
		ray-keeper) kill -KILL "$(cat "$W/ray.d/keeper")" ;;
		ray-node) pkill -KILL -f "ray-node $W n1 head 2\$" ;;
		srun) pkill -KILL -f "srun --overlap .* $W/ray-node" ;;
		ray) kill -KILL $(marked) ;;
		esac
		ok "kill -9 of $victim leaves nothing" eventually 10 nothing_left
		ok "and is seen" eventually 30 ray_is "$W" failed
	done
fi
echo 'ray restart - .' >>"$W/orders"
ok "anew" eventually 300 ray_is "$W" ready
is "the session is cancelled" "$(order warm cancel) $(ended warm 60 | cut -d' ' -f1)" "ok cancelled"
ok "and nothing is left" eventually 5 nothing_left

id=$(submit 'launcher=ray nodes=2 ntasks=2 -- sleep 47900')
ok "a run's cluster" eventually 300 sh -c "pgrep -f '[s]leep 47900'"
# shellcheck disable=SC2046
kill -KILL $(named gcs/gcs_server n1)
is "without its head the run ends" "$(ended "$id" 60)" "failed -"
like "and says why" "$(why "$id")" 'the head on n1'
ok "nothing is left" eventually 5 sh -c '! pgrep -f "[s]leep 47900"'
ok "of Ray" eventually 5 nothing_left

if [ -n "${LONG:-}" ]; then
	id=$(submit 'launcher=ray nodes=2 ntasks=2 -- sleep 47901')
	ok "a run's cluster" eventually 300 sh -c "pgrep -f '[s]leep 47901'"
	is "is cancelled" "$(order "$id" cancel) $(ended "$id" 60 | cut -d' ' -f1)" "ok cancelled"
	ok "nothing is left" eventually 5 nothing_left
	id=$(submit 'launcher=ray nodes=2 ntasks=2 -- sleep 47902')
	ok "a run's cluster" eventually 300 sh -c "pgrep -f '[s]leep 47902'"
	testbed node-down n2
	ended "$id" 90
	ok "a node is lost, nothing is left" eventually 10 nothing_left
	testbed node-up n2
	if old=$("$ROOT/scripts/ray-env" 2.9 2>"$T/env.err"); then
		id=$(submit "launcher=ray nodes=2 ntasks=2 environment=venv:${old%/bin/python} ray.ray_version=2.9 -- python $T/both.py")
		is "Ray 2.9" "$(ended "$id" 300) $(cut -d' ' -f1 "$MNT/runs/$id/stdout")" "succeeded 0 2"
		ok "has no token" test ! -e "$(dir_of "$(number "$id")")/ray/token"
		ok "nothing is left" nothing_left
	fi
fi
done_testing
