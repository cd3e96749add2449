#!/bin/bash
# Many steps of one session, which are submitted together, while slurmray's worker is killed, logins are cut and the controller is
# away: each runs once, and what it printed is here, once. Environment: STEPS=160, SEED=1.
# TEST_SECONDS=25
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export NODES=1 CPUS=8
STEPS=${STEPS:-160}
RANDOM=${SEED:-1}
need_testbed
: >"$T/die"
export SLURMRAY_TEST_DIE=$T/die # a worker that died is replaced without a pause
# shellcheck disable=SC2119 # it has no arguments
mount_demo <<END_OF_CONFIG
[defaults]
cluster = demo
END_OF_CONFIG
LEDGER=$DEMO_HOME/ledger
: >"$LEDGER"

ok "a session" sh -c "mkdir $MNT/sessions/warm && echo 'ntasks=8 max_steps=8 time=60 idle=0' >$MNT/sessions/warm/spec"
is "is up" "$(ended "$(submit 'session=warm -- true')" 60)" "succeeded 0"

deaths() { # a worker or the logins, now and then, as long as $T/go is there
	local n=0
	while [ -e "$T/go" ]; do
		timeout 20 cat "$MNT/clusters/demo/status" >/dev/null # it has come up
		sleep "0.$((RANDOM % 80 + 10))"
		n=$((n + 1))
		if [ $((RANDOM % 3)) = 0 ]; then cut_logins; else kill -KILL "$(cat "$STATE/worker.pid")"; fi
		echo $n >"$T/deaths"
	done 2>/dev/null
}

# wrong FIRST: what is not as it should be of the runs in $ids, which print and note their numbers from FIRST on
wrong() {
	local i=$1 id end
	for id in $ids; do
		end=$(ended "$id" 120)
		[ "$end" = "succeeded 0" ] || echo "run $id, step $i: $end, $(why "$id")"
		[ "$(timeout 20 cat "$MNT/runs/$id/log")" = "line $i" ] || echo "run $id, step $i: its log is $(timeout 20 head -c 200 "$MNT/runs/$id/log")"
		[ "$(grep -cx "$i" "$LEDGER")" = 1 ] || echo "run $id, step $i: ran $(grep -cx "$i" "$LEDGER") times"
		i=$((i + 1))
	done
}

: >"$T/go"
deaths &
killer=$!
ids=
for i in $(seq "$STEPS"); do
	ids="$ids $(submit "session=warm -- echo $i >>$LEDGER; echo line $i")"
done
# shellcheck disable=SC2086 # ids
ok "all are written" test "$(echo $ids | wc -w)" = "$STEPS"
is "each runs once, with its own log" "$(wrong 1)" ""
rm "$T/go"
wait $killer
diag "$(cat "$T/deaths") deaths"
ok "while much died" test "$(cat "$T/deaths")" -ge 5
ok "none has been submitted by itself" sh -c "! ls -d '$DEMO_HOME'/.slurmray/*/runs/*/a1/claim | grep -v '/runs/1/'"

# --- the controller is away, which steps do not need ---

testbed ctld-stop
ids=
for i in $(seq 1001 1040); do
	ids="$ids $(submit "session=warm -- echo $i >>$LEDGER; echo line $i")"
done
is "steps run without a controller" "$(wrong 1001)" ""
testbed ctld-start

# --- half of them are called off ---

: >"$T/go"
deaths &
killer=$!
ids='' called_off=''
for i in $(seq 2001 2040); do
	id=$(submit "session=warm -- echo $i >>$LEDGER; sleep 0.3; echo line $i")
	if [ $((i % 2)) = 0 ]; then
		echo cancel >"$MNT/runs/$id/ctl"
		called_off="$called_off $id:$i"
	else
		ids="$ids $id"
	fi
done
bad=
for id in $called_off; do
	i=${id#*:} id=${id%:*}
	end=$(ended "$id" 120)
	case $end:$(grep -cx "$i" "$LEDGER") in
	cancelled*:[01] | "succeeded 0:1") ;;
	*) bad="$bad run $id, step $i: $end, ran $(grep -cx "$i" "$LEDGER") times;" ;;
	esac
done
is "what is called off runs once at most" "$bad" ""
bad=
i=2001
for id in $ids; do
	[ "$(ended "$id" 120) $(timeout 20 cat "$MNT/runs/$id/log") $(grep -cx $i "$LEDGER")" = "succeeded 0 line $i 1" ] || bad="$bad $id ($(word "$id"))"
	i=$((i + 2))
done
is "the others are as they were" "$bad" ""
rm "$T/go"
wait $killer
echo stop >"$MNT/sessions/warm/ctl"
is "its end" "$(timeout 60 cat "$MNT/sessions/warm/wait")" "succeeded 0"
done_testing
