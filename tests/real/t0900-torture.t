#!/bin/sh
# A short run of the torture suite on a Slurm cluster behind sshd (scripts/testbed); the long one is
# `make torture CLUSTER=demo`. TORTURE_N and SEED change it.
# TEST_SECONDS=45
. "$(dirname "$0")/../lib/tap.sh"
need_fuse
command -v python3 >/dev/null || skip_all "python3 is not installed"
for program in slurmctld slurmd munged sshd; do
	PATH=$PATH:/usr/sbin command -v $program >/dev/null || skip_all "$program is not installed (scripts/deps check)"
done
TAP_TIMEOUT=280
# Not below $T: the path of a socket of slurmd has to stay below 108 bytes (unix(7)).
N=${TORTURE_N:-10} SEED=${SEED:-1} CLUSTER=demo TMPDIR=/tmp
export BUILD N SEED CLUSTER TMPDIR
ok "nothing shows of $N deaths (seed $SEED)" "$ROOT/tests/torture/torture"
diag "$(sed -n '/^kills per point/,$p' "$T/out")"
done_testing
