#!/bin/bash
# Ray clusters on the other side of a network that breaks: through SSH and straight, each behind a proxy. Real Ray, real sshd.
# TEST_SECONDS=170
# TEST_TIMEOUT=3000
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/ray-head.sh" || exit 99
need_proxy
need_ray
if [ -n "${LONG:-}" ]; then
	away=60 kills=200 megabytes=100
else
	away=12 kills=10 megabytes=20
fi

running() { # Ray takes its time on a busy machine
	local id
	for id in "$@"; do
		eventually 200 is_now "$id" running || return 1
	done
}

# Two proxies: `network` and `net` of faults.sh speak to the one that $way names.
in_background "$PROXY" 0 $((base + 8)) --stats "$T/stats.ssh" --control "$T/control.ssh"
in_background "$PROXY" 0 $((base + 1)) --stats "$T/stats.http" --control "$T/control.http"
eventually 10 test -s "$T/stats.ssh" -a -s "$T/stats.http"
way=ssh
net() { # net KEY: a counter
	sleep 0.02
	sed -n "s/^$1 //p" "$T/stats.$way"
}
network() { # network COMMAND: and waits until it has taken effect
	local n
	n=$(net commands)
	echo "$1" >"$T/control.$way"
	eventually 5 net_is commands $((n + 1))
}
head_up
ok "sshd" ssh_up "$(net port)" </dev/null
far_port=$(net port)
mount_local <<END_OF_CONFIG
[defaults]
cluster = far
[cluster far]
type = ray
host = gate
ssh_config = $T/ssh/config
address = localhost:$((base + 1))
token_file = $T/token
[cluster near]
type = ray
address = http://127.0.0.1:$(way=http && net port)
token_file = $T/token
END_OF_CONFIG
doctor() { # doctor [CLUSTER]: its findings of clusters
	timeout -k 5 60 slurmray doctor --state "$STATE" --config "${2:-$T/config}" "$1" 2>&1 | grep -v ' mount\(ed\)\? on '
}

early=$(submit 'echo early; exit 3')
ok "a run that was written before the head was there waits" eventually 10 is_now "$early" submitting
like "the cluster says why, in the server's words" "$(eventually 20 contains "$MNT/clusters/far/status" 'gate sees it' && cat "$MNT/clusters/far/status")" \
	'^text http://localhost:[0-9]+, as gate sees it: .*nothing listens there'
like "doctor says what to do" "$(doctor far)" '^bad  gate: .*nothing listens there.*`address` is the dashboard as that host sees it'
like "also of the way without SSH" "$(doctor near)" '^bad  cluster near: the dashboard .*cannot be reached.*host = NAME'
ok "the head comes up" eventually 90 up far
ok "and straight" eventually 90 up near
ok "its node is there" head_ready far
[ "$head_tries" = 1 ] || early=$(submit 'echo early; exit 3') # that one went with the head
is "and then it runs" "$(ended "$early" 300)" "failed 3"
is "its output" "$(cat "$MNT/runs/$early/stdout")" early
like "the cluster says how it is reached" "$(cat "$MNT/clusters/far/status")" '^text Ray 2[0-9.]+ at http://localhost:[0-9]+ by libssh2 .*@'

# --- doctor ---

out=$(doctor far)
unlike "doctor finds nothing bad about it" "$out" '^bad'
like "the login" "$out" '^ok   gate: logged in after [0-9]+ ms: libssh2'
like "the head" "$out" '^ok   gate: Ray 2[0-9.]+ at http://localhost:[0-9]+, session_'
like "the token" "$out" '^ok   gate: the Jobs API answers, and takes the token'
like "an agent that a job was on" "$out" "^ok   gate: the agent of a node, http://127.0.0.10:$((base + 2)), gives its logs"
unlike "straight: nothing bad" "$(doctor near)" '^bad'
sed '/^token_file/d' "$T/config" >"$T/config.none"
like "no token" "$(doctor near "$T/config.none")" '^bad  cluster near: the head wants a token .*token_file = FILE'
sed "s,^token_file.*,token = wrong," "$T/config" >"$T/config.wrong"
like "another token" "$(doctor far "$T/config.wrong")" '^bad  gate: the head refuses the token'
sed "s,^address = http:,address = https:," "$T/config" >"$T/config.tls"
like "no TLS there" "$(doctor near "$T/config.tls")" '^bad  cluster near: .*(SSL|TLS|certificate)'
sed "s,^address = .*,address = 127.0.0.1:$((base + 8))," "$T/config" >"$T/config.other"
like "something else" "$(doctor near "$T/config.other")" '^bad  cluster near: '
ssh-keygen -q -t ed25519 -N '' -f "$T/stranger"
sed "s,IdentityFile.*,IdentityFile $T/stranger," "$T/ssh/config" >"$T/ssh/config.stranger"
sed "s,^ssh_config.*,ssh_config = $T/ssh/config.stranger," "$T/config" >"$T/config.stranger"
like "a key that is refused" "$(doctor far "$T/config.stranger")" '^bad  gate: .*stranger'

