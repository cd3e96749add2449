#!/bin/bash
# Ray in allocations of real Slurm, and what is killed around it. Always: all of slurmray on this machine, for good; sessions
# with and without Ray come to their ends inside their allocations. With LONG=1 everything else in turn. After each end
# nothing of the cluster is left: no process, no port, no directory (tests/lib/left.py).
# TEST_SECONDS=40
# TEST_TIMEOUT=3000
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/ray.sh" || exit 99
mount_ray

# begin N: a run of two nodes whose command sleeps N seconds; leaves $id and its directory $D.
begin() {
	id=$(submit "launcher=ray nodes=2 ntasks=2 cpus_per_task=2 grace=2 -- sleep $1")
	ok "a run's cluster is up" eventually 600 pgrep -f "^sleep $1\$"
	D=$(dir_of "$(number "$id")")
	note "$D" >"$T/noted"
	like "two nodes" "$(cat "$T/noted")" '^[0-9]+ processes, [0-9]+ ports, /tmp/sr-[^ ]* /tmp/sr-'
}
over() { # over WHAT STATUS [PATTERN]: the end of that run
	is "$1" "$(ended "$id" 90 | cut -d' ' -f1)" "$2"
	all_gone "nothing is left" "$D"
	[ $# -lt 3 ] || like "and why says" "$(why "$id")" "$3"
}
anew() {
	echo 'ray restart - .' >>"$W/orders"
	ok "anew" eventually 30 sh -c "! grep -q -e failed -e degraded '$W/ray/state'"
	ok "it is whole" eventually 600 ray_is "$W" ready
	note "$W" >/dev/null
}
mount_again() {
	umount -l "$MNT"
	start_mount "$MNT" "$T/config" "$STATE"
}
kill_slurmray() { # the keeper first, or there would be another worker
	kill -KILL "$mount_pid" "$(cat "$STATE/worker.pid")"
	eventually 10 sh -c "! pgrep -f '[s]lurmray mount $MNT'"
}

if [ -n "${LONG:-}" ]; then
	# --- a session ---

	mkdir "$MNT/runs/warm"
	echo 'launcher=session nodes=2 ntasks=2 cpus_per_task=2 idle=0 ray=true grace=2' >"$MNT/runs/warm/spec"
	running warm
	W=$(dir_of "$(number warm)")
	ok "a session's cluster is up" eventually 600 ray_is "$W" ready
	note "$W" >/dev/null
	at=$(cat "$W/ray/address")
	id=$(submit "session=warm launcher=ray -- sleep 4; python $T/both.py")
	running "$id"
	kill -KILL "$(cat "$STATE/worker.pid")"
	is "slurmray's worker is killed: a run in it goes on" "$(ended "$id" 120) $(cat "$MNT/runs/$id/stdout")" "succeeded 0 2 $at"
	id=$(submit "session=warm launcher=ray -- sleep 4; python $T/both.py")
	running "$id"
	kill_slurmray
	mount_again
	is "the whole mount is killed, and comes back: so does its run" "$(ended "$id" 120) $(cat "$MNT/runs/$id/stdout")" "succeeded 0 2 $at"
	is "Ray did not notice" "$(cat "$W/ray/state")" ready
	for victim in keeper node guards srun ray raylet; do
		# shellcheck disable=SC2046 # pids
		case $victim in
		keeper) kill -KILL "$(cat "$W/ray.d/keeper")" ;;
		node) kill -KILL $(pgrep -f "ray-node $W n1 head [0-9]*\$") ;;
		guards) kill -KILL $(pgrep -f "ray-node $W n1 head ") ;; # and what they guard
		srun) kill -KILL $(pgrep -f "srun --overlap .* $W/ray-node") ;;
		ray) kill -KILL $(marked) ;;
		raylet) kill -KILL $(named raylet/raylet n1) ;;
		esac
		ok "kill -9 of $victim is seen" eventually 30 ray_is "$W" failed
		like "with a sentence" "$(cat "$W/ray/why")" '^(the head on n1 |what kept the cluster was killed)'
		all_gone "and leaves nothing" "$W"
		id=$(submit 'session=warm launcher=ray -- true')
		is "runs fail" "$(ended "$id")" "failed -"
		anew
	done
	for victim in node guards ray; do
		# shellcheck disable=SC2046 # pids
		case $victim in
		node) kill -KILL $(pgrep -f "ray-node $W n2 worker [0-9]*\$") ;;
		guards) kill -KILL $(pgrep -f "ray-node $W n2 worker ") ;;
		ray) kill -KILL $(marked n2) ;;
		esac
		ok "kill -9 of $victim of the worker is seen" eventually 30 ray_is "$W" degraded
		like "by name" "$(cat "$W/ray/why")" '^the worker on n2 '
		ok "nothing of it is left there" eventually 60 sh -c "! grep -alsF '@n2;' /proc/[0-9]*/environ | grep -q ."
		is "runs go on" "$(ended "$(submit 'session=warm launcher=ray -- true')")" "succeeded 0"
		anew
	done
	is "it is cancelled" "$(order warm cancel) $(ended warm 60 | cut -d' ' -f1)" "ok cancelled"
	all_gone "and nothing is left" "$W"

	# --- runs ---

	begin 47911
	is "a run is cancelled" "$(order "$id" cancel)" ok
	over "it ends" cancelled
	begin 47912
	kill -KILL "$(cat "$D/ray.d/keeper")"
	over "kill -9 of the keeper ends the run" failed 'what kept the cluster was killed'
	begin 47913
	# shellcheck disable=SC2046 # pids
	kill -KILL $(named raylet/raylet n1)
	over "kill -9 of the head's raylet ends it" failed 'the head on n1 '
	begin 47914
	# shellcheck disable=SC2046
	kill -KILL $(named raylet/raylet n2)
	ok "kill -9 of a worker's raylet" eventually 30 ray_is "$D" degraded
	is "does not" "$(word "$id")" running
	pkill -KILL -f '^sleep 47914$'
	over "kill -9 of the command does" failed 'SIGKILL'
	begin 47915
	kill_slurmray
	mount_again
	is "the whole mount is killed" "$(word "$id")" running
	pkill -TERM -f '^sleep 47915$'
	over "the run ends by itself" failed 'SIGTERM'

	# --- nodes ---

	for node in n2 n1; do
		begin 47916
		testbed node-down $node
		over "$node is lost" node_failed
		testbed node-up $node
		begin 47917
		kill -KILL "$(cat "$TESTBED_DIR/run/slurmd-$node.pid")"
		# Of the first node, whose processes live, Slurm's word and the run's record may come in any order.
		like "slurmd of $node is killed, what it started lives: an end" "$(ended "$id" 120)" '^(node_failed|failed) '
		like "and why names the node" "$(why "$id")" '(node|on n[12] )'
		all_gone "nothing is left" "$D"
		testbed node-up $node
	done
