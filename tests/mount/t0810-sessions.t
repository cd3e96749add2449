#!/bin/bash
# sessions/: names, specs, leases and the runs in them, as far as no cluster has to answer: what is written while it is
# away waits. Then sessions of this machine, with steps that run. tests/real/t0810-tree.t has what needs Slurm.
# TEST_SECONDS=40
# TEST_TIMEOUT=500
# shellcheck disable=SC2012,SC2119 # names of the tree are plain; mount_local reads its standard input
. "$(dirname "$0")/../lib/tap.sh" || exit 99

mount_local <<END_OF_CONFIG
[cluster away]
host = 127.0.0.1
port = 1
[defaults]
cluster = away
END_OF_CONFIG
cd "$MNT" || exit 99
put() { # put FILE TEXT
	printf '%s\n' "$2" >"$1"
} 2>/dev/null
last_error() { tail -n 1 errors; }

# --- names and specs ---

ok "a directory" mkdir sessions/gpu4
not_ok "only once" mkdir sessions/gpu4
not_ok "nor a name that is none" mkdir sessions/new1/x sessions/9x
is "it is a draft" "$(cat sessions/gpu4/status)" draft
is "its files" "$(ls sessions/gpu4 | tr '\n' ' ')" "cluster ctl idle job_id leases log nodes run runs spec status time_left why "
is "and those below" "$(ls sessions/gpu4/runs | tr '\n' ' ')" "list new "
is "it is a run, under its number" "$(cat sessions/gpu4/run; ls runs | head -n 1)" "1
1"
not_ok "a session runs nothing itself" put sessions/gpu4/spec 'nodes=2 -- hostname'
like "says so" "$(last_error)" 'runs nothing itself'
not_ok "nothing runs in a draft" put sessions/gpu4/runs/new hostname
like "says so" "$(last_error)" 'no spec yet'
ok "its spec" put sessions/gpu4/spec 'nodes=2 time=8:00:00 scope=lease'
is "is kept" "$(cat sessions/gpu4/spec)" "nodes=2 time=8:00:00 scope=lease"
ok "the same again attaches" put sessions/gpu4/spec 'nodes=2 time=8:00:00 scope=lease'
not_ok "another does not" put sessions/gpu4/spec 'nodes=3'
like "says so" "$(last_error)" 'begun with another spec'
name_of() { # name_of FILE SPEC: what is read back
	exec 3<>"$1"
	echo "$2" >&3
	read -r answer <&3
	exec 3>&-
	echo "$answer"
}
is "the same through sessions/new attaches, too" "$(name_of sessions/new 'name=gpu4 nodes=2 time=8:00:00 scope=lease')" gpu4
not_ok "another does not" put sessions/new 'name=gpu4 nodes=1'
like "says so" "$(last_error)" 'gpu4 is there already'
is "another name" "$(name_of clusters/away/sessions/new '{"name": "two", "nodes": 1}')" two
is "no name: its number" "$(name_of sessions/new 'nodes=7')" "$(basename "$(readlink last)")"
is "all of them" "$(ls sessions | tr '\n' ' ')" "3 gpu4 new two "
is "not known yet" "$(cat sessions/two/{job_id,nodes,time_left,idle} | tr '\n' ' ')" "- - - - "
not_ok "a live one stays" rmdir sessions/two
is "wait waits" "$(timeout 0.5 cat sessions/two/wait; echo $?)" 124
is "find does not go in circles" "$(find -L sessions -name spec | wc -l)" 3

# --- with Ray ---

not_ok "no Ray, no ray" test -e sessions/two/ray
is "nor is it listed" "$(ls -a sessions/two | grep -cx ray)" 0
is "a session with Ray" "$(name_of sessions/new 'name=rayed nodes=2 ray=true')" rayed
rayed=$(cat sessions/rayed/run)
is "has the files of its run" "$(ls sessions/rayed/ray)" "$(ls "runs/$rayed/ray")"
is "the very same" "$(stat -c %i sessions/rayed/ray/why)" "$(stat -c %i "runs/$rayed/ray/why")"
is "it has not begun" "$(cat sessions/rayed/ray/{status,address,dashboard} | tr '\n' ' ')" "- - - "
like "says so" "$(cat sessions/rayed/ray/why)" 'Ray has not begun'
is "ready is not listed, and blocks" "$(ls -a sessions/rayed/ray | grep -cx ready) $(timeout 0.5 cat sessions/rayed/ray/ready; echo $?)" "0 124"
is "logs lead to the run's" "$(readlink sessions/rayed/ray/logs) $(cd -P sessions/rayed/ray/logs && pwd)" \
	"../../../runs/$rayed/ray/logs $(pwd -P)/runs/$rayed/ray/logs"
