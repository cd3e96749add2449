#!/bin/bash
# What Slurm and its administrators do to jobs, and what becomes of the runs: each payload runs once, and the status and
# `why` are right. Without accounting; t0320 is what accounting knows.
# TEST_SECONDS=120
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export NODES=7 CPUS=8
need_testbed
export SLURMRAY_MOUNT="$MNT"
mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
[cluster wide]
type = slurm
host = slurmray-demo
ssh_config = $TESTBED_SSH_CONFIG
directory = $DEMO_HOME/.slurmray-wide
scratch = $DEMO_HOME/scratch
END_OF_CONFIG

submit_script() { # submit_script FILE: as sbatch does; prints the id
	timeout -k 5 20 slurmray submit "$1"
}

# The limit of a minute is checked now and then: these two are looked at last.
limit=$(submit "partition=short nodelist=n1 -- $(mark limit); sleep 300")
polite=$(submit "partition=short nodelist=n1 -- trap 'exit 0' TERM; sleep 300 & wait")
cutoff=$(submit "nodelist=n1 -- $(mark cutoff); sleep 300")
eventually 10 is_now "$cutoff" running
admin scontrol update "JobId=$(job_of "$cutoff")" TimeLimit=1

# --- a controller that is stuck, then gone ---

before=$(submit "-- sleep 8; exit 4")
running "$before"
testbed ctld-freeze
stuck1=$(submit "-- $(mark stuck1)")
stuck2=$(submit "-- $(mark stuck2)")
sleep 1
at_once "with a frozen controller everything is readable" sh -c "cat $MNT/runs/*/status $MNT/runs/*/why $MNT/runs/*/log"
sleep 11
is "a job that ended meanwhile has its code" "$(ended "$before" 5)" "failed 4"
testbed ctld-thaw
is "submissions to a frozen controller run" "$(ended "$stuck1") $(ended "$stuck2")" "succeeded 0 succeeded 0"
is "once" "$(ran stuck1) $(ran stuck2)" "1 1"
# An sbatch that timed out may have made a job that squeue does not show yet: then there is a second one, which does not run.
jobs=$(admin squeue -h -t all -o %k | grep -cE "/($stuck1|$stuck2)/a1\$")
ok "there is a job for each, and perhaps a surplus one ($jobs)" test "$jobs" -ge 2 -a "$jobs" -le 4

long=$(submit "nodelist=n1 -- $(mark long); sleep 45; echo through; exit 5")
before=$(submit "-- sleep 3; exit 6")
running "$long" "$before"
testbed ctld-stop
gone1=$(submit "-- $(mark gone1)")
gone2=$(submit "-- $(mark gone2)")
is "a job that ends without a controller" "$(ended "$before" 15)" "failed 6"
ok "a run that waits says why" eventually 15 why_says "$gone1" 'nable to contact slurm controller'
ok "the running one is unknown after a while" eventually 45 is_now "$long" unknown
like "and says why" "$(why "$long")" 'nable to contact slurm controller'
testbed ctld-start
is "submissions without a controller run when it is back" "$(ended "$gone1") $(ended "$gone2")" "succeeded 0 succeeded 0"
is "once" "$(ran gone1) $(ran gone2)" "1 1"
is "the running job ended with its code" "$(ended "$long") $(ran long)" "failed 5 1"

# --- by hand ---

hand1=$(submit "hold=true -- $(mark hand1)")
hand2=$(submit "nodelist=n1 -- $(mark hand2); sleep 200")
node=$(submit "nodelist=n5 -- $(mark node); sleep 200")
again1=$(submit "nodelist=n1 -- $(mark again1); sleep 200")
again2=$(submit "nodelist=n1 requeue=true -- $(mark again2); [ \$(wc -l <$DEMO_HOME/ran.again2) = 2 ] || sleep 200; echo second")
later=$(submit "begin=now+3600 -- $(mark later)")
signalled=$(submit "nodelist=n1 -- trap 'echo got it; exit 7' USR1; while :; do sleep 0.1; done")
held=$(submit "hold=true -- $(mark held)")
low=$(submit "partition=low nodelist=n3 ntasks=8 -- $(mark low); sleep 200")
scav=$(submit "partition=scav nodelist=n4 ntasks=8 -- $(mark scav); sleep 200")
two=$(submit "nodes=2 nodelist=n6,n7 no_kill=true -- $(mark two); sleep 8; exit 2")
power=$(submit "nodelist=n6 -- $(mark power); sleep 200")
back=$(submit "nodelist=n7 requeue=true -- $(mark back); [ \$(wc -l <$DEMO_HOME/ran.back) = 2 ] || sleep 200; exit 8")
freeze=$(submit "nodelist=n1 -- $(mark freeze); until [ -e $DEMO_HOME/go ]; do sleep 0.2; done; exit 3")
special1=$(submit "nodelist=n1 -- $(mark special1); sleep 200")
special2=$(submit "nodelist=n1 requeue=true -- $(mark special2); [ \$(wc -l <$DEMO_HOME/ran.special2) = 2 ] || sleep 200")
running "$hand2" "$node" "$again1" "$again2" "$signalled" "$low" "$scav" "$two" "$power" "$back" "$freeze" "$special1" \
	"$special2"