fi

# --- a laptop that is closed and stays so ---

echo 'name=leased ntasks=1 cpus_per_task=1 time=20 idle=0 scope=lease' >"$MNT/sessions/new"
echo 'name=lap nodes=2 ntasks=2 cpus_per_task=2 time=20 idle=0:00:03 ray.dashboard=false' >"$MNT/sessions/new"
id=$(submit "session=lap launcher=ray -- touch $T/begun; sleep 5; python $T/both.py; echo over")
echo ttl 600 >"$MNT/sessions/leased/leases/me"
ok "a session with Ray, and a run in it" eventually 600 test -e "$T/begun"
D=$(dir_of "$(cat "$MNT/sessions/lap/run")")
L=$(dir_of "$(cat "$MNT/sessions/leased/run")")
note "$D" >/dev/null
echo ttl 6 >"$MNT/sessions/leased/leases/me"
ok "another one has a lease of a few seconds" eventually 20 sh -c "awk '\$1 == \"me\" && \$2 < 10 { n = 1 } END { exit !n }' '$L/leases'"
ok "all of slurmray is killed here" kill_slurmray
umount -l "$MNT"
is "both go on" "$(admin squeue -h -o %T | sort -u)" RUNNING
ended_there() { [ -e "${1%/runs/*}/ends/$(basename "$(dirname "$1")").a1" ]; }
ok "the run comes to its end" eventually 200 contains "$DEMO_HOME/.slurmray/$(basename "${D%/runs/*}")/runs/$id/a1/stdout" over
ok "then the session ends by its idle limit" eventually 100 ended_there "$D"
all_gone "nothing of Ray is left on the nodes" "$D"
ok "the other one ends by its lease" eventually 100 ended_there "$L"
ok "Slurm has no job any more" eventually 60 sh -c "[ -z \"\$(SLURM_CONF='$TESTBED_DIR/slurm.conf' squeue -h)\" ]"
ok "and no process of theirs is left" eventually 30 sh -c "! pgrep -af '$DEMO_HOME/[.]slurmray/'"
start_mount "$MNT" "$T/config" "$STATE"
is "the laptop is opened: all have ended well" "$(ended "$id") $(timeout 60 cat "$MNT/sessions/lap/wait") $(timeout 60 cat "$MNT/sessions/leased/wait")" \
	"succeeded 0 succeeded 0 succeeded 0"
like "with what the run printed" "$(cat "$MNT/runs/$id/stdout")" '^2 [0-9.]*:[0-9]*$'
like "and why they ended" "$(cat "$MNT/sessions/lap/log" "$MNT/sessions/leased/log" | tr '\n' ' ')" 'idle for 3 s .*last lease is gone'
done_testing
