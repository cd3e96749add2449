#!/bin/bash
# sessions/ on real Slurm: names that are free again, stop, leases that keep a session alive, and what becomes of runs whose
# session ends before they start.
# TEST_SECONDS=45
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export NODES=3 CPUS=8
need_testbed
# shellcheck disable=SC2119 # it has no arguments
mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
END_OF_CONFIG

S=$MNT/sessions
into() { # into SESSION SPEC: prints the id
	exec 3<>"$S/$1/runs/new"
	echo "$2" >&3
	read -r into_id <&3
	exec 3>&-
	echo "$into_id"
}
up() { eventually 30 grep -q running "$S/$1/status"; }
session_end() { timeout 60 cat "$S/$1/wait"; }
run_of() { basename "$(readlink "$MNT/runs/$1/session")"; }

ok "a session" sh -c "mkdir $S/warm && echo 'ntasks=4 time=20 idle=0 max_steps=1' >$S/warm/spec"
first=$(cat "$S/warm/run")
id=$(into warm 'echo early')
is "a run from before it began" "$(ended "$id")" "succeeded 0"
ok "is up" up warm
like "nodes" "$(cat "$S/warm/nodes")" '^n[0-9]'
ok "time left" test "$(cat "$S/warm/time_left")" -gt 1000
like "idle" "$(cat "$S/warm/idle")" '^[0-9]+$'
is "its job" "$(cat "$S/warm/job_id")" "$(job_of "$first")"
busy=$(into warm "$(mark busy); sleep 47401")
running "$busy"
is "not idle" "$(cat "$S/warm/idle")" 0
not_ok "a live session is not removed" rmdir "$S/warm"
# shellcheck disable=SC2016 # for the job's shell
full=$(into warm 'on_session_end=job -- echo alone $SLURM_JOB_ID')
later=$(into warm 'on_session_end=wait -- echo later')
never=$(into warm "$(mark never)")
ok "what has no room waits" eventually 20 is_now "$never" pending
is "stop" "$(exec 3<>"$S/warm/ctl"; echo stop >&3; head -n 1 <&3)" ok
is "ends it in order" "$(session_end warm)" "succeeded 0"
is "what ran in it" "$(ended "$busy" 60 | cut -d' ' -f1)" cancelled
is "what waited is cancelled, unless it said otherwise" "$(ended "$never" 60 | cut -d' ' -f1) $(ran never)" "cancelled 0"
is "as a job of its own" "$(ended "$full" 60)" "succeeded 0"
not_ok "that is none of a session" grep -q 's' "$MNT/runs/$full/job_id"
like "why says how that came" "$(cat "$MNT/runs/$full/info")" 'runs as a job of its own'
ok "or for the next of that name" eventually 20 why_says "$later" 'waits for the next session of that name'
not_ok "the name is taken as long as it is there" mkdir "$S/warm"
not_ok "nor is it removed while a run waits" rmdir "$S/warm"
ok "its spec written again begins the next" sh -c "echo 'ntasks=4 time=20 idle=0 max_steps=1' >$S/warm/spec"
second=$(cat "$S/warm/run")
ok "another run" test "$first" != "$second"
is "into which the run goes that waited" "$(ended "$later" 60) $(cat "$MNT/runs/$later/log")" "succeeded 0 later"
is "the first one stays, under its number" "$(cat "$MNT/runs/$first/status")" succeeded
is "its runs lead there" "$(readlink "$MNT/runs/$id/session") $(readlink "$MNT/runs/$later/session")" "../$first ../../sessions/warm"
ok "up" up warm
is "any: the warm one" "$(submit 'session=any ntasks=4 time=10 -- echo any' >"$T/any"; run_of "$(cat "$T/any")") $(ended "$(cat "$T/any")")" \
	"warm succeeded 0"
secret=$(submit '{"session": "any", "ntasks": 4, "time": 10, "secret_env": {"KEY": "tOpSeCrEt"}, "command": "printf %s \"$KEY\" | rev"}')
is "any, with a secret" "$(ended "$secret") $(run_of "$secret") $(timeout 10 head -c 9 "$MNT/runs/$secret/log")" "succeeded 0 warm tErCeSpOt"
# shellcheck disable=SC2016
is "which nobody else there has" "$(plain=$(into warm 'echo "${KEY-none}"'); ended "$plain") $(timeout 10 cat "$MNT/runs/last/log")" "succeeded 0 none"
echo stop >"$S/warm/ctl"
is "its end" "$(session_end warm)" "succeeded 0"
ok "an ended one is removed" rmdir "$S/warm"
not_ok "the one before it does not come back" test -e "$S/warm"
ok "the name is free" mkdir "$S/warm"
ok "a draft is removed" rmdir "$S/warm"
secret2=$(submit '{"session": "any", "ntasks": 3, "time": 10, "secret_env": {"KEY": "tOpSeCrEt"}, "command": "printf %s \"$KEY\" | rev"}')
is "any, with a secret, that begins a session" "$(ended "$secret2" 60) $(timeout 10 head -c 9 "$MNT/runs/$secret2/log")" "succeeded 0 tErCeSpOt"
other=$(run_of "$secret2")
up "$other" || true
# shellcheck disable=SC2016
is "whose other runs have none" "$(plain=$(into "$other" 'echo "${KEY-none}"'); ended "$plain") $(timeout 10 cat "$MNT/runs/last/log")" "succeeded 0 none"
echo stop >"$S/$other/ctl"
is "its end" "$(session_end "$other")" "succeeded 0"
is "no document has it" "$(grep -rlsa tOpSeCrEt "$STATE" "$DEMO_HOME" "$MNT/runs/$secret/spec" "$MNT/runs/$secret2/effective" \
	"$MNT/runs/$secret2/script" "$S/$other/spec" | wc -l)" 0