# --- bytes ---

cat >"$T/bytes.sh" <<'END_OF_SCRIPT'
printf 'a\377b\n'
head -c 6000000 /dev/zero | tr '\0' x
echo; echo err >&2
mkdir "$SLURMRAY_RESULTS/d"; head -c 3000000 /dev/urandom >"$SLURMRAY_RESULTS/d/data"
md5sum <"$SLURMRAY_RESULTS/d/data" >"$SLURMRAY_RESULTS/sum"
END_OF_SCRIPT
id=$(run_sh "$T/bytes.sh")
is "through SSH: a byte that is no text, and a line of 6 MB" "$(ended "$id" 300)" "succeeded 0"
is "byte by byte" "$(md5sum <"$MNT/runs/$id/stdout")" "$( (printf 'a\377b\n'; head -c 6000000 /dev/zero | tr '\0' x; echo) | md5sum)"
is "stderr" "$(cat "$MNT/runs/$id/stderr")" err
is "results" "$(timeout 40 md5sum <"$MNT/runs/$id/results/d/data")" "$(timeout 20 cat "$MNT/runs/$id/results/sum")"
is "a directory of results" "$(timeout 20 ls "$MNT/runs/$id/results")" "$(printf 'd\nsum')"
is "one login, with all this" "$(net open)" 1

# What a log costs: all bytes of the connection from the server, encryption and polling included.
before=$(net server_bytes)
id=$(submit "head -c ${megabytes}000000 /dev/urandom | base64 -w 100 | head -c ${megabytes}000000")
is "a log of $megabytes MB" "$(ended "$id" 300)" "succeeded 0"
is "is here whole" "$(timeout 200 cat "$MNT/runs/$id/log.follow" | wc -c)" "${megabytes}000000"
cost=$((($(net server_bytes) - before) / (megabytes * 10000)))
diag "$megabytes MB of log cost $cost % of their bytes"
ok "for at most 1.1 times its bytes" test $cost -le 110

