#!/bin/sh
# The Slurm driver with dash, or what else is sh, as the remote shell: see driver.t.
# TEST_SECONDS=130
# TEST_TIMEOUT=600
shell='sh'
if command -v dash >/dev/null; then
	shell='dash'
fi
SHELLS=$shell PORTS_FROM=29400 exec "$(dirname "$0")/driver.t"