admin scontrol suspend "$(job_of "$freeze")"
ok "a suspended job runs, and why says what it does" eventually 10 why_says "$freeze" '[Ss]uspended'
is "its status" "$(word "$freeze")" running
ok "a job that was submitted held is held" eventually 5 why_says "$hand1" JobHeldUser

admin scancel "$(job_of "$hand1")" "$(job_of "$hand2")"
is "scancel of a pending job by hand" "$(ended "$hand1") $(ran hand1)" "cancelled - 0"
like "why" "$(why "$hand1")" 'cancelled outside slurmray .*before it started'
is "scancel of a running job by hand" "$(ended "$hand2") $(ran hand2)" "cancelled 143 1"
like "why" "$(why "$hand2")" 'cancelled outside slurmray'

admin scontrol update nodename=n5 state=down reason=test
is "a node that goes down" "$(ended "$node" | cut -d' ' -f1) $(ran node)" "node_failed 1"
like "why" "$(why "$node")" 'a node that it ran on failed'

admin scontrol update "JobId=$(job_of "$again1")" Requeue=1
admin scontrol requeue "$(job_of "$again1")"
admin scontrol requeue "$(job_of "$again2")"
is "requeued by an administrator: not started again" "$(ended "$again1" | cut -d' ' -f1) $(ran again1)" "node_failed 1"
like "why" "$(why "$again1")" 'does not start a job twice unless the spec says requeue=true'
ok "nor will it: its job is cancelled" eventually 10 sh -c \
	"[ \"\$(SLURM_CONF=$TESTBED_DIR/slurm.conf squeue -h -t all -j $(job_of "$again1") -o %T)\" = CANCELLED ]"
ok "where the spec says requeue it waits again" eventually 10 is_now "$again2" pending
sleep 3 # see below: what is left of the first start must be gone
admin scontrol update "JobId=$(job_of "$again2")" StartTime=now
is "and starts again" "$(ended "$again2") $(ran again2)" "succeeded 0 2"
requeued=$(sed -n 's/.*"time": "\([^"]*\)".*"to": "pending".*/\1/p' "$MNT/runs/$again2/history" | tail -n 1)
began=$(sed -n 's/^started //p' "$MNT/runs/$again2/info")
is "its times are those of the second start" "$(printf '%s\n' "${requeued%%.*}" "${began%%.*}" | sort -C && echo later)" later
like "which is known to be one" "$(cat "$MNT/runs/$again2/info")" '^restarts 1$'
is "its log is that of both starts" "$(grep -c second "$MNT/runs/$again2/log")" 1

admin scontrol update "JobId=$(job_of "$special1")" Requeue=1
admin scontrol requeuehold "$(job_of "$special1")"
admin scontrol requeuehold State=SpecialExit "$(job_of "$special2")"
is "requeued and held: not to be started again" "$(ended "$special1" | cut -d' ' -f1) $(ran special1)" "node_failed 1"
ok "where the spec says requeue it waits, and why says for what" eventually 10 why_says "$special2" \
	'(SPECIAL|special|held|Held)'
is "its status" "$(word "$special2")" pending
admin scontrol release "$(job_of "$special2")"
admin scontrol update "JobId=$(job_of "$special2")" StartTime=now
is "until it is released" "$(ended "$special2") $(ran special2)" "succeeded 0 2"

# Nodes lose power. They are down at once; that Slurm takes 30 s to see it by itself is its own affair.
testbed node-down n7
is "a node without power where the job may go on without it" "$(ended "$two") $(ran two)" "failed 2 1"
testbed node-down n6
is "and where not" "$(ended "$power" | cut -d' ' -f1) $(ran power)" "node_failed 1"
like "why" "$(why "$power")" 'a node that it ran on failed'
ok "where the spec says requeue it waits" eventually 20 is_now "$back" pending
testbed node-up n7
sleep 4 # a job that Slurm 22.05 starts in a node's first second gets the SIGTERM that was meant for its start before
admin scontrol update "JobId=$(job_of "$back")" StartTime=now
is "and starts again" "$(ended "$back") $(ran back)" "failed 8 2"

admin scontrol resume "$(job_of "$freeze")"
: >"$DEMO_HOME/go"
is "resumed, it comes to its end" "$(ended "$freeze") $(ran freeze)" "failed 3 1"

