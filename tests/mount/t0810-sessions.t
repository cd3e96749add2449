#!/bin/bash
# sessions/: names, specs, leases and the runs in them, as far as no cluster has to answer: what is written while it is
# away waits. tests/real/t0810-tree.t has the rest.
# TEST_SECONDS=15
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
echo "$wait_run $job_run $lost_run" >"$T/ids"
cd "$ROOT" || exit 99
done_testing
