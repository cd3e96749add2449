#!/bin/sh
# The root's `events`: the cases are in tests/lib/feed.py. Then the same bytes after a remount, and after a hole.
# TEST_SECONDS=40
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
done_testing
