#!/bin/sh
# The root's `events`: the cases are in tests/lib/feed.py. Then the same bytes after a remount, and after a hole.
# TEST_SECONDS=60
. "$(dirname "$0")/../lib/tap.sh"

: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
export SLURMRAY_TEST_DIE T
# shellcheck disable=SC2119
mount_local
tap_from 250 python3 "$ROOT/tests/lib/feed.py" "$MNT" "$STATE"

cat "$MNT/events" >"$T/before"
was=$(stat -c %Y "$MNT/events")
ok "umount" stop_mount
start_mount "$MNT" "$T/config" "$STATE"
ok "the same bytes after a remount" cmp "$T/before" "$MNT/events"
is "and the same time" "$(stat -c %Y "$MNT/events")" "$was"
ok "umount" stop_mount

# A kill may leave any part of the last lines in the file.
truncate -s -300 "$STATE/events"
start_mount "$MNT" "$T/config" "$STATE"
ok "what was cut off is made again" cmp "$T/before" "$MNT/events"
echo true >"$MNT/runs/new"
ok "and it goes on" cmp -n "$(stat -c %s "$T/before")" "$T/before" "$MNT/events"
id=$(basename "$(readlink "$MNT/last")")
timeout 20 cat "$MNT/runs/$id/wait" >"$T/out"
is "with the next run" "$(tail -n 1 "$MNT/events" | sed 's/.*"to":"\([a-z]*\)".*/\1/')" succeeded
ok "umount" stop_mount
rm "$STATE/events"
start_mount "$MNT" "$T/config" "$STATE"
is "a file that was taken away: offsets hold all the same" "$(($(stat -c %s "$MNT/events") > $(stat -c %s "$T/before")))" 1
ok "umount" stop_mount

# on_event: every change once or, around a kill, again; nobody waits for it, and what was before is not told.
was=$(stat -c %s "$STATE/events")
cat >"$T/told.sh" <<'X'
[ "$SLURMRAY_STATUS" != running ] || cat "$SLURMRAY_MOUNT/runs/$SLURMRAY_RUN/status" >/dev/null
echo "$SLURMRAY_EVENT $SLURMRAY_RUN $SLURMRAY_STATUS" >>"$T/told"
echo "a word of $SLURMRAY_RUN"
X
{
	cat "$T/config"
	printf 'on_event = sh %s\n' "$T/told.sh"
} >"$T/config.hook"
start_mount "$MNT" "$T/config.hook" "$STATE"
for i in 1 2 3 4 5 6 7 8; do
	echo true >"$MNT/runs/new"
	[ $((i % 3)) != 0 ] || kill -9 "$(cat "$STATE/worker.pid")"
done
echo 'exit 3' >"$MNT/runs/new"
id=$(basename "$(readlink "$MNT/last")")
for i in $(seq $((id - 8)) "$id"); do
	timeout 20 cat "$MNT/runs/$i/wait" >/dev/null
done
changes() {
	python3 -c 'if True:
		import json, sys
		at = 0
		for line in open(sys.argv[1], "rb"):
			row = json.loads(line) if line.strip() and at >= int(sys.argv[2]) else {}
			if row.get("type") == "status":
				print(at, row["run"], row["to"])
			at += len(line)' "$MNT/events" "$was" | sort
}
told() {
	[ "$(changes)" = "$(sort -u "$T/told" 2>/dev/null)" ]
}
ok "on_event: all changes are told, and nothing of before" eventually 30 told
isnt "and there were some" "$(changes | wc -l)" 0
like "what it says is in the log" "$(cat "$T/mount.log" "$STATE/log" 2>/dev/null)" 'on_event of run [0-9]* \(failed\): a word of'
ok "umount" stop_mount
is "at most once more for each of the two kills" "$(sort "$T/told" | uniq -c | awk '$1 > 3')" ""
cp "$T/told" "$T/told.before"
start_mount "$MNT" "$T/config.hook" "$STATE"
echo true >"$MNT/runs/new"
id=$(basename "$(readlink "$MNT/last")")
timeout 20 cat "$MNT/runs/$id/wait" >/dev/null
ok "a new mount goes on" eventually 20 grep -q " $id succeeded" "$T/told"
is "with what is new" "$(tail -n +$(($(wc -l <"$T/told.before") + 1)) "$T/told" | awk -v id="$id" '$2 != id' | wc -l)" 0
ok "umount" stop_mount
done_testing
