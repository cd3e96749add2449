#!/bin/bash
# Spark in allocations of real Slurm: a run's own cluster on two nodes, a session's that its runs share, what is killed, and that
# nothing is left.
# TEST_SECONDS=100
# TEST_TIMEOUT=900
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export NODES=2 CPUS=4
python=$("$ROOT/scripts/spark-env" 2>"$T/env.err") || {
	skip_all "no Spark: $(tail -n 1 "$T/env.err")"
}
need_testbed
# shellcheck disable=SC2119 # it has no arguments
mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
environment = venv:${python%/bin/python}
env.JAVA_TOOL_OPTIONS = -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.start_timeout = 300
spark.executor_memory = 512M
spark.conf.spark.ui.showConsoleProgress = false
END_OF_CONFIG

cat >"$T/both.py" <<'END'
import os, sys, time
from pyspark.sql import SparkSession
s = SparkSession.builder.appName('both').getOrCreate()
def where(_):
    time.sleep(0.5)
    return os.environ.get('SLURMD_NODENAME', '?')
print(s.sparkContext.master, ' '.join(sorted(set(s.sparkContext.parallelize(range(8), 8).map(where).collect()))))
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
END
dir_of() { # dir_of ID: the attempt's directory on the cluster
	ls -d "$DEMO_HOME"/.slurmray/*/runs/"$1"/a1
}
marked() { # marked RUN/|'': the pids of this testbed's Spark processes
	local d uuid
	for d in "$DEMO_HOME"/.slurmray/*/runs; do
		uuid=${d%/runs}
		grep -alsF "SLURMRAY_SPARK_NODE=slurmray:${uuid##*/}/${1:-}" /proc/[0-9]*/environ | cut -d/ -f3
	done
}
nothing_left() { [ -z "$(marked "${1:-}")" ]; }
spark_is() { [ "$(cat "$1/spark/state" 2>/dev/null)" = "$2" ]; }

# --- a run's own ---

id=$(submit "{\"launcher\": \"spark\", \"nodes\": 2, \"ntasks\": 2, \"cpus_per_task\": 2, \"mem\": \"2G\", \"payload\": \"$T/both.py\", \"args\": [\"3\"]}")
is "an application is a payload; its code is the run's" "$(ended "$id" 400)" "failed 3"
D=$(dir_of "$id")
like "its tasks ran on both nodes" "$(cat "$MNT/runs/$id/stdout")" '^spark://[0-9.]*:[0-9]* n1 n2$'
is "the cluster has ended" "$(cat "$D/spark/state")" ended
ok "nothing is left of it" nothing_left
is "the secret is nobody else's" "$(stat -c %a "$D/spark/token" "$D/spark/conf/spark-defaults.conf" | tr '\n' ' ')" "600 600 "
ok "logs of executors on both nodes" sh -c "cat '$D'/spark/logs/n1/*/*/stderr '$D'/spark/logs/n2/*/*/stderr | grep -q ."
id=$(submit 'launcher=spark mem=1G spark.executor_memory=2G -- true')
is "an executor that no worker can hold" "$(ended "$id" 300)" "failed -"
like "is said" "$(why "$id")" 'Spark: spark.executor_memory is 2048M, and the worker on n[12] has 512M'
id=$(submit '{"launcher": "spark", "environment": null, "spark": {"spark_home": "/nowhere"}, "command": "true"}')
is "no Spark" "$(ended "$id" 300)" "failed -"
like "is said, too" "$(why "$id")" 'there is no spark-class in PATH on n[12]'

# --- a session that keeps one ---

mkdir "$MNT/sessions/warm"
echo 'nodes=2 ntasks=2 cpus_per_task=2 mem=2G idle=0 spark=true' >"$MNT/sessions/warm/spec"
got=
for _ in 1 2; do
	id=$(submit "session=warm launcher=spark -- python $T/both.py")
	got="$got$(ended "$id" 400) $(cat "$MNT/runs/$id/stdout")
"
done
W=$(dirname "$(ls -d "$DEMO_HOME"/.slurmray/*/runs/*/a1/queue)")
at=$(cat "$W/spark/address")
is "two runs one after another on both nodes of one cluster" "$got" "$(for _ in 1 2; do echo "succeeded 0 $at n1 n2"; done)
"
is "who is there" "$(awk '{ print $1, $4, $5 }' "$W/spark/nodes" | tr '\n' ' ')" "n1 ALIVE 2 n2 ALIVE 2 "
ok "what is free" eventually 20 grep -qx 'CPU 4 of 4' "$W/spark/available"

# --- in the tree ---

S=$MNT/sessions/warm/spark
tell() { timeout 60 sh -c "exec 3<>'$1'; echo '$2' >&3 && head -n 1 <&3"; } # tell CTL VERB: the answer
is "it is ready" "$(timeout 60 cat "$S/ready") $(cat "$S/status")" "ready ready"
is "master" "$(cat "$S/master")" "$at"
is "nodes" "$(cat "$S/nodes")" "$(cat "$W/spark/nodes")"
executors() { cut -d' ' -f1-5 "$S/executors" | sort | tr '\n' ' '; }
idle_executors() { [ "$(executors)" = "n1 cores 0 of 2 n2 cores 0 of 2 " ]; }
eventually 20 idle_executors
is "what executors have" "$(executors)" "n1 cores 0 of 2 n2 cores 0 of 2 "
like "its page, from here" "$(curl -s -m 20 "$(cat "$S/ui")")" 'Spark Master at spark://'
ok "logs" eventually 20 grep -q . "$S/logs/n1/spark-start.log"
# shellcheck disable=SC2046 # pids
kill -KILL $(marked | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q master.Master && echo "$p"; done)
ok "a master that is lost is the end of it" eventually 60 spark_is "$W" failed
ok "nothing is left" eventually 20 nothing_left
id=$(submit 'session=warm launcher=spark -- true')
is "runs fail" "$(ended "$id")" "failed -"
like "and say why" "$(why "$id")" 'Spark: the head on n1'
is "begun again" "$(tell "$S/ctl" restart)" ok
another() { [ "$(cat "$S/status")" = ready ] && case $(cat "$S/master") in "$at") false ;; spark://*) ;; *) false ;; esac }
ok "it is another one" eventually 300 another
# shellcheck disable=SC2016 # for the job
id=$(submit 'session=warm launcher=spark -- echo $SPARK_MASTER_URL')
is "which runs find" "$(ended "$id" 60) $(cat "$MNT/runs/$id/stdout")" "succeeded 0 $(cat "$S/master")"
is "stopped" "$(tell "$S/ctl" stop)" ok
ok "it is no more" eventually 60 grep -qx ended "$S/status"
ok "nothing is left" eventually 20 nothing_left
id=$(submit 'session=warm launcher=spark -- true')
is "a run that wants it fails" "$(ended "$id")" "failed -"
like "and says why" "$(why "$id")" 'Spark: it was stopped'
is "another verb" "$(tell "$S/ctl" dance 2>/dev/null; grep -o 'knows: restart, stop' "$MNT/errors")" "knows: restart, stop"
timeout 10 sh -c "echo stop >'$MNT/sessions/warm/ctl'"
like "it ends" "$(timeout 60 cat "$MNT/sessions/warm/wait")" '^[a-z]'
ok "umount" stop_mount
done_testing