ok "both can be walked" timeout 30 sh -c 'find -L sessions runs >/dev/null && tar cf - sessions | tar tf - >/dev/null'
kill -KILL "$(cat "$STATE/worker.pid")"
is "another worker has the same" "$(cat sessions/rayed/ray/why)" "$(cat "runs/$rayed/ray/why")"

# --- runs in it ---

id=$(name_of sessions/gpu4/runs/new 'echo hello')
is "a run in it waits" "$(cat "runs/$id/status")" queued
like "and says for what" "$(cat "runs/$id/why")" 'waiting for its session gpu4, which is'
is "it leads there" "$(readlink "runs/$id/session"), $(cat "runs/$id/session/run")" "../../sessions/gpu4, 1"
is "it is listed" "$(cat sessions/gpu4/runs/list)" "$id queued"
is "by session" "$(ls by/session/gpu4)" "$id"
not_ok "other runs have no such link" test -L runs/1/session
not_ok "into another from there" put sessions/gpu4/runs/new 'session=two -- hostname'
any=$(name_of runs/new 'session=any nodes=2 -- hostname')
is "any: one that fits" "$(readlink "runs/$any/session")" "../../sessions/gpu4"
any=$(name_of runs/new 'session=any nodes=4 reuse_tolerance=0.5 -- hostname')
new=$(basename "$(readlink "runs/$any/session")")
is "any: a new one where none does" "$(cat "sessions/$new/status" "sessions/$new/runs/list" | cut -d' ' -f1 | tr '\n' ' ')" "submitting $any "
is "which the next one finds" "$(readlink "runs/$(name_of runs/new 'session=any nodes=3 reuse_tolerance=0.5 -- hostname')/session")" "../../sessions/$new"
not_ok "a tolerance is a number" put runs/new 'session=any reuse_tolerance=much -- hostname'

# --- leases ---

ok "a lease" touch sessions/gpu4/leases/me
is "has a time to live" "$(head -n 1 sessions/gpu4/leases/me)" "ttl 300"
ok "of one's own" put sessions/gpu4/leases/you 'ttl 7200'
is "both" "$(ls sessions/gpu4/leases | tr '\n' ' ') $(head -n 1 sessions/gpu4/leases/you)" "me you  ttl 7200"
not_ok "not of words" put sessions/gpu4/leases/you 'long'
not_ok "nor with any name" touch 'sessions/gpu4/leases/a b'
before=$(stat -c %Y sessions/gpu4/leases/me)
sleep 7
ok "touch" touch sessions/gpu4/leases/me
ok "renews" test "$(stat -c %Y sessions/gpu4/leases/me)" -gt "$before"
ok "a short one" put sessions/gpu4/leases/short 1
ok "ends" eventually 10 sh -c '! test -e sessions/gpu4/leases/short'
kill -KILL "$(cat "$STATE/worker.pid")"
is "another worker has the same" "$(ls sessions/gpu4/leases | tr '\n' ' ')" "me you "
ok "one is given up" rm sessions/gpu4/leases/you
kill -KILL "$(cat "$STATE/worker.pid")"
is "and does not come back" "$(ls sessions/gpu4/leases)" me

# --- the end, and what becomes of runs that wait ---

wait_run=$(name_of sessions/two/runs/new 'on_session_end=wait -- hostname')
job_run=$(name_of sessions/two/runs/new 'on_session_end=job -- hostname')
lost_run=$(name_of sessions/two/runs/new 'hostname')
not_ok "a policy is one of three" put sessions/two/runs/new 'on_session_end=hope -- hostname'
echo stop >sessions/two/ctl
ok "before it was sent a stop is a cancel" eventually 20 sh -c 'grep -q "on its way" sessions/two/why || grep -q cancelled sessions/two/status'
not_ok "nothing more starts in it" put sessions/two/runs/new hostname
is "those that wait are not ended before it is" "$(cat "runs/$wait_run/status" "runs/$job_run/status" "runs/$lost_run/status" | sort -u | tr '\n' ' ')" "queued "

# --- sessions of this machine ---

