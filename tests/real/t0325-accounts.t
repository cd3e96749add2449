#!/bin/bash
# With accounting: states, codes, signals and reasons are those of t0310, which has none; and what only accounts know is there:
# memory and processor time of all nodes and steps, and ends that the controller has forgotten.
# TEST_SECONDS=28
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
for program in slurmdbd mariadbd mariadb-install-db; do
	PATH=$PATH:/usr/sbin command -v $program >/dev/null || skip_all "$program is not installed (scripts/deps check)"
done
export ACCT=1 NODES=3 CPUS=8 MINJOBAGE=5
mount_demo

good=$(submit "-- echo good")
bad=$(submit "-- exit 7")
# shellcheck disable=SC2016
segv=$(submit '-- kill -SEGV $$')
nowhere=$(submit "workdir=/no/such/directory -- true")
# 60 MB in each of two tasks, long enough to be seen
# shellcheck disable=SC2016
wide=$(submit 'nodes=2 ntasks=2 cpus_per_task=2 -- srun sh -c '\''a=$(head -c 60000000 /dev/zero | tr "\\0" x); sleep 4; i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; echo ${#a}'\')
hand1=$(submit "hold=true -- $(mark hand1)")
hand2=$(submit "nodelist=n1 -- $(mark hand2); sleep 60")
own=$(submit "nodelist=n1 -- $(mark own); sleep 60")
deaf=$(submit "nodelist=n1 grace=1 -- trap '' TERM; $(mark deaf); while :; do sleep 0.1; done")
again=$(submit "nodelist=n1 -- $(mark again); sleep 60")
node=$(submit "nodelist=n3 -- $(mark node); sleep 60")
nope=$(submit "partition=nope -- true")
running "$hand2" "$own" "$deaf" "$again" "$node"
for name in hand2 own deaf again node; do
	eventually 10 test -s "$DEMO_HOME/ran.$name"
done
eventually 5 why_says "$hand1" JobHeldUser

is "success" "$(ended "$good")" "succeeded 0"
is "a code" "$(ended "$bad") $(why "$bad")" "failed 7 exited with code 7"
is "a signal" "$(ended "$segv") $(why "$segv")" "failed 139 killed by SIGSEGV (139)"
is "no working directory: no code of the job's" "$(ended "$nowhere")" "failed -"
like "why" "$(why "$nowhere")" 'its working directory could not be entered'
is "refused" "$(ended "$nope")" "rejected -"
admin scancel "$(job_of "$hand1")" "$(job_of "$hand2")"
is "scancel of a pending job by hand" "$(ended "$hand1") $(ran hand1)" "cancelled - 0"
like "why" "$(why "$hand1")" 'cancelled outside slurmray .*before it started'
is "scancel of a running job by hand" "$(ended "$hand2") $(ran hand2)" "cancelled 143 1"
like "why" "$(why "$hand2")" 'cancelled outside slurmray'
is "cancel" "$(order "$own" cancel) $(ended "$own")" "ok cancelled 143"
unlike "why" "$(why "$own")" 'outside'
is "cancel of one that does not listen" "$(order "$deaf" cancel) $(ended "$deaf")" "ok cancelled 137"
unlike "why" "$(why "$deaf")" 'outside|out-of-memory'
admin scontrol update nodename=n3 state=down reason=test
is "a node that goes down" "$(ended "$node" | cut -d' ' -f1) $(ran node)" "node_failed 1"
admin scontrol update "JobId=$(job_of "$again")" Requeue=1
admin scontrol requeue "$(job_of "$again")"
is "requeued by an administrator" "$(ended "$again" | cut -d' ' -f1) $(ran again)" "node_failed 1"

# --- what only accounts know ---

is "steps on two nodes" "$(ended "$wide")" "succeeded 0"
shot=$(submit "nodelist=n1 -- sleep 3; echo shot; kill -KILL \$(cut -d' ' -f4 /proc/\$PPID/stat)") # its wrapper
byhand=$(submit "hold=true -- $(mark byhand)")
running "$shot"
eventually 5 why_says "$byhand" JobHeldUser
ok "memory of the largest task" eventually 20 grep -qE '^max_rss [0-9]{8,9}$' "$MNT/runs/$wide/metrics"
like "nodes, processors, and the time of all tasks" "$(tr '\n' ' ' <"$MNT/runs/$wide/metrics")" \
	' nodes 2 cpus 4 cpu_seconds [0-9.]+ cpu_efficiency '
like "where it is from" "$(cat "$MNT/runs/$wide/info")" '^usage_source accounting$'
testbed sshd-stop
admin scancel "$(job_of "$byhand")"
ok "Slurm forgets them" eventually 25 sh -c "! SLURM_CONF=$TESTBED_DIR/slurm.conf squeue -h -t all -o %A |
	grep -qxE '$(job_of "$shot")|$(job_of "$byhand")'"
testbed sshd-start
reconnect
is "an end without a record" "$(ended "$shot") $(timeout 10 cat "$MNT/runs/$shot/log")" "failed 137 shot"
like "why" "$(why "$shot")" 'killed by signal 9; the scheduler says FAILED'
is "cancelled by hand while nobody looked" "$(ended "$byhand") $(ran byhand)" "cancelled - 0"
like "why" "$(why "$byhand")" 'cancelled outside slurmray'
done_testing
