#!/bin/bash
# What slurmdbd knows: jobs that ended, were cancelled, lost their node or were preempted while the login node was away, and
# that the controller has forgotten (MinJobAge) before anybody asked. Without accounting: t0310, t0315.
# TEST_SECONDS=30
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
for program in slurmdbd mariadbd; do
	PATH=$PATH:/usr/sbin command -v $program >/dev/null || skip_all "$program is not installed (scripts/deps check)"
done
export ACCT=1 MINJOBAGE=5 NODES=5 CPUS=4
mount_demo

wait_for_go="until [ -e $DEMO_HOME/go ]; do sleep 0.2; done"
good=$(submit "nodelist=n1 -- $(mark good); $wait_for_go; echo good")
bad=$(submit "nodelist=n1 -- $(mark bad); $wait_for_go; exit 9")
shot=$(submit "nodelist=n1 -- $(mark shot); $wait_for_go; kill -KILL \$(cut -d' ' -f4 /proc/\$PPID/stat)") # its wrapper
node=$(submit "nodelist=n5 -- $(mark node); sleep 200")
hand1=$(submit "hold=true -- $(mark hand1)")
hand2=$(submit "nodelist=n2 -- $(mark hand2); sleep 200")
rude=$(submit "nodelist=n2 -- $(mark rude); sleep 200")
scav=$(submit "partition=scav nodelist=n4 ntasks=4 -- $(mark scav); sleep 200")
again=$(submit "nodelist=n2 -- $(mark again); sleep 200")
running "$good" "$bad" "$shot" "$node" "$hand2" "$rude" "$scav" "$again"
ok "one is held" eventually 10 why_says "$hand1" JobHeldUser
for id in $good $bad $shot $node $hand2 $rude $scav $again; do # the payload's first line may come after Slurm's word
	ok "$id has begun" eventually 10 grep -qs . "$DEMO_HOME"/.slurmray/*/runs/"$id"/a1/pid
done

testbed sshd-stop
ok "the login node is away" eventually 10 link_is down
: >"$DEMO_HOME/go"
admin scancel "$(job_of "$hand1")" "$(job_of "$hand2")"
# KILL for all at once leaves no exit record.
admin scancel --full -s KILL "$(job_of "$rude")"
admin scontrol update nodename=n5 state=down reason=test
admin scontrol update "JobId=$(job_of "$again")" Requeue=1
admin scontrol requeuehold "$(job_of "$again")"
front=$(admin sbatch --parsable -w n4 -n 4 -o /dev/null --wrap true)
forgotten() {
	admin squeue -h -t all -o %A >"$T/queue" && ! grep -vqx "$(job_of "$again")" "$T/queue"
}
ok "the controller has forgotten all that ended" eventually 60 forgotten
is "but not slurmdbd" "$(admin sacct -n -X -P -j "$front" -o State)" COMPLETED
testbed sshd-start
reconnect

is "a good end" "$(ended "$good") $(ran good) $(timeout 10 cat "$MNT/runs/$good/log")" "succeeded 0 1 good"
is "a bad end" "$(ended "$bad") $(ran bad)" "failed 9 1"
is "an end without a record: the state is that of accounting" "$(ended "$shot" | cut -d' ' -f1) $(ran shot)" "failed 1"
is "cancelled by hand while pending" "$(ended "$hand1") $(ran hand1)" "cancelled - 0"
like "why" "$(why "$hand1")" 'cancelled outside slurmray'
is "cancelled by hand while it ran" "$(ended "$hand2") $(ran hand2)" "cancelled 143 1"
like "why" "$(why "$hand2")" 'cancelled outside slurmray'
is "killed by hand" "$(ended "$rude" | cut -d' ' -f1) $(ran rude)" "$(word "$rude") 1"
like "as what Slurm calls it" "$(word "$rude")" '^(cancelled|failed)$'
is "its node went down" "$(ended "$node" | cut -d' ' -f1) $(ran node)" "node_failed 1"
like "why" "$(why "$node")" 'a node that it ran on failed'
is "preempted" "$(ended "$scav" | cut -d' ' -f1) $(ran scav)" "preempted 1"
is "requeued and held: not to be started again" "$(ended "$again" | cut -d' ' -f1) $(ran again)" "node_failed 1"
for id in $good $bad $shot $hand1 $hand2 $rude $node $scav; do
	diag "$id: $(word "$id"): $(why "$id" | head -n 1) [$(sed -n '$s/.*"source": "\([^"]*\)".*/\1/p' "$MNT/runs/$id/history")]"
done

# --- slurmdbd is away ---

mine=$(submit "nodelist=n1 -- $(mark mine); sleep 1; exit 4")
kill -STOP "$(cat "$TESTBED_DIR/run/slurmdbd.pid")"
theirs=$(submit "nodelist=n1 -- $(mark theirs); sleep 1; exit 5")
is "without an answer of slurmdbd jobs end" "$(ended "$mine") $(ran mine)" "failed 4 1"
is "and are submitted" "$(ended "$theirs") $(ran theirs)" "failed 5 1"
kill -CONT "$(cat "$TESTBED_DIR/run/slurmdbd.pid")"
done_testing
