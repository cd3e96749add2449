#!/bin/sh
# Files and directories as tools see them: the cases are in tests/lib/files.py. Then the same tree after a remount.
# TEST_SECONDS=55
. "$(dirname "$0")/../lib/tap.sh"

: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
export SLURMRAY_TEST_DIE T
# shellcheck disable=SC2119
mount_local
tap_from 250 python3 "$ROOT/tests/lib/files.py" "$MNT" "$STATE"

# shellcheck disable=SC2016,SC2013
# What has ended is the same for the next mount: numbers, times, sizes, modes.
look() {
	(cd "$MNT" && find README runs by/cluster clusters/local/runs \( -name files -o -name results \) -prune -o -printf '%i %T@ %s %m %y %p\n') |
		grep -v -e ' runs/list$' -e ' runs/new$' -e ' runs/check$' -e ' runs/[^ ]*/metrics' -e ' [a-z]*$' -e ' by/cluster' -e 'local/runs' |
		sort
}
echo 'echo result >$SLURMRAY_RESULTS/r; echo log' >"$MNT/runs/new"
id=$(basename "$(readlink "$MNT/last")")
ok "a last run ends" eventually 20 grep -q '^logs' "$MNT/runs/$id/info"
for f in $(sed 1d "$MNT/runs/list" | awk '$2 == "pending" { print $1 }'); do
	echo cancel >"$MNT/runs/$f/ctl"
done
no_live() {
	! sed 1d "$MNT/runs/list" | awk '{ print $2 }' | grep -qE 'pending|running|queued|submitting|completing|unknown'
}
ok "no run is live" eventually 60 no_live
sleep 1
look >"$T/before"
ok "umount" stop_mount
start_mount "$MNT" "$T/config" "$STATE"
look >"$T/after"
is "the tree of ended runs is the same after a remount" "$(diff "$T/before" "$T/after" | head -n 20)" ""
isnt "and it is not empty" "$(wc -l <"$T/before")" 0
is "results too" "$(cat "$MNT/runs/$id/results/r")" result
done_testing
