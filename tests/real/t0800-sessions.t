#!/bin/bash
# Sessions on real Slurm: runs that start in an allocation that is there.
# TEST_SECONDS=48
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

session() { # session NAME KEY=VALUE...: a draft and its spec
	mkdir "$MNT/runs/$1" && printf 'launcher=session %s\n' "$2" >"$MNT/runs/$1/spec"
}
step() { # step SESSION [KEY=VALUE...] COMMAND: prints the id
	local session=$1 keys=
	shift
	while [ $# -gt 1 ]; do
		keys="$keys $1"
		shift
	done
	submit "session=$session$keys -- $1"
}

# --- what is no session ---

like "nothing runs in a session itself" "$(submit 'launcher=session -- true' 2>&1; tail -n 1 "$MNT/errors")" 'runs nothing itself'
not_ok "a session that is not there" submit 'session=nowhere -- true'
like "says so" "$(tail -n 1 "$MNT/errors")" 'there is no session nowhere'
plain=$(submit '-- sleep 60')
not_ok "nor is any other run one" submit "session=$plain -- true"
like "says so" "$(tail -n 1 "$MNT/errors")" 'is no session'
echo cancel >"$MNT/runs/$plain/ctl"

# --- one with room for two ---

ok "a session is made" session warm 'nodes=2 ntasks=8 max_steps=2 idle=0'
early=$(step warm 'echo early')
is "a run that was written before the session began" "$(ended "$early")" "succeeded 0"
ok "it is running" eventually 10 is_now warm running
jobs=$(admin squeue -h -t all -o %i | wc -l)
codes=
for i in 1 2 3 4 5 6; do codes="$codes $(step warm "echo out \$SLURMRAY_RUN; echo err >&2; exit $i")"; done
got=
for id in $codes; do got="$got $(ended "$id" | tr ' ' :)"; done
is "six runs with their codes" "$got" " failed:1 failed:2 failed:3 failed:4 failed:5 failed:6"
got=
for id in $codes; do got="$got$(cat "$MNT/runs/$id/stdout" "$MNT/runs/$id/stderr" | tr '\n' ' ')"; done
want=
for id in $codes; do want="${want}out $id err "; done
is "and their streams" "$got" "$want"
attempts=
for id in $codes; do attempts="$attempts $(echo "$DEMO_HOME"/.slurmray/*/runs/"$id"/a1)"; done
# shellcheck disable=SC2086 # a submission by itself, which costs ten times as much, leaves a claim
is "steps without files are submitted together" "$(for dir in $attempts; do [ -L $dir/claim ] && echo $dir; done)" ""
is "no job of their own" "$(admin squeue -h -t all -o %i | wc -l)" "$jobs"
like "their job id is the session's, with their own number" "$(job_of "$id")" "^$(job_of warm)\\.s$id\$"
is "once each" "$(ended "$(step warm "$(mark once)")") $(ran once)" "succeeded 0 1"
# shellcheck disable=SC2016 # the job's shell expands them
id=$(step warm 'head -c 300000 /dev/urandom | tee $SLURMRAY_RESULTS/data; mkdir $SLURMRAY_RESULTS/d; echo x >$SLURMRAY_RESULTS/d/e')
is "a log of bytes" "$(ended "$id")" "succeeded 0"
ok "is exact, and results are there" sh -c "cmp $MNT/runs/$id/stdout $MNT/runs/$id/results/data && grep -q x $MNT/runs/$id/results/d/e"
big=$(step warm 'python3 -c "import time; x = bytearray(80000000); time.sleep(5)"')
# shellcheck disable=SC2016
id=$(step warm ntasks=4 'echo $SLURM_PROCID')
is "as many tasks as were asked for" "$(ended "$id") $(sort "$MNT/runs/$id/log" | tr '\n' ' ')" "succeeded 0 0 1 2 3 "
is "one that needs memory" "$(ended "$big")" "succeeded 0"
like "its peak is known" "$(cat "$MNT/runs/$big/metrics")" '^max_rss +([89][0-9]{7}|[1-9][0-9]{8})$'
not_ok "what only a scheduler can give is refused" step warm partition=compute 'true'
like "with a sentence" "$(tail -n 1 "$MNT/errors")" 'partition: a run in a session cannot have its own'

# --- more than there is room for ---

one=$(step warm "$(mark one); sleep 47300")
two=$(step warm "trap 'echo got it; exit 7' USR1; while :; do sleep 0.1; done")
running "$one" "$two"
three=$(step warm "$(mark three)")
ok "a third one waits" eventually 20 is_now "$three" pending
ok "and why says for what" eventually 20 why_says "$three" '[Ss]ession'
is "a signal" "$(order "$two" 'signal USR1')" ok
is "arrives, and makes room" "$(ended "$two") $(cat "$MNT/runs/$two/log") $(ended "$three") $(ran three)" \
	"failed 7 got it succeeded 0 1"
two=$(submit "session=warm grace=2 -- (trap '' TERM; sleep 47301) & trap '' TERM; sleep 47302 & wait; wait")
running "$two"
four=$(step warm "$(mark four)")
eventually 20 is_now "$four" pending
is "what waits is cancelled" "$(order "$four" cancel) $(ended "$four") $(ran four)" "ok cancelled - 0"
is "what runs too, also where it does not listen" "$(order "$two" cancel) $(ended "$two" | cut -d' ' -f1)" "ok cancelled"
ok "and all of it is gone" eventually 10 sh -c '! pgrep -f "sleep 4730[12]"'

# --- packed by processors, memory and GPUs ---

session packed 'nodes=2 ntasks_per_node=2 gpus_per_node=2 mem=400 idle=0'
# shellcheck disable=SC2016
show='echo $CUDA_VISIBLE_DEVICES $SLURMD_NODENAME; sleep 47306'
a=$(step packed gpus=1 mem=300 "$show")
b=$(step packed gpus=1 mem=300 "$show")
c=$(step packed gpus=1 mem=100 "$show")
logged() { [ "$(timeout 5 cut -d' ' -f1 "$MNT/runs/$1/log")" = "$2" ]; }
ok "a GPU for the first" eventually 40 logged "$a" 0
ok "one of the other node for the second, whose memory the first node has not" eventually 40 logged "$b" 0
ok "the next one for the third" eventually 40 logged "$c" 1
not_ok "two nodes" test "$(cut -d' ' -f2 "$MNT/runs/$a/log")" = "$(cut -d' ' -f2 "$MNT/runs/$b/log")"
is "the third is where the first is" "$(cut -d' ' -f2 "$MNT/runs/$c/log")" "$(cut -d' ' -f2 "$MNT/runs/$a/log")"
d=$(step packed gpus=3 true)
is "more GPUs than a node has" "$(ended "$d" | cut -d' ' -f1)" failed
like "and why says so" "$(why "$d")" 'was not started: it needs more than its session has'
is "one elsewhere is cancelled" "$(order "$b" cancel) $(ended "$b" 60 | cut -d' ' -f1)" "ok cancelled"
# shellcheck disable=SC2016
far='trap "sleep 2; echo saved; exit 5" TERM; trap "echo usr" USR1; echo $SLURMD_NODENAME; while :; do sleep 0.1; done'
b=$(step packed mem=300 "$far")
ok "another one there" eventually 40 contains "$MNT/runs/$b/stdout" n
isnt "where the first is not" "$(cat "$MNT/runs/$b/stdout")" "$(cut -d' ' -f2 "$MNT/runs/$a/log")"
is "hears a signal" "$(order "$b" 'signal USR1')" ok
ok "itself" eventually 20 contains "$MNT/runs/$b/stdout" usr
is "and has its grace" "$(order "$b" cancel) $(ended "$b" 60) $(tail -n 1 "$MNT/runs/$b/stdout")" "ok cancelled 5 saved"
is "and all of them with the session" "$(order packed cancel) $(ended "$a" 60 | cut -d' ' -f1) $(ended "$c" 60 | cut -d' ' -f1)" \
	"ok cancelled cancelled"
ok "nothing is left" eventually 20 sh -c '! pgrep -f "sleep 4730[6]"'

# --- workers and the network ---

kill -KILL "$(cat "$STATE/worker.pid")"
is "a session outlives the worker" "$(ended "$(step warm 'exit 4')")" "failed 4"
testbed ctld-stop
is "runs in it need no controller" "$(ended "$(step warm 'exit 5')")" "failed 5"
testbed ctld-start

# --- ends ---

lost=$(step warm "$(mark lost); sleep 47303")
running "$lost"
five=$(step warm "$(mark five); sleep 47304")
eventually 10 is_now "$five" pending
is "a session is stopped as a job is" "$(order warm cancel)" ok
is "its end" "$(ended warm 60 | cut -d' ' -f1)" cancelled
is "what ran in it ends with it" "$(ended "$one" 60 | cut -d' ' -f1) $(ran one) $(ended "$lost" 60 | cut -d' ' -f1) $(ran lost)" \
	"cancelled 1 cancelled 1"
like "and their why says so" "$(why "$one")" '[Ss]ession'
is "what had not begun never does" "$(ended "$five" 60 | cut -d' ' -f1) $(ran five)" "cancelled 0"
like "and why says so" "$(why "$five")" 'its session warm ended before the run started'
not_ok "none starts in it any more" step warm true
ok "nothing is left of them" eventually 20 sh -c '! pgrep -f "sleep 4730[0-4]"'

session headless 'nodes=2 ntasks=2 idle=0'
a=$(step headless "$far") b=$(step headless "$far")
ok "a run on each node" eventually 40 sh -c "grep -q n '$MNT/runs/$a/stdout' && grep -q n '$MNT/runs/$b/stdout'"
isnt "two nodes" "$(cat "$MNT/runs/$a/stdout")" "$(cat "$MNT/runs/$b/stdout")"
c=$(step headless "$(mark seven)")
eventually 20 is_now "$c" pending
# shellcheck disable=SC2046 # pids
kill -KILL $(pgrep -f "runs/$(sed -n 's/^number *//p' "$MNT/runs/headless/info")/a1/runner\$")
is "what runs a session is killed" "$(ended headless 60)" "failed 137"
is "its runs end with it, and had their grace" "$(ended "$a" 60) $(ended "$b" 60) $(tail -qn 1 "$MNT/runs/$a/stdout" "$MNT/runs/$b/stdout" | tr '\n' ' ')" \
	"cancelled 5 cancelled 5 saved saved "
like "and say so" "$(why "$a")" '[Ss]ession'
is "what waited never began" "$(ended "$c" 60 | cut -d' ' -f1) $(ran seven)" "cancelled 0"
not_ok "nothing of it is left" pgrep -f "runs/($a|$b)/a1/"

session short 'idle=0:00:03 ntasks=2'
is "a session that nobody uses ends by itself" "$(ended short)" "succeeded 0"
like "its log says why" "$(cat "$MNT/runs/short/log")" 'idle for 3 s'
session sudden 'idle=0 ntasks=2 nodelist=n3'
six=$(step sudden "$(mark six); sleep 47305")
running "$six"
testbed node-down n3
is "a node that is lost" "$(ended sudden 60 | cut -d' ' -f1) $(ended "$six" 60 | cut -d' ' -f1) $(ran six)" "node_failed node_failed 1"
done_testing