# shellcheck disable=SC2317 # called by eventually
{
	is_now() { [ "$(cat "$MNT/runs/$1/status")" = "$2" ]; }
	why_says() { grep -q "$2" "$MNT/runs/$1/why"; }
	log_says() { grep -q "$2" "$MNT/runs/$1/log"; }
}
into() { # into SESSION SPEC: prints the id
	name_of "sessions/$1/runs/new" "$2"
}
ended() { timeout 60 cat "runs/$1/wait"; }
not_ok "a session does not span this machine" put sessions/new 'cluster=local name=wide nodes=2'
not_ok "nor is it shared" put sessions/new 'cluster=local name=ours shared=begin'
like "says so" "$(last_error)" 'is its mount.s'
not_ok "one that is needs a name" put runs/new 'launcher=session nodes=1 shared=begin'
not_ok "that a file can have" put runs/new '{"launcher": "session", "nodes": 1, "shared": "attach", "name": "a/b"}'
like "says so" "$(last_error)" 'shared: its name'
not_ok "it is begun or attached to" put sessions/new 'name=ours shared=maybe'
ok "a session of this machine" sh -c "mkdir sessions/dev && echo 'cluster=local cpus_per_task=2 mem=200M idle=0 grace=2' >sessions/dev/spec"
early=$(into dev 'echo early $SLURM_JOB_ID')
is "a run in it" "$(ended "$early")" "succeeded 0"
is "its output, and the session's job" "$(cat "runs/$early/log")" "early $(cat sessions/dev/job_id)"
is "its own id" "$(cat "runs/$early/job_id")" "$(cat sessions/dev/job_id).s$early"
is "up, here" "$(cat sessions/dev/status sessions/dev/nodes | tr '\n' ' ')" "running $(uname -n) "
ok "what the session says" eventually 30 grep -q 'up on .* with 2 CPUs' sessions/dev/log
is "codes" "$(ended "$(into dev 'exit 3')") $(ended "$(into dev '{"command": ["sh", "-c", "kill -9 $$"]}')")" "failed 3 failed 137"
r=$(into dev 'echo out; echo err >&2; mkdir "$SLURMRAY_RESULTS/d"; echo 7 >"$SLURMRAY_RESULTS/d/n"')
is "streams and results" "$(ended "$r") $(cat "runs/$r/stdout" "runs/$r/stderr" "runs/$r/results/d/n" | tr '\n' ' ')" "succeeded 0 out err 7 "
is "an environment, and a file" "$(echo data >"$T/data"; r=$(into dev "{\"command\": \"echo \$A; cat data\", \"env\": {\"A\": \"b c\"}, \"files\": [\"$T/data\"]}"); ended "$r"; cat "runs/$r/log")" \
	"succeeded 0
b c
data"
is "a script" "$(exec 3<>sessions/dev/runs/new; printf '#!/bin/sh\necho script $1\n' >&3; read -r r <&3; exec 3>&-; ended "$r"; cat "runs/$r/log")" "succeeded 0
script"
is "any: this one" "$(r=$(name_of runs/new 'cluster=local session=any cpus_per_task=2 mem=200M -- echo any'); ended "$r"; readlink "runs/$r/session")" "succeeded 0
../../sessions/dev"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do into dev "echo $i" >/dev/null; done
last=$(basename "$(readlink last)")
wrong=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	[ "$(ended $((last - 12 + i))) $(cat "runs/$((last - 12 + i))/log")" = "succeeded 0 $i" ] || wrong=$((wrong + 1))
done
is "twelve, each with its own output" "$wrong" 0
not_ok "several tasks need srun" put sessions/dev/runs/new 'ntasks=2 -- true'
like "says so" "$(last_error)" 'which has no srun'
big=$(into dev 'cpus_per_task=2 -- trap "echo told; exit 5" USR1; echo there; while :; do sleep 0.1; done')
ok "one of two processors runs" eventually 30 log_says "$big" there
is "running" "$(cat "runs/$big/status" sessions/dev/idle | tr '\n' ' ')" "running 0 "
one=$(into dev 'sleep 4761')
two=$(into dev 'mem=150 -- echo there; sleep 4762')
ok "the next ones have no room" eventually 30 why_says "$one" 'waiting for room'
is "pending" "$(cat "runs/$one/status")" pending
not_ok "one that waits cannot be signalled" sh -c "exec 3<>runs/$one/ctl; echo signal USR1 >&3"
ok "a signal" sh -c "echo signal USR1 >runs/$big/ctl"
is "is heard" "$(ended "$big") $(tail -n 1 "runs/$big/log")" "failed 5 told"
ok "then they start" eventually 30 is_now "$one" running
ok "both" eventually 30 log_says "$two" there
is "what can never fit fails" "$(ended "$(into dev 'mem=300 -- echo never')" | cut -d' ' -f1)" failed
three=$(into dev 'mem=100 -- echo never')
ok "memory that is taken is waited for" eventually 30 why_says "$three" 'waiting for room'
echo cancel >"runs/$three/ctl"
is "what waits is cancelled" "$(ended "$three") $(tail -n 1 "runs/$three/why")" "cancelled - cancelled before it started"
echo cancel >"runs/$one/ctl"
is "what runs too" "$(ended "$one" | cut -d' ' -f1)" cancelled
before=$(cat sessions/dev/job_id)
kill -KILL "$(cat "$STATE/worker.pid")"
is "another worker finds the session, and what runs in it" "$(cat sessions/dev/status "runs/$two/status" | tr '\n' ' ')$(ended "$(into dev 'echo x')")" \
	"running running succeeded 0"
