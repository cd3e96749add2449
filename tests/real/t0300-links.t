#!/bin/bash
# The login node goes away: while jobs are submitted, while a log is followed, again and again, and with one session only.
# LONG=1: away for a minute.
# TEST_SECONDS=90
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
AWAY=36
[ -z "${LONG:-}" ] || AWAY=60
mount_demo

# shellcheck disable=SC2016
old=$(submit '-- seq 1 1000 | tee $SLURMRAY_RESULTS/here; seq 1 100000 >$SLURMRAY_RESULTS/there')
is "a job before the trouble" "$(ended "$old")" "succeeded 0"
ok "its log is here" eventually 10 sh -c "seq 1 1000 | cmp - $MNT/runs/$old/log"
ok "a result was fetched" sh -c "seq 1 1000 | cmp - $MNT/runs/$old/results/here"

# Random bytes, so that nothing but the right ones will do; what was written is in `copy`.
follow_job() { # follow_job NAME PIECES: one in a tenth of a second
	submit "-- for i in \$(seq $2); do head -c 3000 /dev/urandom; sleep 0.1; done | tee $DEMO_HOME/copy.$1"
}

long=$(follow_job away $(((AWAY + 6) * 10)))
timeout -k 1 150 cat "$MNT/runs/$long/log.follow" >"$T/follow" 2>"$T/follow.err" &
follow=$!
timeout -k 1 150 cat "$MNT/runs/$long/wait" >"$T/wait" 2>"$T/wait.err" &
waiter=$!
ok "it writes" eventually 15 test -s "$T/follow"

# --- away ---

ids=()
for i in $(seq 20); do
	ids+=("$(submit "name=once$i -- $(mark "$i")")")
	if [ "$i" = 7 ]; then
		testbed sshd-stop >"$T/stop.out" 2>&1 &
		stopper=$!
	fi
done
wait $stopper
began=$(date +%s)
is "20 specs were accepted meanwhile" "${#ids[@]} $(printf '%s\n' "${ids[@]}" | grep -c '^[0-9][0-9]*$')" "20 20"
at_once "ls -l of the root" ls -l "$MNT"
at_once "ls of runs" ls "$MNT/runs"
at_once "ls -l of a live run" ls -l "$MNT/runs/$long"
at_once "stat of every run" sh -c "stat $MNT/runs/*/log $MNT/runs/*/status"
at_once "every status" sh -c "cat $MNT/runs/*/status"
at_once "runs/list" cat "$MNT/runs/list"
at_once "the log so far of the live run" cat "$MNT/runs/$long/log"
at_once "an old log" sh -c "seq 1 1000 | cmp - $MNT/runs/$old/log"
at_once "a result that was fetched" sh -c "seq 1 1000 | cmp - $MNT/runs/$old/results/here"
at_once "the list of results" sh -c "[ \"\$(stat -c %s $MNT/runs/$old/results/there)\" = 588895 ]"
at_once "a spec" cat "$MNT/runs/$old/spec" "$MNT/runs/$old/effective" "$MNT/runs/$old/script"
at_once "grep -r of all that a run has here" grep -rq --exclude-dir=results succeeded "$MNT/runs/$old"
ok "clusters/demo/status says that the link is down" eventually 3 link_is down
ok "why says what is the matter" eventually 5 why_says "$long" 'cluster demo: .*(Connection refused|ended|lost)'
like "of a run that waits to be submitted, too" "$(why "${ids[19]}")" 'cluster demo: .*(Connection refused|ended|lost)'
not_ok "nothing ended because of it" grep -hqxE 'failed|node_failed|cancelled|timeout|rejected' "$MNT"/runs/*/status
ok "then the live run is unknown" eventually 45 is_now "$long" unknown
like "and why says so" "$(why "$long")" 'Connection refused'
is "which is no end: wait has not answered" "$(cat "$T/wait")" ""
left=$((began + AWAY - $(date +%s)))
[ $left -le 0 ] || sleep $left

# --- back ---

ok "the login node is back" testbed sshd-start
ok "the link comes back by itself" eventually 70 link_is up
all=
for id in "${ids[@]}"; do
	all="$all$(ended "$id" 60);"
done
is "all 20 succeeded" "$all" "$(printf 'succeeded 0;%.0s' $(seq 20))"
counts=
for i in $(seq 20); do
	counts="$counts$(ran "$i") "
done
is "each ran once" "$counts" "$(printf '1 %.0s' $(seq 20))"
is "and no other job exists" "$(admin squeue -h -t all -o %i | wc -l)" 22
wait $waiter
is "the reader of wait has its answer and no error" "$(cat "$T/wait" "$T/wait.err")" "succeeded 0"
wait $follow
is "the reader of log.follow came to its end" "$? $(cat "$T/follow.err")" "0 "
ok "with every byte" cmp "$T/follow" "$DEMO_HOME/copy.away"
ok "the log is the same" cmp "$MNT/runs/$long/log" "$DEMO_HOME/copy.away"
like "its history: running, unknown, perhaps running again, succeeded" \
	"$(sed -n 's/.*"to": "\([a-z]*\)".*/\1/p' "$MNT/runs/$long/history" | tr '\n' ' ')" \
	'running unknown (running )?succeeded $'
ok "the other result can be fetched" sh -c "seq 1 100000 | cmp - $MNT/runs/$old/results/there"

# --- cut ten times ---

cuts=$(follow_job cut 160)
timeout -k 1 100 cat "$MNT/runs/$cuts/stdout.follow" >"$T/follow" 2>"$T/follow.err" &
follow=$!
ok "a job writes" eventually 15 test -s "$T/follow"
for i in $(seq 10); do
	sleep "0.$((i * 7 % 10))"
	cut_logins
	ok "cut $i: seen" eventually 5 link_is down
	reconnect
	eventually 10 link_is up
done
is "it ends well" "$(ended "$cuts")" "succeeded 0"
wait $follow
is "its reader saw no error" "$? $(cat "$T/follow.err")" "0 "
ok "and every byte once" cmp "$T/follow" "$DEMO_HOME/copy.cut"

# --- one session ---

testbed sshd-stop
echo 'MaxSessions 1' >>"$TESTBED_DIR/ssh/sshd_config"
testbed sshd-start
eventually 5 link_is down
reconnect
ok "with MaxSessions 1 the link comes up" eventually 20 link_is up
mkdir "$MNT/runs/single"
seq 1 5000 >"$MNT/runs/single/files/in"
# shellcheck disable=SC2016
printf '%s\n' '-- cat in; echo err >&2; mkdir -p $SLURMRAY_RESULTS/d; head -c 700000 /dev/urandom | tee $HOME/big >$SLURMRAY_RESULTS/d/big' \
	>"$MNT/runs/single/spec"
is "a job with files" "$(ended single)" "succeeded 0"
ok "its log" eventually 10 sh -c "seq 1 5000 | cmp - $MNT/runs/single/stdout"
is "its stderr" "$(timeout 10 cat "$MNT/runs/single/stderr")" err
ok "its results" cmp "$MNT/runs/single/results/d/big" "$DEMO_HOME/big"
is "its working directory" "$(timeout 20 ls "$MNT/runs/single/work")" in
ok "really without sftp" grep -q 'files are read by way of the shell' "$T/mount.log"
done_testing
