#!/bin/sh
# Knows nothing of Dagster.
echo "on $(hostname), parameter $1"
echo "$1" >"$SLURMRAY_RESULTS/parameter"
if [ -e "$SLURMRAY_INPUTS/model.json" ]; then
	wc -c <"$SLURMRAY_INPUTS/model.json" >"$SLURMRAY_RESULTS/size"
fi
