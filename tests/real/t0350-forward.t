#!/bin/bash
# Ports of the cluster through the SSH connection: every byte, many at once, while the login node goes away and comes
# back, while workers are killed, and where the server forbids forwarding.
# TEST_SECONDS=30
# TEST_TIMEOUT=300
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
command -v python3 >/dev/null || skip_all "there is no python3"
mount_demo
peer="python3 $ROOT/tests/lib/forward.py"

verb() { # verb RUN LINE: what reading the descriptor gives
	timeout -k 2 60 bash -c 'exec 3<>"$1" && echo "$2" >&3 && read -r answer <&3; echo "$answer"' - \
		"$MNT/runs/$1/ctl" "$2" 2>&1
}
port_of() { # port_of ANSWER
	echo "${1##*:}"
}
info_says() { # info_says RUN REGEXP
	grep -qE -- "$2" "$MNT/runs/$1/info"
}

run=$(submit "-- exec $peer server")
ok "a job that listens" eventually 30 sh -c "grep -q '^[0-9]' $MNT/runs/$run/stdout"
there=$(head -1 "$MNT/runs/$run/stdout")
[ -n "$there" ] || diag "$(cat "$MNT/runs/$run/status" "$MNT/runs/$run/why" "$MNT/runs/$run/log")"
answer=$(verb "$run" "forward 127.0.0.1:$there")
like "forward says where to go" "$answer" '^ok 127\.0\.0\.1:[0-9]+$'
port=$(port_of "$answer")
is "asked again it is the same" "$(verb "$run" "forward 127.0.0.1:$there")" "$answer"
ok "info lists it" info_says "$run" "^forward:127.0.0.1:$there 127.0.0.1:$port\$"
TAP_TIMEOUT=100
is "100 MB to here" "$(timeout -k 2 90 $peer down "$port" 100000000)" True
is "100 MB to there" "$(timeout -k 2 90 $peer up "$port" 100000000)" True
is "50 connections at once" "$(timeout -k 2 90 $peer many "$port" 50 200000)" 50
is "while one waits, the log is read and ctl answers" "$(verb "$run" refresh)" "ok"

# --- the login node goes away ---

timeout -k 2 120 $peer hold "$port" "$T/held" >"$T/held.out" 2>&1 &
held=$!
ok "one is open" eventually 20 grep -q open "$T/held"
ok "the login node goes away" testbed sshd-stop
ok "the open connection is cut" eventually 20 grep -qE 'reset|end' "$T/held"
wait $held
ok "it comes back" testbed sshd-start
ok "so does the link" eventually 70 link_is up
is "and the same port works" "$(timeout -k 2 90 $peer echo "$port" 1000000)" True
ok "info has no trouble" eventually 20 sh -c "! grep -q forward_trouble $MNT/runs/$run/info"

# --- the worker is killed ---

kill -9 "$(cat "$STATE/worker.pid")"
is "after a worker was killed the same port works" "$(eventually 30 sh -c "timeout 20 $peer echo $port 1000000 | grep -qx True" && echo yes)" yes
is "which is the same in info" "$(verb "$run" "forward 127.0.0.1:$there")" "ok 127.0.0.1:$port"

# --- nobody there; a node whose name the server does not know ---

free=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
dead=$(port_of "$(verb "$run" "forward 127.0.0.1:$free")")
like "where nobody listens the connection is cut" "$(timeout -k 2 30 $peer echo "$dead" 1)" 'failed|False'
ok "and info says why" eventually 20 info_says "$run" '^forward_trouble 127.0.0.1:[0-9]+: the server cannot connect'
like "a port alone is one of the first node" "$(verb "$run" "forward $there")" '^ok 127\.0\.0\.1:[0-9]+$'
like "what is no place is refused" "$(verb "$run" "forward a b")" 'Invalid argument|no host|no port'
is "unforward" "$(verb "$run" "unforward 127.0.0.1:$there")" "ok"
like "closes the port" "$(timeout -k 2 30 $peer echo "$port" 1)" 'failed: .*refused'

# --- the end of the run ---

