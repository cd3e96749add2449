#!/bin/sh
# The testbed itself: a real Slurm behind a real sshd, its faults, and that it leaves nothing behind.
# TEST_SECONDS=40
. "$(dirname "$0")/../lib/tap.sh"
need_testbed

is "a login finds the cluster" "$(on_cluster sinfo -h -p compute -o %D)" "$TESTBED_NODES"
is "a step runs on every node" "$(on_cluster "srun -N4 printenv SLURMD_NODENAME" | sort | tr '\n' ' ')" "n1 n2 n3 n4 "
is "logins have a home of the testbed" "$(on_cluster pwd)" "$DEMO_HOME"
run on_cluster "sbatch --parsable --wait -o out --wrap 'echo from the job; exit 3'"
is "a batch job's exit code comes back" "$status" 3
is "its output is in the home" "$(cat "$DEMO_HOME/out")" "from the job"
is "a GPU can be asked for" "$(on_cluster "srun --gpus=1 printenv CUDA_VISIBLE_DEVICES")" 0
is "partition short allows a minute" "$(on_cluster sinfo -h -p short -o %l)" 1:00
echo pwd >"$T/batch"
like "sftp begins in that home" "$(sftp -q -F "$TESTBED_SSH_CONFIG" -b "$T/batch" "$TESTBED_HOST" 2>&1)" "$DEMO_HOME\$"
ok "up again changes nothing" testbed up
ok "status finds everything running" testbed status

ok "the controller can be stopped" testbed ctld-stop
not_ok "then squeue fails" on_cluster "timeout 1 squeue || exit 1"
ok "and started" testbed ctld-start
ok "then squeue answers" on_cluster squeue
ok "it can be frozen" testbed ctld-freeze
run on_cluster "timeout 1 squeue"
is "then squeue hangs" "$status" 124
ok "and thawed" testbed ctld-thaw
ok "then squeue answers" on_cluster squeue

on_cluster "sbatch -w n2 --no-requeue --wrap 'sleep 100'" >/dev/null
ok "a job runs on n2" eventually 10 on_cluster "squeue -h -t R | grep -q n2"
ok "its node can be lost" testbed node-down 2
is "the job is lost with it" "$(on_cluster "squeue -h -t all -o '%T %N'" | grep -c NODE_FAIL)" 1
is "the node is down" "$(on_cluster "sinfo -h -n n2 -p compute -o %T" | tr -d '*')" down
ok "and comes back" testbed node-up n2

in_background on_cluster "cat; echo gone >connection-ended"
ok "the login node can be cut off" testbed sshd-stop
not_ok "then nobody can log in" on_cluster true
ok "and come back" testbed sshd-start
ok "then logins work" on_cluster true

mkdir "$T/second"
ok "a second testbed runs beside it" env TESTBED_DIR="$T/second" "$ROOT/scripts/testbed" up --nodes 1
is "with nodes of its own" "$(SLURM_CONF=$T/second/slurm.conf sinfo -h -p compute -o %D)" 1
ok "it goes away" env TESTBED_DIR="$T/second" "$ROOT/scripts/testbed" down
ok "without touching the first" testbed status
not_ok "its directory is gone" test -e "$T/second"
mkdir "$T/other"
not_ok "a directory that is no testbed is not removed" env TESTBED_DIR="$T/other" "$ROOT/scripts/testbed" down

on_cluster "sbatch --wrap 'setsid sleep 4321 & sleep 4321'" >/dev/null
ok "a job with a runaway child runs" eventually 10 on_cluster "squeue -h -t R | grep -q wrap"
ok "down ends everything" testbed down
is "no process is left" "$(grep -lzxF "SLURM_CONF=$T/testbed/slurm.conf" /proc/[0-9]*/environ 2>/dev/null)" ""
not_ok "no directory is left" test -e "$T/testbed"
done_testing