# --- leases ---

ok "a session with leases" sh -c "echo 'name=held ntasks=2 time=20 idle=0 scope=lease' >$S/new && touch $S/held/leases/a && echo ttl 600 >$S/held/leases/b"
ok "is up" up held
ok "it knows of them" eventually 20 grep -rqs --include=leases '^b ' "$T"
kill -KILL "$(cat "$STATE/worker.pid")"
is "a run" "$(ended "$(into held 'echo x')")" "succeeded 0"
rm "$S/held/leases/a"
is "one is enough" "$(ended "$(into held 'echo x')") $(cat "$S/held/status")" "succeeded 0 running"
last=$(into held 'sleep 4; echo whole')
running "$last"
echo ttl 2 >"$S/held/leases/b"
is "what is in it is finished" "$(ended "$last") $(cat "$MNT/runs/$last/log")" "succeeded 0 whole"
is "then none ends it" "$(session_end held)" "succeeded 0"
like "its log says why" "$(cat "$S/held/log")" 'last lease is gone'

# --- nodes and the runner ---

nodes_are() { [ "$(tr '\n' ' ' <"$S/$1/nodes")" = "$2 " ]; }
echo 'name=wide nodes=3 ntasks=3 no_kill=true idle=0 time=20 env.SLURMRAY_NODE_CHECK=2' >"$S/new"
ok "a session on three nodes" up wide
ok "its nodes" eventually 30 nodes_are wide "n1 up n2 up n3 up"
ok "its time" sh -c "t=\$(cat $S/wide/time_left); [ \$t -gt 1000 ] && [ \$t -le 1200 ]"
echo 'update time=40' >"$S/wide/ctl"
ok "is what the scheduler has" eventually 40 sh -c "[ \$(cat $S/wide/time_left) -gt 1300 ]"
ok "it is idle for longer and longer" eventually 30 sh -c "[ \$(cat $S/wide/idle) -ge 3 ]"
testbed node-down n3
ok "a node that is lost is seen" eventually 90 nodes_are wide "n1 up n2 up n3 lost"
like "and named" "$(cat "$S/wide/why")" 'lost: n3'
like "times are text" "$(grep '^session_end' "$MNT/runs/$(cat "$S/wide/run")/info")" '^session_end +20[0-9-]*T'
is "runs go on" "$(ended "$(into wide 'echo x')")" "succeeded 0"
testbed node-up n3
left=$(into wide "$(mark left); sleep 47403")
running "$left"
runner=$(pgrep -f "^bash $(dirname "$(ls -d "$DEMO_HOME"/.slurmray/*/runs/"$(cat "$S/wide/run")"/a1/queue)")/runner\$" | head -n 1)
like "the session's program" "$runner" '^[0-9]+$'
if [ -n "${LONG:-}" ]; then
	kill -STOP "$runner"
	ok "a program that hangs is told of" eventually 240 grep -q 'nothing was heard of its runner since' "$S/wide/why"
	is "the session is one still" "$(cat "$S/wide/status")" running
	kill -CONT "$runner"
	ok "until it is heard again" eventually 90 sh -c "! grep -q 'nothing was heard' '$S/wide/why'"
fi
kill -KILL "$runner"
like "without it the session ends" "$(session_end wide)" '^failed 137'
like "and says how" "$(cat "$S/wide/why")" 'KILL|137|signal 9'
like "what ran in it ends" "$(ended "$left" 60)" '^(failed|node_failed|cancelled)'
like "and says why" "$(why "$left")" '[Ss]ession'
# --- shared by two mounts ---

start_mount "$T/mnt2" "$T/config" "$T/state2"
first_of() { # first_of FILE TEXT: what is read back
	exec 3<>"$1"
	echo "$2" >&3
	read -r first_answer <&3
	exec 3>&-
	echo "$first_answer"
}
ended2() { timeout 60 cat "$T/mnt2/runs/$1/wait"; }
ok "a shared session" sh -c "echo 'name=both ntasks=2 time=20 idle=0 shared=begin' >$S/new"
ok "is up" up both
ok "the same in another mount" sh -c "echo 'name=both ntasks=2 time=20 idle=0 shared=begin' >$T/mnt2/sessions/new"
ok "is up there" eventually 40 grep -q running "$T/mnt2/sessions/both/status"
is "and the same job" "$(cat "$T/mnt2/sessions/both/job_id")" "$(cat "$S/both/job_id")"
ok "on the same nodes" eventually 40 cmp -s "$T/mnt2/sessions/both/nodes" "$S/both/nodes"
is "a run from here" "$(ended "$(into both 'echo x')")" "succeeded 0"
theirs=$(first_of "$T/mnt2/sessions/both/runs/new" 'echo there $SLURM_JOB_ID; exit 3')
is "a run from there" "$(ended2 "$theirs") $(cat "$T/mnt2/runs/$theirs/log")" "failed 3 there $(cat "$S/both/job_id")"
like "has an id of its own" "$(cat "$T/mnt2/runs/$theirs/job_id")" "^$(cat "$S/both/job_id")\\.s$theirs\\.[0-9a-f]{8}\$"
not_ok "and is not seen here" grep -q "^$theirs " "$S/both/runs/list"
kill -KILL "$(cat "$T/state2/worker.pid")"
long=$(into both 'sleep 47402')
last=$(first_of "$T/mnt2/sessions/both/runs/new" 'sleep 47403')
running "$long"
ok "both run something" eventually 40 grep -q running "$T/mnt2/runs/$last/status"
echo cancel >"$T/mnt2/runs/$last/ctl"
is "a cancel from there" "$(ended2 "$last" | cut -d' ' -f1) $(word "$long")" "cancelled running"
other=$(first_of "$T/mnt2/sessions/new" 'name=both2 shared=attach')
ok "none of that name" eventually 40 grep -q rejected "$T/mnt2/sessions/$other/status"
like "why" "$(cat "$T/mnt2/sessions/$other/why")" 'no mount of yours has a session both2'
is "stop, from there" "$(exec 3<>"$T/mnt2/sessions/both/ctl"; echo stop >&3; head -n 1 <&3)" ok
is "ends it here" "$(session_end both)" "succeeded 0"
is "and what ran in it" "$(ended "$long" 60 | cut -d' ' -f1)" cancelled
is "and there" "$(timeout 60 cat "$T/mnt2/sessions/both/wait")" "succeeded 0"
ok "the spec again, there, begins the next" sh -c "echo 'name=both ntasks=2 time=20 idle=0 shared=begin' >$T/mnt2/sessions/both/spec"
ok "is up" eventually 40 grep -q running "$T/mnt2/sessions/both/status"
ok "to which this mount attaches" sh -c "echo 'shared=attach' >$S/both/spec"
is "and runs in it" "$(ended "$(into both 'echo x')" 60) $(cat "$S/both/job_id")" "succeeded 0 $(cat "$T/mnt2/sessions/both/job_id")"
ok "it is seen to run here, too" up both # what is stopped before is cancelled
echo stop >"$S/both/ctl"
is "stop, from here, ends it there" "$(timeout 60 cat "$T/mnt2/sessions/both/wait")" "succeeded 0"

# --- begun by both at once, kept by leases of both ---

pids=
for i in 1 2 3; do
	for mount in "$MNT" "$T/mnt2"; do
		echo "name=race$i ntasks=1 time=20 idle=0 shared=begin" >"$mount/sessions/new" &
		pids="$pids $!"
	done
done
# shellcheck disable=SC2086 # pids
wait $pids
for i in 1 2 3; do
	eventually 60 grep -q running "$S/race$i/status"
	eventually 60 grep -q running "$T/mnt2/sessions/race$i/status"
	is "begun by both at once: one job" "$(cat "$S/race$i/job_id")" "$(cat "$T/mnt2/sessions/race$i/job_id")"
done
is "and no other" "$(admin squeue -h -o %j | sort | tr '\n' ' ')" "race1 race2 race3 "
for i in 1 2 3; do
	echo stop >"$S/race$i/ctl"
	timeout 60 cat "$S/race$i/wait" "$T/mnt2/sessions/race$i/wait" >"$T/out"
done
for mount in "$MNT" "$T/mnt2"; do
	echo 'name=lent ntasks=1 time=20 idle=0 scope=lease shared=begin' >"$mount/sessions/new" && touch "$mount/sessions/lent/leases/of_${mount##*/}"
done
knows() { grep -rqs --include=leases "^of_$1 " "$DEMO_HOME"; }
ok "leases of the other mount are known" eventually 60 knows mnt2
ok "and of this one" eventually 60 knows "${MNT##*/}"
rm "$S/lent/leases/of_${MNT##*/}"
last=$(into lent 'sleep 4; echo whole')
is "one of them is enough" "$(ended "$last" 60) $(cat "$MNT/runs/$last/log") $(cat "$S/lent/status")" "succeeded 0 whole running"
rm "$T/mnt2/sessions/lent/leases/of_mnt2"
is "without the last the session ends" "$(session_end lent)" "succeeded 0"
is "there, too" "$(timeout 60 cat "$T/mnt2/sessions/lent/wait")" "succeeded 0"
done_testing
