#!/bin/sh
# tests/tools/minifs, the reference of the benchmark, is a file system like the others and goes away cleanly.
. "$(dirname "$0")/../lib/tap.sh"

[ -x "$BUILD/tools/minifs" ] || skip_all "there is no $BUILD/tools/minifs; run make tools"
[ -w /dev/fuse ] || skip_all "/dev/fuse is missing or may not be used"
mkdir "$MNT"
tap_mounts=$MNT
in_background "$BUILD/tools/minifs" "$MNT"
ok "it mounts" eventually 5 test -e "$MNT/status"
is "the file can be read" "$(cat "$MNT/status")" running
is "it is listed" "$(ls "$MNT")" status
is "its size is exact" "$(stat -c %s "$MNT/status")" 8
not_ok "nothing else is there" cat "$MNT/other"
run "$BUILD/tools/fsbench" -n 20 -r 2 "$MNT/status" "$MNT/status"
is "the benchmark runs on it" "$status" 0
like "and prints ratios" "$out" '^\| open\+read\+close \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \| 2 \|$'
ok "the fsync reference runs" "$BUILD/tools/fsbench" -n 3 --fsync "$T/file"
ok "TERM unmounts" kill "$pid"
is_gone() {
	! is_mounted "$MNT"
}
ok "and the mount is gone" eventually 5 is_gone
done_testing