cd "$ROOT" || exit 99
slow=$(cd "$MNT" && into dev 'sleep 1; echo late; exit 4')
next=$(cd "$MNT" && into dev 'mem=100 -- echo next')
stop_mount
cp "$T/config" "$T/again"
mount_local <"$T/again"
cd "$MNT" || exit 99
is "so does the next mount" "$(ended "$slow") $(cat "runs/$slow/log") $(cat sessions/dev/job_id) $(cat "runs/$two/status" "runs/$next/status" | tr '\n' ' ')" \
	"failed 4 late $before running pending "
later=$(into dev 'on_session_end=wait mem=100 -- echo later')
alone=$(into dev 'on_session_end=job mem=100 -- echo alone $SLURM_JOB_ID')
ok "they wait" eventually 30 why_says "$alone" 'waiting for room'
is "stop" "$(exec 3<>sessions/dev/ctl; echo stop >&3; head -n 1 <&3)" ok
is "ends it" "$(timeout 60 cat sessions/dev/wait)" "succeeded 0"
is "and what runs in it" "$(ended "$two" | cut -d' ' -f1)" cancelled
like "why" "$(cat "runs/$two/why")" 'its session ended while it ran'
is "what waited is cancelled" "$(ended "$next" | cut -d' ' -f1)" cancelled
like "or a job of its own" "$(ended "$alone") $(cat "runs/$alone/log")" "^succeeded 0 alone $alone\.[23]\$"
ok "its spec again" sh -c "echo 'cluster=local cpus_per_task=2 mem=200M idle=0 grace=2' >sessions/dev/spec"
is "is the next, for what has waited" "$(ended "$later") $(cat "runs/$later/log")" "succeeded 0 later"
dies=$(into dev 'echo there; sleep 4763')
waits=$(into dev 'cpus_per_task=2 -- echo never')
ok "one runs, one waits" eventually 30 log_says "$dies" there
sv=$(readlink "$STATE/local/"*"/runs/$(cat sessions/dev/run)/a1/supervisor" | cut -d: -f2)
kill -KILL "$sv"
is "a session whose job is killed" "$(timeout 60 cat sessions/dev/wait | cut -d' ' -f1)" node_failed
is "takes what ran in it along" "$(ended "$dies" | cut -d' ' -f1) $(ended "$waits" | cut -d' ' -f1)" "node_failed cancelled"
ok "all of it" eventually 30 sh -c '! pgrep -f "sleep 476[123]"'
ok "leases" sh -c "echo 'cluster=local name=held idle=0 scope=lease' >sessions/new && touch sessions/held/leases/a"
is "keep one" "$(ended "$(into held 'echo x')") $(cat sessions/held/status)" "succeeded 0 running"
rm sessions/held/leases/a
is "none ends it" "$(timeout 60 cat sessions/held/wait)" "succeeded 0"
like "its log says why" "$(cat sessions/held/log)" 'last lease is gone'
ok "nobody there" sh -c "echo 'cluster=local name=brief idle=0:00:01' >sessions/new"
is "ends it, too" "$(timeout 60 cat sessions/brief/wait)" "succeeded 0"
like "its log says why" "$(cat sessions/brief/log)" 'idle for 1 s'
cd "$ROOT" || exit 99
done_testing
