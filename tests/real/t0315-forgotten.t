#!/bin/bash
# Slurm forgets: ended jobs after a few seconds (MinJobAge), and what a controller did just before it was killed.
# TEST_SECONDS=45
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
export MINJOBAGE=5
mount_demo

# --- Slurm has forgotten ---

stay=$(submit "-- $(mark stay); until [ -e $DEMO_HOME/go ]; do sleep 0.2; done; exit 5")
good=$(submit "-- sleep 3; echo good")
bad=$(submit "-- sleep 3; echo bad; exit 9")
shot=$(submit "-- sleep 2; echo shot; kill -KILL \$(cut -d' ' -f4 /proc/\$PPID/stat)") # its wrapper
vanished=$(submit "hold=true -- $(mark vanished)")
lost=$(submit "hold=true -- $(mark lost)")
running "$stay" "$good" "$bad" "$shot"
eventually 5 why_says "$vanished" JobHeldUser
eventually 5 why_says "$lost" JobHeldUser
testbed sshd-stop
admin scancel "$(job_of "$vanished")" "$(job_of "$lost")"
# One that was claimed long after the controller had started, so that it is known to have been there all the time.
touch -h -d '1 hour' "$DEMO_HOME"/.slurmray/*/runs/"$vanished"/a1/claim
knows_none() {
	admin squeue -h -t all -o %A >"$T/queue" && [ "$(wc -l <"$T/queue")" = 1 ] # the one that stays
}
ok "Slurm knows none of them" eventually 40 knows_none
testbed sshd-start
reconnect
is "a good end" "$(ended "$good") $(timeout 10 cat "$MNT/runs/$good/log")" "succeeded 0 good"
is "a bad end" "$(ended "$bad") $(timeout 10 cat "$MNT/runs/$bad/log")" "failed 9 bad"
is "an end without a record" "$(ended "$shot") $(timeout 10 cat "$MNT/runs/$shot/log")" "failed - shot"
like "why" "$(why "$shot")" 'cause unknown: .*no exit record'
is "cancelled by hand while nobody looked" "$(ended "$vanished") $(ran vanished)" "cancelled - 0"
like "why" "$(why "$vanished")" 'vanished before it started'
ok "what the controller may have lost is submitted again, held as before" eventually 15 why_says "$lost" JobHeldUser
other_job() { [ "$(job_of "$lost")" != "$(readlink "$DEMO_HOME"/.slurmray/*/runs/"$lost"/a1/claim)" ]; }
ok "as another job" eventually 20 other_job
ok "which is held, too" eventually 15 why_says "$lost" JobHeldUser
is "release" "$(order "$lost" release)" ok
is "and runs once" "$(ended "$lost") $(ran lost)" "succeeded 0 1"

# --- a controller that forgets a start ---

amnesia=$(submit "hold=true -- $(mark amnesia); sleep 2; exit 3")
eventually 10 why_says "$amnesia" JobHeldUser
job=$(job_of "$amnesia")
testbed ctld-stop
cp -r "$TESTBED_DIR/state" "$T/saved"
testbed ctld-start
is "release" "$(order "$amnesia" release)" ok
is "a job" "$(ended "$amnesia")" "failed 3"
testbed ctld-kill
cp -r "$T/saved/." "$TESTBED_DIR/state/"
testbed ctld-start
is "that Slurm believes to be waiting" "$(squeue_of "$job" %T)" PENDING
admin scontrol release "$job"
ok "starts again" eventually 20 sh -c "grep -q 'it began before' $DEMO_HOME/.slurmray/*/runs/$amnesia/a1/refused 2>&1"
[ -e "$(echo "$DEMO_HOME"/.slurmray/*/runs/"$amnesia"/a1/refused)" ] ||
	diag "$(squeue_of "$job" '%T %r %S')" "$(tail -n 20 "$TESTBED_DIR/log/slurmctld.log")"
is "but its payload does not" "$(ran amnesia)" 1
is "and an end is an end" "$(cat "$MNT/runs/$amnesia/status")" failed

# --- a controller that is killed while jobs are submitted ---

# What it had not saved is lost, and ids are given out again. A start that it forgot it repeats, under the same id, and when
# the guard refuses that, Slurm ends the job with all its processes, or takes its script away before it is read: ends that
# are not ours.
kills=()
for i in $(seq 12); do
	kills+=("$(submit "-- $(mark "kill$i")")")
	[ "$i" != 6 ] || testbed ctld-kill
done
testbed ctld-start
once=0 shot=0 wrong=
for i in $(seq 12); do
	case "$(ended "${kills[i - 1]}" 240) $(ran "kill$i")" in
	"succeeded 0 1") once=$((once + 1)) ;;
	"cancelled 143 "[01] | "failed 143 "[01] | "failed - 0" | "cancelled - 0") shot=$((shot + 1)) ;;
	*) wrong="$wrong ${kills[i - 1]}: $(word "${kills[i - 1]}") $(ran "kill$i"), $(why "${kills[i - 1]}");" ;;
	esac
done
is "12 submissions around it: none runs twice, none is forgotten" "$wrong" ""
ok "nearly all of them run ($once, and $shot were ended by Slurm)" test $once -ge 9
is "what it knew runs on" "$(word "$stay")" running
: >"$DEMO_HOME/go"
is "to its end" "$(ended "$stay") $(ran stay)" "failed 5 1"
done_testing