admin scontrol hold "$(job_of "$later")"
ok "held by an administrator" eventually 10 why_says "$later" 'JobHeld(Admin|User)'
admin scontrol release "$(job_of "$later")"
is "an update" "$(order "$later" 'update begin=now')" ok
is "released and let start, it runs" "$(ended "$later") $(ran later)" "succeeded 0 1"

is "an update of the time limit" "$(order "$signalled" 'update time=2:00:00')" ok
is "is what Slurm has" "$(squeue_of "$(job_of "$signalled")" %l)" 2:00:00
is "a signal" "$(order "$signalled" 'signal USR1')" ok
is "reaches the job" "$(ended "$signalled") $(cat "$MNT/runs/$signalled/stdout")" "failed 7 got it"
is "release" "$(order "$held" release)" ok
is "lets a held job run" "$(ended "$held") $(ran held)" "succeeded 0 1"

front1=$(submit "nodelist=n3 ntasks=8 -- true")
front2=$(submit "nodelist=n4 ntasks=8 -- true")
is "preempted, in a partition that requeues" "$(ended "$low" | cut -d' ' -f1) $(ran low)" "preempted 1"
is "preempted, in a partition that cancels" "$(ended "$scav" | cut -d' ' -f1) $(ran scav)" "preempted 1"
is "by jobs that ran" "$(ended "$front1") $(ended "$front2")" "succeeded 0 succeeded 0"

# --- refused, and never possible ---

nope=$(submit "partition=nope -- true")
is "a partition that is not there" "$(ended "$nope")" "rejected -"
like "why" "$(why "$nope")" 'nvalid partition'
much=$(submit "mem=999999 -- true")
is "too much memory" "$(ended "$much")" "rejected -"
like "why" "$(why "$much")" '[Mm]emory'
many=$(submit "nodes=99 -- true")
slow=$(submit "partition=short time=10:00 -- true")
ok "too many nodes: pending, with the reason" eventually 10 why_says "$many" PartitionConfig
ok "over the partition's limit: pending, with the reason" eventually 10 why_says "$slow" PartitionTimeLimit
is "cancel" "$(order "$many" cancel) $(order "$slow" cancel)" "ok ok"
is "of both" "$(ended "$many") $(ended "$slow")" "cancelled - cancelled -"
printf '#!/bin/sh\n#SBATCH --output=/dev/null/no/such/out\n%s\n' "$(mark launch)" >"$T/launch.sh"
launch=$(submit_script "$T/launch.sh")
is "a job that Slurm cannot launch" "$(ended "$launch") $(ran launch)" "failed - 0"
like "why" "$(why "$launch")" 'its output file or working directory is missing or cannot be written'

# --- large and odd specs ---

{
	printf '#!/bin/bash\n%s\n' "$(mark huge)"
	head -c 1100000 /dev/zero | tr '\0' '#' | fold -w 1000
} | head -c $((1024 * 1024 - 1)) >"$T/huge.sh"
echo >>"$T/huge.sh"
cat "$T/huge.sh" >"$MNT/runs/new"
huge=$(basename "$(readlink "$MNT/last")")
python3 -c 'import json; print(json.dumps({"command": "printf %s \"$ODD\"", "env": {"ODD": "".join(map(chr, range(1, 256)))}}))' \
	>"$T/odd.json"
odd=$(submit "$(cat "$T/odd.json")")
is "a script of 1 MiB" "$(stat -c %s "$T/huge.sh") $(ended "$huge") $(ran huge)" "1048576 succeeded 0 1"
is "a variable with every character" "$(ended "$odd")" "succeeded 0"
python3 -c 'import sys; sys.stdout.buffer.write("".join(map(chr, range(1, 256))).encode())' >"$T/odd"
ok "arrives as it is" cmp "$T/odd" "$MNT/runs/$odd/stdout"

# --- directories ---

mkdir -p "$DEMO_HOME/mine"
# shellcheck disable=SC2016
there=$(submit "cluster=wide -- pwd -P; echo r >\$SLURMRAY_RESULTS/r; echo w >w; $(mark there)")
mine=$(submit "workdir=$DEMO_HOME/mine -- pwd -P")
cat >"$T/patterns.sh" <<-'END_OF_SCRIPT'
	#!/bin/bash
	#SBATCH --job-name=pat
	#SBATCH --output=logs/%x-%j.out
	#SBATCH --error=./logs/err/%x.err
	echo out; echo err >&2; sleep 1; echo out again