cat >"$T/latency.py" <<'END_OF_SCRIPT'
import sys, time
late = sorted(time.time() - float(line) for line in open(sys.argv[1]) if line.strip())
print('%d lines, after %.3f s in the middle, %.3f s at most' % (len(late), late[len(late) // 2], late[-1]))
END_OF_SCRIPT
for cluster in far near; do
	id=$(submit "cluster=$cluster -- for i in \$(seq 40); do date +%s.%N; sleep 0.2; done")
	diag "log.follow of $cluster: $(timeout 300 python3 -u "$T/latency.py" "$MNT/runs/$id/log.follow")"
	is "every line of it" "$(ended "$id" 300) $(wc -l <"$MNT/runs/$id/log")" "succeeded 0 40"
done

# --- cuts ---

counting() { # counting CLUSTER SECONDS: a run that counts, and says once that it began
	submit "cluster=$1 -- echo x >>$T/began.$1.$2; for i in \$(seq $(($2 * 5))); do echo \$i; sleep 0.2; done; echo done >&2; exit 4"
}
counted() { # counted CLUSTER SECONDS ID: all of it, and once
	is "$1: it ends with its code" "$(ended "$3" $(($2 + 300)))" "failed 4"
	ok "$1: nothing is lost or doubled" sh -c "seq $(($2 * 5)) | cmp - $MNT/runs/$3/stdout && [ \"\$(cat $MNT/runs/$3/stderr)\" = done ]"
	is "$1: it ran once" "$(wc -l <"$T/began.$1.$2")" 1
}
for way in ssh http; do
	case $way in ssh) cluster=far ;; http) cluster=near ;; esac
	id=$(counting $cluster 8)
	running "$id"
	network refuse
	network cut
	sleep 1.5
	waits=$(submit "cluster=$cluster -- echo meanwhile")
	at_once "$cluster, 1.5 s without a network: no reader waits" cat "$MNT/runs/$id/log" "$MNT/runs/$id/status"
	network go
	counted $cluster 8 "$id"
	is "$cluster: what was submitted meanwhile runs" "$(ended "$waits" 300)" "succeeded 0"

	id=$(counting $cluster $((away + 8)))
	short=$(submit "cluster=$cluster -- sleep $((away / 3)); echo one >\$SLURMRAY_RESULTS/one; echo two")
	running "$id" "$short"
	network stall
	sleep $((away / 2))
	network refuse
	network cut
	timeout -k 1 $((away + 300)) cat "$MNT/runs/$short/log.follow" >"$T/follow.$way" 2>"$T/follow.err" &
	follow=$!
	waits=$(submit "cluster=$cluster -- echo meanwhile")
	sleep $((away / 2))
	like "$cluster, $away s without: the link is down, and says why" "$(cat "$MNT/clusters/$cluster/status")" \
		'^text .*(refused|reset|closed|ended|timed|Connection|connect)'
	[ $away -lt 60 ] || is "$cluster: the run is unknown, not ended" "$(word "$id")" unknown
	network go
	[ $way = http ] || echo reconnect >"$MNT/clusters/far/ctl" # else up to a minute of back-off
	is "$cluster: what ended meanwhile has its end" "$(ended "$short" 300)" "succeeded 0"
	wait $follow
	is "$cluster: its log came to who waited for it" "$(cat "$T/follow.$way" "$T/follow.err")" two
	is "$cluster: its result is here" "$(timeout 40 cat "$MNT/runs/$short/results/one")" one
	counted $cluster $((away + 8)) "$id"
	is "$cluster: what was submitted meanwhile ran" "$(ended "$waits" 300)" "succeeded 0"
done
way=ssh

# --- a login that is refused ---

mv "$T/ssh/authorized_keys" "$T/ssh/authorized_keys.away"
network cut
refused() { grep -qx 'link refused' "$MNT/clusters/far/status"; }
ok "a key that the server does not take any more is refused" eventually 70 refused
like "the sentence names the key" "$(cat "$MNT/clusters/far/status")" '^text .*ssh/id'
network reset
waits=$(submit 'echo refused')
sleep 3
is "nothing more is tried" "$(net connections)" 0
mv "$T/ssh/authorized_keys.away" "$T/ssh/authorized_keys"
echo reconnect >"$MNT/clusters/far/ctl"
is "with the key back it goes on" "$(ended "$waits" 300)" "succeeded 0"

# --- a server that forbids forwarding ---

ssh_down
ok "AllowTcpForwarding no" ssh_up "$far_port" <<<'AllowTcpForwarding no'
network cut
id=$(run_sh "$T/bytes.sh")
is "a program there carries the bytes" "$(ended "$id" 300)" "succeeded 0"
is "all of them" "$(wc -c <"$MNT/runs/$id/stdout")" 6000005
is "results" "$(timeout 60 md5sum <"$MNT/runs/$id/results/d/data")" "$(timeout 40 cat "$MNT/runs/$id/results/sum")"
ssh_down
ok "forwarding again" ssh_up "$far_port" </dev/null
network cut

# --- kills of worker and link, at any moment ---

RANDOM=${SEED:-$$}
diag "SEED=${SEED:-$$}"
: >"$T/ran"
ids=
for i in $(seq "$kills"); do
	case $((i % 4)) in
	0) cluster=near ;;
	*) cluster=far ;;
	esac
	# shellcheck disable=SC2016
	ids="$ids $(submit "cluster=$cluster -- echo $i >>$T/ran; for n in 1 2 3 4 5; do echo $i.\$n; sleep 0.$((RANDOM % 5))1; done")"
	sleep 0.$((RANDOM % 10))$((RANDOM % 10))
	case $((RANDOM % 3)) in
	0) kill -KILL "$(cat "$STATE/worker.pid")" 2>/dev/null ;;
	1) way=ssh network cut ;;
	2) way=http network cut ;;
	esac
done
lost=0
n=0
for id in $ids; do
	n=$((n + 1))
	[ "$(ended "$id" 300)" = "succeeded 0" ] || { lost=$((lost + 1)) && diag "$id: $(word "$id"): $(why "$id")"; }
	printf '%s\n' $n.1 $n.2 $n.3 $n.4 $n.5 | cmp - "$MNT/runs/$id/stdout" || lost=$((lost + 1))
done
is "$kills kills of worker or link: no end and no line is lost or doubled" $lost 0
ok "each ran once" sh -c "seq $kills | cmp - <<E
\$(sort -n $T/ran)
E"
ok "no driver is left" eventually 20 sh -c "[ -z \"$(drivers)\" ]"
is "Ray has no other jobs than ours" "$(api GET /api/jobs/ | grep -o '"submission_id": "[^"]*"' | sort -u | wc -l)" \
	"$(grep -c . "$MNT/runs/list" | awk '{ print $1 - 1 }')"
ok "unmounts" stop_mount
head_down
done_testing
