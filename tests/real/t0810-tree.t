#!/bin/bash
# sessions/ on real Slurm: names that are free again, stop, leases that keep a session alive, and what becomes of runs whose
# session ends before they start.
# TEST_SECONDS=60
# TEST_TIMEOUT=400
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
echo ttl 2 >"$S/held/leases/b"
is "none ends it" "$(session_end held)" "succeeded 0"
like "its log says why" "$(cat "$S/held/log")" 'last lease is gone'
done_testing
