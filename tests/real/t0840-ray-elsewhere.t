#!/bin/bash
# A Ray cluster that is there, by its Jobs REST API: real Ray, real drivers.
# TEST_SECONDS=60
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99

python=$("$ROOT/scripts/ray-env" 2>"$T/ray-env.log") || {
	diag "$(tail -n 5 "$T/ray-env.log")"
	skip_all 'Ray cannot be installed here'
}
ray=$(dirname "$python")/ray
base=$((21000 + $$ % 400 * 16))
head_pid=
R=$(mktemp -d /tmp/sr-XXXXXX) # sockets in it have at most 107 bytes
head_up() { # as Ray's own test benches do it: everything on one address of this machine
	mkdir -p "$R"
	env RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$T/token" RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 setsid "$ray" start --head \
		--block --disable-usage-stats --temp-dir="$R" --node-ip-address=127.0.0.10 --port=$base --num-cpus=1 \
		--dashboard-host=127.0.0.1 --dashboard-port=$((base + 1)) --dashboard-agent-listen-port=$((base + 2)) \
		--ray-client-server-port=$((base + 3)) --min-worker-port=0 --max-worker-port=0 --object-store-memory=80000000 \
		>>"$T/head.log" 2>&1 </dev/null &
	head_pid=$!
	tap_pids="$tap_pids $head_pid"
}
head_down() {
	kill -TERM "$head_pid" 2>/dev/null
	eventually 20 gone "$head_pid" || kill -KILL -- "-$head_pid" 2>/dev/null
}
gone() { ! kill -0 "$1" 2>/dev/null; }
of_head() { # of_head NAME: the process of our head, by its session's directory
	pgrep -f "$1.*$R/" | head -n 1
}
api() { # api METHOD PATH
	timeout 10 curl -s -X "$1" -H "Authorization: Bearer $(cat "$T/token")" "http://127.0.0.1:$((base + 1))$2"
}
up() { timeout 5 grep -qx 'link up' "$MNT/clusters/lab/status"; }
sid() { cat "$MNT/runs/$1/job_id"; }
run_sh() { # run_sh FILE KEY...: a run of a script, whatever bytes it prints
	submit "{\"command\": [\"/bin/bash\", \"$1\"]${2:+, $2}}"
}
(umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$T/token")
trap 'head_down; rm -rf "$R"; tap_exit' EXIT
head_up
# shellcheck disable=SC2119
mount_local <<END_OF_CONFIG
[cluster lab]
type = ray
address = http://127.0.0.1:$((base + 1))
token_file = $T/token
END_OF_CONFIG

early=$(submit 'echo early; exit 3')
ok "a run that was written before the head was there waits" eventually 10 is_now "$early" submitting
ok "the head comes up" eventually 60 up
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
ok "unmounts" stop_mount
head_down
done_testing
