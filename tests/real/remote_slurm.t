#!/bin/sh
# The unit test that needs a cluster, on a testbed: the cluster thread with libssh2, sshd, sftp and Slurm.
# TEST_SECONDS=30
. "$(dirname "$0")/../lib/tap.sh"
[ -x "$BUILD/tests/test_remote_slurm" ] || skip_all "there is no $BUILD/tests/test_remote_slurm; run make unit-tests"
need_testbed
tap_from 240 "$BUILD/tests/test_remote_slurm"
done_testing
