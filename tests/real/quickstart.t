#!/bin/sh
# The first minutes of a user with a cluster: a job by ssh on two nodes of a real Slurm, its output and result, an outage.
. "$(dirname "$0")/../lib/tap.sh"
mount_demo

# shellcheck disable=SC2016
echo 'name=hello nodes=2 time=5 -- srun -l printenv SLURMD_NODENAME; echo 42 >$SLURMRAY_RESULTS/answer' >"$MNT/runs/new"
is "a write to runs/new is accepted" $? 0
run cat "$MNT/runs/1/wait"
is "the job ends well" "$out" "succeeded 0"
is "its output is here" "$(sort "$MNT/runs/1/stdout" | tr '\n' ' ')" "0: n1 1: n2 "
is "its result can be read" "$(cat "$MNT/runs/1/results/answer")" 42
like "Slurm's id is known" "$(cat "$MNT/runs/1/job_id")" '^[0-9]+$'
is "and Slurm knows the name" "$(on_cluster "squeue -h -t all -o %j -j $(cat "$MNT/runs/1/job_id")")" hello

testbed sshd-stop
echo 'exit 3' >"$MNT/runs/new"
is "a spec is accepted while the cluster is away" $? 0
like "and the run is no end" "$(cat "$MNT/runs/2/status")" '^(queued|submitting|unknown)$'
testbed sshd-start
ok "it runs when the cluster is back" timeout 60 grep -q 'failed 3' "$MNT/runs/2/wait"
is "once" "$(on_cluster "squeue -h -t all -o %i" | wc -l | tr -d ' ')" 2
done_testing
