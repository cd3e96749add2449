# shellcheck shell=bash
# For tests with Ray in allocations of the testbed; after tap.sh and faults.sh.

dir_of() { # dir_of ID: the attempt's directory on the cluster
	ls -d "$DEMO_HOME"/.slurmray/*/runs/"$1"/a1
}
number() { sed -n 's/^number *//p' "$MNT/runs/$1/info"; }
marked() { # marked NODE|'' [RUN/]: the pids of this testbed's Ray processes
	local d uuid
	for d in "$DEMO_HOME"/.slurmray/*/runs; do
		uuid=${d%/runs}
		grep -alsF "SLURMRAY_RAY_NODE=slurmray:${uuid##*/}/${2:-}" /proc/[0-9]*/environ | cut -d/ -f3 | while read -r p; do
			tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -q "^SLURMRAY_RAY_NODE=.*@${1:-.*};" && echo "$p"
		done
	done
}
named() { # named PROGRAM NODE [RUN/]: those whose command line has it
	local p
	for p in $(marked "$2" "${3:-}"); do
		tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q -e "$1" && echo "$p"
	done
}
nothing_left() { [ -z "$(marked '' "${1:-}")" ]; }
ray_is() { [ "$(cat "$1/ray/state" 2>/dev/null)" = "$2" ]; }

# note DIR: what the cluster in DIR consists of now. gone DIR: none of it is there any more; else it is in $T/out.
note() { python3 "$ROOT/tests/lib/left.py" note "$1" "$T/note.${1//\//_}"; }
gone() { python3 "$ROOT/tests/lib/left.py" left "$1" "$T/note.${1//\//_}"; }
# all_gone WHAT DIR: waits for it with patience, and says how long it took: a few seconds where the machine has nothing else to do.
all_gone() {
	local begun=${EPOCHREALTIME//[!0-9]/}
	ok "$1" eventually 60 gone "$2"
	diag "after $(((${EPOCHREALTIME//[!0-9]/} - begun) / 1000)) ms"
}

# A program that says on how many nodes its tasks ran, and at which address the cluster is.
both_py() {
	cat <<'END'
import os, ray, time
ray.init(logging_level='ERROR')
@ray.remote(num_cpus=1, scheduling_strategy='SPREAD')
def node():
    time.sleep(1)
    return ray.get_runtime_context().get_node_id()
print(len(set(ray.get([node.remote() for _ in range(2)]))), os.environ['RAY_ADDRESS'])
END
}

# mount_ray: a testbed of two nodes with Ray, and a mount.
mount_ray() {
	export NODES=2 CPUS=4
	python=$("$ROOT/scripts/ray-env" 2>"$T/env.err") || {
		skip_all "no Ray: $(tail -n 1 "$T/env.err")"
	}
	need_testbed
	mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
environment = venv:${python%/bin/python}
ray.object_store_memory = 100M
ray.num_cpus_per_node = 1
ray.start_timeout = 300
END_OF_CONFIG
	both_py >"$T/both.py"
}