port=$(port_of "$(verb "$run" "forward 127.0.0.1:$there")")
is "again" "$(timeout -k 2 90 $peer echo "$port" 1000)" True
echo cancel >"$MNT/runs/$run/ctl"
like "the run ends" "$(ended "$run")" '^cancelled'
like "and its ports with it" "$(timeout -k 2 30 $peer echo "$port" 1)" 'failed: .*refused'
not_ok "info does not speak of them" grep -q '^forward' "$MNT/runs/$run/info"

# --- a Ray cluster's directory, with a program in the place of what keeps it ---

fake=$DEMO_HOME/fake
mkdir -p "$fake/logs/n1"
echo starting >"$fake/state"
echo 'words of a log' >"$fake/logs/n1/raylet.out"
# shellcheck disable=SC2016
run=$(submit "$(printf '{"command": "exec %s server", "launcher": "ray", "env": {"FAKE_RAY": "%s"}, "setup": "cp %s ${0%%/job}/ray-keeper"}' \
	"$peer" "$fake" "$ROOT/tests/lib/fake-ray-keeper")")
timeout -k 1 60 cat "$MNT/runs/$run/ray/ready" >"$T/ready" 2>&1 &
reader=$!
ok "ray/status comes" eventually 30 grep -qx starting "$MNT/runs/$run/ray/status"
free=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
python3 -m http.server --bind 127.0.0.1 --directory "$fake" "$free" >/dev/null 2>&1 &
web=$!
echo "127.0.0.1:$free" >"$fake/dashboard"
echo 'n1 127.0.0.1 abc ALIVE 2 0' >"$fake/nodes"
echo 'CPU 2 of 2' >"$fake/available"
echo ready >"$fake/state"
wait $reader
is "ready answers" "$(cat "$T/ready")" ready
ok "nodes" eventually 20 grep -qx 'n1 127.0.0.1 abc ALIVE 2 0' "$MNT/runs/$run/ray/nodes"
url=$(cat "$MNT/runs/$run/ray/dashboard")
like "dashboard is a URL of this machine" "$url" '^http://127\.0\.0\.1:[0-9]+$'
isnt() { if [ "$2" != "$3" ]; then pass "$1"; else fail "$1" "$2"; fi; }
isnt "of another port" "${url##*:}" "$free"
is "which works" "$(timeout 20 python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1] + "/nodes").read().decode(), end="")' "$url")" \
	'n1 127.0.0.1 abc ALIVE 2 0'
is "what is free" "$(cat "$MNT/runs/$run/ray/available")" 'CPU 2 of 2'
ok "logs of the node" eventually 20 grep -qx 'words of a log' "$MNT/runs/$run/ray/logs/n1/raylet.out"
kill -9 "$(cat "$STATE/worker.pid")"
is "the same URL after a worker was killed" "$(cat "$MNT/runs/$run/ray/dashboard")" "$url"
echo cancel >"$MNT/runs/$run/ctl"
like "it ends" "$(ended "$run")" '^cancelled'
is "and nothing leads there" "$(cat "$MNT/runs/$run/ray/status" "$MNT/runs/$run/ray/dashboard")" "$(printf 'ended\n-')"
kill $web

# --- a server that forbids it ---

sshd_config=$(echo "$TESTBED_DIR"/ssh/sshd_config)
ok "AllowTcpForwarding no" sh -c "echo 'AllowTcpForwarding no' >>$sshd_config"
testbed sshd-stop && testbed sshd-start
ok "the link is back" eventually 70 link_is up
run=$(submit "-- exec $peer server")
ok "another job that listens" eventually 30 sh -c "grep -q '^[0-9]' $MNT/runs/$run/stdout"
there=$(head -1 "$MNT/runs/$run/stdout")
port=$(port_of "$(verb "$run" "forward 127.0.0.1:$there")")
is "10 MB each way by a program there" "$(timeout -k 2 90 $peer echo "$port" 10000000)" True
is "20 at once, a few at a time" "$(timeout -k 2 90 $peer many "$port" 20 50000)" 20
echo cancel >"$MNT/runs/$run/ctl"
like "it ends" "$(ended "$run")" '^cancelled'
done_testing
