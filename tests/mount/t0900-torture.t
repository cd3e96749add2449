#!/bin/sh
# A short run of the torture suite on the cluster of this machine; the long one is `make torture`.
# TORTURE_N and SEED change it.
# TEST_SECONDS=24
. "$(dirname "$0")/../lib/tap.sh"
need_fuse
command -v python3 >/dev/null || skip_all "python3 is not installed"
TAP_TIMEOUT=240
N=${TORTURE_N:-15} SEED=${SEED:-1} CLUSTER=local TMPDIR=$T
export BUILD N SEED CLUSTER TMPDIR
ok "nothing shows of $N deaths (seed $SEED)" "$ROOT/tests/torture/torture"
diag "$(sed -n '/^kills per point/,$p' "$T/out")"
done_testing
