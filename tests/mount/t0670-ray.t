#!/bin/bash
# ray/ and spark/ of a run, with a program in the place of what keeps such a cluster: what it writes is seen, `ready` blocks, and
# nothing of it is there for runs that have none.
# TEST_SECONDS=15
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
mount_local

fake=$T/fake
mkdir -p "$fake/logs/n1"
echo starting >"$fake/state"
echo 'its nodes are starting' >"$fake/why"

put() { # put NAME TEXT
	printf '%s\n' "$2" >"$T/new" && mv "$T/new" "$fake/$1"
}
says() { # says FILE TEXT: for eventually
	[ "$(timeout 5 cat "$MNT/runs/$id/ray/$1")" = "$2" ]
}
with_ray() { # with_ray COMMAND
	# shellcheck disable=SC2016
	printf '{"command": "%s", "launcher": "ray", "env": {"FAKE_RAY": "%s"}, "setup": "cp %s ${0%%/job}/ray-keeper"}' \
		"$1" "$fake" "$ROOT/tests/lib/fake-ray-keeper"
}

plain=$(submit "-- sleep 60")
not_ok "a run without Ray has no ray" ls -d "$MNT/runs/$plain/ray"
not_ok "nor is it listed" grep -qx ray <(ls "$MNT/runs/$plain")

draft=$(submit "hold=true launcher=ray -- true")
is "before it begins" "$(cat "$MNT/runs/$draft/ray/status" "$MNT/runs/$draft/ray/dashboard" "$MNT/runs/$draft/ray/address")" \
	"$(printf -- '-\n-\n-')"
like "why" "$(cat "$MNT/runs/$draft/ray/why")" 'Ray has not begun'
echo cancel >"$MNT/runs/$draft/ctl"
is "ready of one that never began" "$(timeout 20 cat "$MNT/runs/$draft/ray/ready")" "ended"

id=$(submit "$(with_ray 'sleep 60')")
ok "ray is listed" eventually 10 grep -qx ray <(ls "$MNT/runs/$id")
is "its files" "$(ls "$MNT/runs/$id/ray" | tr '\n' ' ')" "address available client ctl dashboard logs nodes python status version why "
ok "starting" eventually 10 says status starting
is "why" "$(cat "$MNT/runs/$id/ray/why")" "its nodes are starting"
timeout -k 1 60 cat "$MNT/runs/$id/ray/ready" >"$T/ready" 2>&1 &
reader=$!
not_ok "ready is not there without waiting" dd if="$MNT/runs/$id/ray/ready" iflag=nonblock of=/dev/null
is "poll(2) says so" "$(timeout 20 python3 -c '
import os, select, sys
f = os.open(sys.argv[1], os.O_RDONLY)
p = select.poll()
p.register(f, select.POLLIN)
print(len(p.poll(300)))' "$MNT/runs/$id/ray/ready")" 0
not_ok "the reader waits" test -s "$T/ready"

put address 10.0.0.1:6379
put dashboard 127.0.0.1:8265
put client 127.0.0.1:10001
put version 2.60.0
put nodes "$(printf 'n1 10.0.0.1 abc ALIVE 4 0\nn2 10.0.0.2 def ALIVE 4 1')"
put available 'CPU 3 of 8'
put token tok9f3a77
echo 'all good' >"$fake/logs/n1/raylet.out"
put why 'all 2 nodes are there'
put state ready
ok "ready" eventually 10 says status ready
wait $reader
is "the reader has its answer" "$(cat "$T/ready")" ready
is "address" "$(cat "$MNT/runs/$id/ray/address")" "10.0.0.1:6379"
is "version" "$(cat "$MNT/runs/$id/ray/version")" "2.60.0"
ok "nodes" eventually 10 cmp -s "$MNT/runs/$id/ray/nodes" "$fake/nodes"
is "on this machine the dashboard is where it is" "$(cat "$MNT/runs/$id/ray/dashboard")" "http://127.0.0.1:8265"
is "and so is the client" "$(cat "$MNT/runs/$id/ray/client")" "ray://127.0.0.1:10001"
is "asked again" "$(cat "$MNT/runs/$id/ray/client")" "ray://127.0.0.1:10001"
is "its size is known then" "$(stat -c %s "$MNT/runs/$id/ray/client")" 22
is "what is free" "$(cat "$MNT/runs/$id/ray/available")" "CPU 3 of 8"
put available 'CPU 8 of 8'
ok "is asked for each time" eventually 10 says available 'CPU 8 of 8'
is "the token" "$(cat "$MNT/runs/$id/ray/token")" tok9f3a77
is "is nobody else's business" "$(stat -c %a "$MNT/runs/$id/ray/token")" 400
not_ok "and not in the journal or the log" grep -rqs --exclude-dir=local tok9f3a77 "$STATE"
ok "logs of nodes" eventually 10 grep -qx 'all good' "$MNT/runs/$id/ray/logs/n1/raylet.out"
echo more >>"$fake/logs/n1/raylet.out"
ok "which grow" eventually 10 grep -qx more "$MNT/runs/$id/ray/logs/n1/raylet.out"
ok "grep -r of everything does not block" timeout 20 grep -rq ALIVE "$MNT/runs/$id"
not_ok "nothing can be written there" sh -c "echo x >$MNT/runs/$id/ray/status"
not_ok "nor made" mkdir "$MNT/runs/$id/ray/new"