END_OF_SCRIPT
patterns=$(submit_script "$T/patterns.sh")
is "scratch elsewhere" "$(ended "$there") $(ran there)" "succeeded 0 1"
like "is where the job is" "$(timeout 20 cat "$MNT/runs/$there/stdout")" "^$DEMO_HOME/scratch/.*/work\$"
is "its results" "$(timeout 20 cat "$MNT/runs/$there/results/r")" r
is "its working directory" "$(timeout 20 ls "$MNT/runs/$there/work") $(timeout 20 cat "$MNT/runs/$there/work/w")" "w w"
is "a working directory of one's own" "$(ended "$mine") $(timeout 20 cat "$MNT/runs/$mine/stdout")" \
	"succeeded 0 $(cd "$DEMO_HOME/mine" && pwd -P)"
is "output files by #SBATCH" "$(ended "$patterns")" "succeeded 0"
is "stdout" "$(timeout 20 cat "$MNT/runs/$patterns/stdout" | tr '\n' ' ')" "out out again "
is "stderr" "$(timeout 20 cat "$MNT/runs/$patterns/stderr")" err
is "are where sbatch puts them, in directories that are made" "$(timeout 20 ls "$DEMO_HOME"/.slurmray/*/runs/"$patterns"/a1/work/logs | tr '\n' ' ')" \
	"err pat-$(job_of "$patterns").out "

# --- between accepted and submitted ---

testbed sshd-stop
eventually 5 link_is down
early1=$(submit "-- $(mark early1)")
early2=$(submit "-- $(mark early2)")
early3=$(submit "hold=true -- $(mark early3)")
echo hold >"$MNT/runs/$early1/ctl"
echo cancel >"$MNT/runs/$early2/ctl"
echo release >"$MNT/runs/$early3/ctl"
is "cancelled without a cluster" "$(ended "$early2" 5)" "cancelled -"
testbed sshd-start
reconnect
ok "held before it was submitted: pending" eventually 10 why_says "$early1" JobHeldUser
is "released before it was submitted: it runs" "$(ended "$early3") $(ran early3)" "succeeded 0 1"
sleep 1
is "the held one did not run, nor did the cancelled one" "$(word "$early1") $(ran early1) $(ran early2)" "pending 0 0"
is "release" "$(order "$early1" release)" ok
is "lets it run" "$(ended "$early1") $(ran early1)" "succeeded 0 1"

# --- cancelled with a grace period (KillWait is 2 s here) ---

graced=$(submit "grace=8 -- trap 'told=1' TERM; echo up; while [ -z \"\$told\" ]; do sleep 0.1; done; sleep 4; echo lived; while :; do sleep 0.1; done")
hasty=$(submit "grace=1 nodes=2 -- trap '' TERM; echo up; srun -N2 sh -c \"trap '' TERM; echo step; while :; do sleep 0.1; done\"; while :; do sleep 0.1; done")
saved=$(submit "grace=30 -- trap 'echo saved; exit 3' TERM; echo up; while :; do sleep 0.1; done")
for id in "$graced" "$saved"; do
	eventually 15 contains "$MNT/runs/$id/stdout" up
done
eventually 15 contains "$MNT/runs/$hasty/stdout" step
like "the number of nodes and processors while it runs" "$(tr '\n' ' ' <"$MNT/runs/$hasty/metrics")" ' nodes 2 cpus 2 '
is "cancel of three is answered at once" "$(order "$graced" cancel) $(order "$hasty" cancel) $(order "$saved" cancel)" "ok ok ok"
kill -KILL "$(cat "$STATE/worker.pid")"
is "one saves what it has" "$(ended "$saved") $(cat "$MNT/runs/$saved/stdout" | tr '\n' ' ')" "cancelled 3 up saved "
is "one that does not listen is killed, its steps too" "$(ended "$hasty")" "cancelled 137"
like "why: the cause before the means" "$(why "$hasty" | tr '\n' ' ')" '^cancel was asked for .* cancelled; it took SIGKILL'
unlike "and no guess" "$(why "$hasty")" 'out-of-memory'
is "one had all of its time, whatever became of the worker" "$(ended "$graced") $(cat "$MNT/runs/$graced/stdout" | tr '\n' ' ')" \
	"cancelled 137 up lived "
eventually 15 sh -c "[ -z \"\$(SLURM_CONF=$TESTBED_DIR/slurm.conf squeue -h -j $(job_of "$hasty"),$(job_of "$graced"))\" ]"
like "node hours are of all nodes" "$(awk '/^elapsed/ { e = $2 } /^node_hours/ { print $2 * 3600 / e }' "$MNT/runs/$hasty/metrics")" '^(2|1\.9|2\.0)'

# --- the time limit ---

is "the time limit ends a job" "$(ended "$limit" 110) $(ran limit)" "timeout 143 1"
like "why" "$(why "$limit")" 'reached its time limit'
is "also one that ends with 0 then" "$(ended "$polite" 20)" "timeout 0"
is "and one whose limit an administrator cut" "$(ended "$cutoff" 60) $(ran cutoff)" "timeout 143 1"

done_testing
