#!/bin/bash
# A Ray cluster that is there, by its Jobs REST API: real Ray, real drivers.
# TEST_SECONDS=150
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/ray-head.sh" || exit 99
need_ray
head_up
export SLURMRAY_RAY_IDLE=15 # of what is booted here; it is said every 5 s that it is wanted
mount_local <<END_OF_CONFIG
[defaults]
cluster = lab
[cluster lab]
type = ray
address = http://127.0.0.1:$((base + 1))
token_file = $T/token
[cluster mine]
type = ray
start = $ray
ray.num_cpus_per_node = 3
[cluster broken]
type = ray
start = /bin/false
END_OF_CONFIG

early=$(submit 'echo early; exit 3')
ok "a run that was written before the head was there waits" eventually 10 is_now "$early" submitting
ok "the head comes up" eventually 200 up
ok "its node is there" head_ready lab
[ "$head_tries" = 1 ] || early=$(submit 'echo early; exit 3') # that one went with the head
is "and then it runs" "$(ended "$early" 60)" "failed 3"
is "its output" "$(cat "$MNT/runs/$early/stdout")" early
like "the cluster says what it is" "$(cat "$MNT/clusters/lab/info")" 'session_name'
like "nodes" "$(cat "$MNT/clusters/lab/nodes")" '127.0.0.10'

cat >"$T/bytes.sh" <<'END_OF_SCRIPT'
printf 'a\377b\n'
head -c 6000000 /dev/zero | tr '\0' x
echo; echo err >&2
mkdir "$SLURMRAY_RESULTS/d"; head -c 3000000 /dev/urandom >"$SLURMRAY_RESULTS/d/data"
md5sum <"$SLURMRAY_RESULTS/d/data" >"$SLURMRAY_RESULTS/sum"
END_OF_SCRIPT
id=$(run_sh "$T/bytes.sh" "\"ray\": {\"metadata\": {\"team\": \"blue\"}}")
is "a byte that is no text, and a line of 6 MB" "$(ended "$id")" "succeeded 0"
is "byte by byte" "$(md5sum <"$MNT/runs/$id/stdout")" "$( (printf 'a\377b\n'; head -c 6000000 /dev/zero | tr '\0' x; echo) | md5sum)"
is "stderr" "$(cat "$MNT/runs/$id/stderr")" err
is "results" "$(timeout 20 md5sum <"$MNT/runs/$id/results/d/data")" "$(timeout 20 cat "$MNT/runs/$id/results/sum")"
like "metadata" "$(api GET "/api/jobs/$(sid "$id")")" '"team": "blue"'

mkdir "$T/wd"
echo 'import sys; print("module", sys.argv[1])' >"$T/wd/prog.py"
id=$(submit "ray.working_dir=$T/wd -- $python prog.py one")
is "a working directory travels" "$(ended "$id" 60)" "succeeded 0"
is "and is where the command is" "$(cat "$MNT/runs/$id/stdout")" "module one"
not_ok "a key of runtime_env that Ray would ignore" submit '{"command": "true", "ray": {"runtime_env": {"env_var": {}}}}'
like "is named, with the nearest" "$(tail -n 1 "$MNT/errors")" "env_vars"

id=$(submit 'trap "" TERM; echo on; sleep 60')
ok "a run is running" running "$id"
echo cancel >"$MNT/runs/$id/ctl"
like "cancel" "$(ended "$id")" "cancelled"
id=$(submit 'echo on; sleep 60')
running "$id"
api POST "/api/jobs/$(sid "$id")/stop" >/dev/null
like "stopped by somebody else" "$(ended "$id")" "cancelled"
like "why says so" "$(why "$id")" "outside"

# --- what breaks ---

# shellcheck disable=SC2016 # the job expands it
id=$(submit "$(printf '{"command": "echo x >>%s/ran; for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"}' "$T")")
running "$id"
kill -KILL "$(cat "$STATE/worker.pid")"
is "the worker is killed" "$(ended "$id")" "succeeded 0"
is "nothing is lost or doubled" "$(tr '\n' ' ' <"$MNT/runs/$id/stdout")" "1 2 3 4 5 6 7 8 "
is "one payload" "$(wc -l <"$T/ran")" 1

# shellcheck disable=SC2016 # the job expands it
id=$(submit "$(printf '{"command": "echo said; echo $$ >%s/pid; sleep 300"}' "$T")")
running "$id"
eventually 10 contains "$MNT/runs/$id/stdout" said
gcs=$(of_head gcs_server)
kill -KILL "$gcs"
eventually 20 gone "$head_pid"
ok "without its head no payload goes on" eventually 30 gone "$(cat "$T/pid")"
is "a head that does not answer is no end" "$(grep -cx -e running -e unknown "$MNT/runs/$id/status")" 1
head_up
like "a head that was restarted is" "$(ended "$id" 90)" "node_failed"
like "and it is told as that" "$(why "$id")" "restarted"
is "what was printed before is here" "$(cat "$MNT/runs/$id/stdout")" said
id=$(submit 'echo again')
is "the next run" "$(ended "$id" 60)" "succeeded 0"
head_down

# --- on this machine ---

id=$(submit 'cluster=broken -- true')
ok "a Ray that does not start is told" eventually 40 contains "$MNT/clusters/broken/status" 'Ray did not start on this machine'
like "why of the run says it, too" "$(why "$id")" 'did not start'
echo cancel >"$MNT/runs/$id/ctl"
like "it can be called off" "$(ended "$id")" '^cancelled'
for try in 1 2 3; do # Ray has limits of its own, which a busy machine may exceed
	id=$(submit 'cluster=mine ray.object_store_memory=90000000 -- echo here; sleep 1')
	end=$(ended "$id" 200)
	[ "$end" != "succeeded 0" ] || break
	diag "try $try: $end: $(why "$id"); $(cat "$MNT/clusters/mine/status")" "$(tail -n 12 "$STATE/ray/mine/keeper.log")" \
		"$(tail -n 5 "$(sed -n 's/.*--temp-dir \([^ ]*\).*/\1/p' "$STATE/ray/mine/keeper.log" | head -n 1)"/session_latest/logs/raylet.err 2>&1)"
	echo cancel >"$MNT/runs/$id/ctl"
done
is "the first run boots a Ray cluster" "$end" "succeeded 0"
is "its output" "$(cat "$MNT/runs/$id/stdout")" here
like "as large as the section says" "$(cat "$MNT/clusters/mine/nodes.json")" '"CPU": 3(\.0)?'
like "and the run" "$(cat "$MNT/clusters/mine/nodes.json")" '"object_store_memory": 90000000'
keeper=$(pgrep -f "slurmray-ray $ray $STATE/ray/mine " | head -n 1)
echo "cluster=local name=here cpus_per_task=1 idle=0 time=20 ray=true environment=venv:${python%/bin/python}" >"$MNT/sessions/new"
id=$(submit "session=here launcher=ray environment=venv:${python%/bin/python} -- python -c 'import ray; ray.init(); print(len(ray.nodes()))'")
is "a session of this machine with Ray" "$(ended "$id" 200) $(tail -n 1 "$MNT/runs/$id/stdout")" "succeeded 0 1"
echo stop >"$MNT/sessions/here/ctl"
is "its end" "$(timeout 60 cat "$MNT/sessions/here/wait")" "succeeded 0"
ok "unmounts" stop_mount
ok "a while after the last run it ends by itself" eventually 60 gone "$keeper"
ok "and leaves nothing behind" eventually 10 test ! -e "$STATE/ray/mine/address"
done_testing
