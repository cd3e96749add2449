#!/bin/sh
# Knows nothing of Dagster.
echo "on $(hostname), parameter $1"
echo "$1" >"$SLURMRAY_RESULTS/parameter"