kill -9 "$(cat "$STATE/worker.pid")"
ok "after a worker was killed all is there" eventually 20 says nodes "$(cat "$fake/nodes")"
put why 'the worker on n2 is dead'
put state degraded
ok "degraded" eventually 20 says status degraded
is "is ready, too" "$(timeout 20 cat "$MNT/runs/$id/ray/ready")" ready
ok "with nothing said of Ray here its client is not checked" eventually 20 says client ray://127.0.0.1:10001
rm "$fake/client"
echo cancel >"$MNT/runs/$id/ctl"
like "it ends" "$(ended "$id")" '^cancelled'
is "so does its Ray" "$(cat "$MNT/runs/$id/ray/status" "$MNT/runs/$id/ray/dashboard")" "$(printf 'ended\n-')"
is "and ready says so" "$(timeout 20 cat "$MNT/runs/$id/ray/ready")" ended

put why 'Ray 2.8 is too old'
put state failed
id=$(submit "$(with_ray 'sleep 60')")
like "one that fails" "$(timeout 30 cat "$MNT/runs/$id/ray/ready")" '^(failed Ray 2.8 is too old|ended)$'

# --- Ray Client ---

put why 'all 2 nodes are there'
put client 127.0.0.1:10001
put python 3.11.2
put state ready
for here in 2.60.0 2.60.0/3.11 2.60.0/3.11.9; do
	id=$(submit "$(with_ray 'sleep 60' | sed "s|^{|{\"ray\": {\"client\": \"$here\"}, |")")
	ok "Ray $here here" eventually 20 says status ready
	is "its client" "$(cat "$MNT/runs/$id/ray/client") $(cat "$MNT/runs/$id/ray/why")" "ray://127.0.0.1:10001 all 2 nodes are there"
	echo cancel >"$MNT/runs/$id/ctl"
done
while read -r here why; do
	id=$(submit "$(with_ray 'sleep 60' | sed "s|^{|{\"ray\": {\"client\": \"$here\"}, |")")
	ok "Ray $here here" eventually 20 says status ready
	is "no client" "$(cat "$MNT/runs/$id/ray/client") $(stat -c %s "$MNT/runs/$id/ray/client")" "- 2"
	is "and why" "$(tail -n 1 "$MNT/runs/$id/ray/why")" "$why"
	is "but a dashboard" "$(cat "$MNT/runs/$id/ray/status" "$MNT/runs/$id/ray/dashboard")" "$(printf 'ready\nhttp://127.0.0.1:8265')"
	echo cancel >"$MNT/runs/$id/ctl"
done <<END
2.59.0 Ray Client here is 2.59.0, and the cluster has Ray 2.60.0: they must be the same
2.60.0/3.1 Ray Client here is of Python 3.1, and the cluster has 3.11.2: Ray wants 3.11 of both
END
not_ok "versions are numbers" submit 'launcher=ray ray.client=new -- true'

# --- Spark ---

rm -rf "$fake"
mkdir -p "$fake/logs/n1"
put address spark://10.0.0.1:8192
put dashboard 127.0.0.1:8080
put nodes 'n1 10.0.0.1 worker-1 ALIVE 4 0'
put executors 'n1 cores 3 of 4 memory 1024 of 2048 MiB'
put version 4.0.1
put why 'all 1 nodes are there'
put token sec7d15
put state starting
echo 'a line' >"$fake/logs/n1/spark-start.log"
# shellcheck disable=SC2016
id=$(submit "$(printf '{"command": "sleep 60", "launcher": "spark", "env": {"FAKE_RAY": "%s"}, "setup": "cp %s ${0%%/job}/spark-keeper"}' \
	"$fake" "$ROOT/tests/lib/fake-ray-keeper")")
S=$MNT/runs/$id/spark
of_spark() { [ "$(timeout 5 cat "$S/$1")" = "$2" ]; }
ok "starting" eventually 10 of_spark status starting
not_ok "it has no ray" test -e "$MNT/runs/$id/ray"
is "its files" "$(ls "$S" | tr '\n' ' ')" "available ctl executors logs master nodes status ui version why "
timeout -k 1 60 cat "$S/ready" >"$T/ready" 2>&1 &
reader=$!
put state ready
wait $reader
is "who waited has the answer" "$(cat "$T/ready")" ready
is "master" "$(cat "$S/master" "$S/version" "$S/nodes")" "$(printf 'spark://10.0.0.1:8192\n4.0.1\nn1 10.0.0.1 worker-1 ALIVE 4 0')"
is "its page" "$(cat "$S/ui")" http://127.0.0.1:8080
is "executors" "$(cat "$S/executors")" 'n1 cores 3 of 4 memory 1024 of 2048 MiB'
put executors 'n1 cores 0 of 4 memory 0 of 2048 MiB'
ok "are asked for each time" eventually 10 of_spark executors 'n1 cores 0 of 4 memory 0 of 2048 MiB'
ok "logs" eventually 10 grep -qx 'a line' "$S/logs/n1/spark-start.log"
not_ok "the secret is nowhere" grep -rqs --exclude-dir=local sec7d15 "$STATE" "$MNT/runs/$id"
echo cancel >"$MNT/runs/$id/ctl"
like "it ends" "$(ended "$id")" '^cancelled'
is "so does its Spark" "$(cat "$S/status" "$S/ui" "$S/executors")" "$(printf 'ended\n-')"
done_testing
