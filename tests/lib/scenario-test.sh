# shellcheck shell=sh
# Runs the scenario on $MNT and compares; then unmounts while readers are parked. For tests that have included tap.sh.

scenario_test() {
	expected=$ROOT/tests/data/scenario.expected
	timeout -k 5 240 bash "$ROOT/tests/lib/scenario.sh" "$MNT" >"$T/scenario.out" 2>&1 </dev/null
	if cmp -s "$T/scenario.out" "$expected"; then
		pass "the scenario prints what it should"
	else
		fail "the scenario prints what it should" "$(diff -u "$expected" "$T/scenario.out")"
	fi
	echo 'sleep 60' >"$MNT/runs/new"
	live=$(readlink "$MNT/runs/last")
	readers=
	for file in wait log.follow; do
		timeout 30 cat "$MNT/runs/$live/$file" >/dev/null 2>"$T/$file.err" &
		readers="$readers $!"
	done
	sleep 0.5
	not_ok "plain umount is refused while readers are parked" umount "$MNT"
	ok "slurmray umount answers them" slurmray umount "$MNT"
	# shellcheck disable=SC2086
	wait $readers
	like "the reader of wait was told that the daemon goes" "$(cat "$T/wait.err")" 'No such device'
	like "the reader of log.follow too" "$(cat "$T/log.follow.err")" 'No such device'
	not_ok "the mount is gone" mountpoint -q "$MNT"
}
