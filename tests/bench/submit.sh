#!/bin/bash
# Submission latency on a testbed, the kinds in turns: from the command to the payload's first instruction, and to the
# moment at which the caller knows that it ended; begun at random moments (SEED=1). The clocks are one, since the testbed runs
# on this machine.
# usage: submit.sh MNT TESTBED-DIR [N]
set -eu
MNT=${1:?usage: submit.sh MNT TESTBED-DIR [N]}
BED=${2:?usage: submit.sh MNT TESTBED-DIR [N]}
N=${3:-30}
BURST=${BURST:-100}
RANDOM=${SEED:-1}

work=$(mktemp -d "${TMPDIR:-/tmp}/slurmray-submit.XXXXXX")
# The mux socket's path must stay short.
master="ssh -F $BED/ssh/config -o ControlPath=$work/mux"
finish() {
	$master -O exit slurmray-demo 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
$master -o ControlMaster=yes -o ControlPersist=yes -fN slurmray-demo

now() { # microseconds
	echo "${EPOCHREALTIME/[.,]/}"
}

payload() { # the command line of a payload that notes when it starts; %N is nanoseconds
	echo "date +%s%N >$work/start"
}

kind_srun() {
	$master slurmray-demo "srun -n1 sh -c '$(payload)'" </dev/null
}

kind_srun_new() {
	ssh -F "$BED/ssh/config" slurmray-demo "srun -n1 sh -c '$(payload)'" </dev/null
}

kind_sbatch() {
	$master slurmray-demo "sbatch --wait --parsable -o /dev/null --wrap '$(payload)'" </dev/null >/dev/null
}

kind_slurmray() {
	local id result
	exec 3<>"$MNT/runs/new"
	payload >&3
	read -r id <&3
	exec 3>&-
	result=$(timeout 60 cat "$MNT/runs/$id/wait")
	[ "$result" = "succeeded 0" ] || {
		echo "run $id: $result: $(cat "$MNT/runs/$id/why")" >&2
		return 1
	}
}

once() { # once KIND: a line `start total` in ms
	local begin end start
	rm -f "$work/start"
	# Slurm starts batch jobs on the ticks of its schedulers. Commands that follow each other at once, the last of which
	# waited for such a tick, would meet the next one always at the same distance; users are not in step with it.
	sleep "$((RANDOM % 2)).$(printf %03d $((RANDOM % 1000)))"
	begin=$(now)
	"kind_$1"
	end=$(now)
	start=$(($(cat "$work/start") / 1000))
	echo "$(((start - begin) / 100)) $(((end - begin) / 100))" >>"$work/$1"
}

column() { # column FILE NUMBER: min, median, p90 and max in ms, as table cells
	awk -v c="$2" '{ print $c }' "$1" | sort -n | awk '{ v[NR] = $1 / 10 }
		END { printf "%.1f | %.1f | %.1f | %.1f", v[1], v[int((NR + 1) / 2)], v[int(NR * 0.9 + 0.5)], v[NR] }'
}

kinds=(srun srun_new sbatch slurmray)
declare -A names=([srun]='ssh srun, connection kept' [srun_new]='ssh srun, new connection'
	[sbatch]='ssh sbatch --wait, connection kept' [slurmray]='slurmray')
for kind in "${kinds[@]}"; do
	once "$kind"
	rm "$work/$kind"
done
for _ in $(seq "$N"); do
	for kind in "${kinds[@]}"; do
		once "$kind"
	done
done
echo "Milliseconds, n = $N each, in turns, on $(nproc) CPUs; Slurm's pace: ${SCHED:-quick}."
echo
echo '| kind | to the payload: min | median | p90 | max | to the known end: min | median | p90 | max |'
echo '|---|---|---|---|---|---|---|---|---|'
for kind in "${kinds[@]}"; do
	echo "| ${names[$kind]} | $(column "$work/$kind" 1) | $(column "$work/$kind" 2) |"
done

echo
begin=$(now)
ids=()
for i in $(seq "$BURST"); do
	exec 3<>"$MNT/runs/new"
	echo "name=burst-$i -- true" >&3
	read -r id <&3
	exec 3>&-
	ids+=("$id")
done
accepted=$(now)
for id in "${ids[@]}"; do
	timeout 300 cat "$MNT/runs/$id/wait" >>"$work/burst"
done
end=$(now)
printf '%d runs at once: accepted after %d.%03d s (%d a second), all ended after %d.%03d s, %d well.\n' "$BURST" \
	$(((accepted - begin) / 1000000)) $(((accepted - begin) / 1000 % 1000)) $((BURST * 1000000 / (accepted - begin))) \
	$(((end - begin) / 1000000)) $(((end - begin) / 1000 % 1000)) \
	"$(grep -cx 'succeeded 0' "$work/burst")"
