#!/bin/sh
# The pages for those who move over from other packages: each row of their tables is tried on a mount.
# shellcheck disable=SC2119
# TEST_SECONDS=6
. "$(dirname "$0")/../lib/tap.sh"

# runs/check asks no cluster, so there need be none behind the name.
mount_local <<EOF
[defaults]
cluster = hpc
[cluster hpc]
host = 127.0.0.1
port = 1
[profile analysis]
environment = /proj/envs/analysis
[profile wide]
cpus_per_task = 2
EOF
# A run that others can wait for.
mkdir "$MNT/runs/prepare"
for page in from-dagster-slurm from-dagster-ray; do
	run python3 "$ROOT/tests/lib/moving.py" $page "$MNT" "$HOME/me" "$SLURMRAY"
	is "$page came to its end" "$err" ""
	cp "$T/out" "$T/page"
	tap_lines "$T/page"
done
done_testing
