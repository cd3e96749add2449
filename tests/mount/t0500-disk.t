#!/bin/sh
# The disk of the state directory is full, read-only or broken: while it serves (the cases are in tests/lib/disk.py), when
# it starts, and for good. As root on a small tmpfs that is really filled, else by tests/lib/disk_errors.c alone.
# TEST_SECONDS=30
. "$(dirname "$0")/../lib/tap.sh"

command -v "${CC:-cc}" >/dev/null || skip_all "there is no C compiler for tests/lib/disk_errors.c"
"${CC:-cc}" -shared -fPIC -o "$T/disk_errors.so" "$ROOT/tests/lib/disk_errors.c" || exit 1
DISK=$T/disk JOBS=$T/jobs
DISK_DIR=$DISK DISK_ERROR=$T/disk.error
export DISK JOBS DISK_DIR DISK_ERROR
mkdir "$DISK" "$JOBS"
: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
export SLURMRAY_TEST_DIE
disks=
give_back() { # before tap_exit removes $T
	tap_status=$?
	stop_mount >/dev/null 2>&1
	for disk in $disks; do
		umount "$disk" 2>/dev/null || umount -l "$disk" 2>/dev/null
	done
	(exit $tap_status)
	tap_exit
}
trap give_back EXIT
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=12m,mode=700 slurmray-test "$DISK" 2>"$T/tmpfs.err"; then
	DISK_REAL=1
	disks=$DISK
	export DISK_REAL
else
	diag "no tmpfs can be mounted here: its errors are made up"
fi
mkdir "$T/bin"
# A sanitizer that opens its log while it starts would come by our open(2), which is not ready then.
cat >"$T/bin/slurmray" <<X
#!/bin/sh
ASAN_OPTIONS=\${ASAN_OPTIONS:+\$ASAN_OPTIONS:}verify_asan_link_order=0:log_path=stderr LD_PRELOAD=$T/disk_errors.so exec "$SLURMRAY" "\$@"
X
chmod +x "$T/bin/slurmray"
SLURMRAY=$T/bin/slurmray
STATE=$DISK/state

# shellcheck disable=SC2119
mount_local <<X
[defaults]
cluster = local
[cluster local]
directory = $JOBS
X
tap_from 150 python3 "$ROOT/tests/lib/disk.py" "$MNT" "$STATE"

# --- at the start ---

last_id() {
	sed 1d "$MNT/runs/list" | awk '$1 + 0 > n { n = $1 } END { print n }'
}
fill() {
	if [ -n "${DISK_REAL:-}" ]; then
		dd if=/dev/zero of="$DISK/filler" bs=64k 2>/dev/null
		dd if=/dev/zero bs=1k 2>/dev/null >>"$DISK/filler"
		[ "$(df --output=avail "$DISK" | tail -n 1)" -eq 0 ]
	else
		echo 28 >"$DISK_ERROR" # ENOSPC
	fi
}
empty() {
	rm -f "$DISK/filler" "$DISK_ERROR"
}
sound() { # sound JOURNAL: what SQLite says of it
	# shellcheck disable=SC2016
	python3 -c 'import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute("PRAGMA integrity_check").fetchone()[0])' "$1"
}
attempt() { # attempt STATE: a mount that fails; leaves $err
	mkdir -p "$T/other"
	run slurmray_mount "$1"
	is_mounted "$T/other" && slurmray umount "$T/other"
	return 0
}
slurmray_mount() {
	timeout -k 2 20 "$SLURMRAY" mount "$T/other" --config "$T/config" --state "$1"
}

last=$(last_id)
ok "umount" stop_mount
cp -r "$STATE" "$T/copy"
is "the journal is sound" "$(sound "$T/copy/journal.db")" ok
rm -r "$T/copy"
ok "the disk is full" fill
attempt "$DISK/fresh"
isnt "a new state directory on a full disk: no mount" "$status" 0
like "but a sentence" "$err" '(No space left|full)'
attempt "$STATE"
if [ "$status" = 0 ]; then
	pass "a state directory of before serves, or says why not"
else
	like "a state directory of before serves, or says why not" "$err" '(No space left|full)'
fi
empty
start_mount "$MNT" "$T/config" "$STATE"
is "with room again: all runs are there" "$(last_id)" "$last"
echo 'true' >"$MNT/runs/new"
is "and numbers go on" "$(last_id)" $((last + 1))
last=$((last + 1))
ok "umount" stop_mount

if [ -n "${DISK_REAL:-}" ] && mount -o remount,ro "$DISK" 2>/dev/null; then
	attempt "$STATE"
	isnt "a state directory that cannot be written: no mount" "$status" 0
	like "but a sentence" "$err" '[Rr]ead-only'
	mount -o remount,rw "$DISK"
else
	echo 30 >"$DISK_ERROR" # EROFS
	attempt "$STATE"
	isnt "a state directory that cannot be written: no mount" "$status" 0
	like "but a sentence" "$err" '[Rr]ead-only'
	empty
fi
start_mount "$MNT" "$T/config" "$STATE"
is "writable again: all runs are there" "$(last_id)" "$last"
ok "umount" stop_mount

# --- for good ---

# ext4 that stops itself, as it does after an error of its disk (mount(8), errors=remount-ro; ext4(5), abort).
mkdir "$T/ext4"
if [ "$(id -u)" = 0 ] && command -v mkfs.ext4 >/dev/null && truncate -s 16M "$T/image" && mkfs.ext4 -q "$T/image" &&
	mount -o loop,errors=remount-ro "$T/image" "$T/ext4" 2>/dev/null; then
	disks="$disks $T/ext4"
	mkdir -m 700 "$T/ext4/state"
	start_mount "$MNT" "$T/config" "$T/ext4/state"
	for i in 1 2 3; do
		echo "echo $i" >"$MNT/runs/new"
	done
	ok "a job on a real disk" grep -qx 'succeeded 0' "$MNT/runs/3/wait"
	echo "sleep 1.5; echo late >>$JOBS/late" >"$MNT/runs/new"
	ok "runs" eventually 10 grep -qx running "$MNT/runs/4/status"
	mount -o remount,abort "$T/ext4" 2>/dev/null
	run sh -c "echo true >$MNT/runs/new"
	isnt "when the disk is gone nothing is accepted" "$status" 0
	like "for the right reason" "$err" '([Rr]ead-only|I/O error|Input/output error)'
	is "what was there can be read" "$(cat "$MNT/runs/2/log" "$MNT/runs/2/spec")" "$(printf '2\necho 2')"
	like "status says it" "$(cat "$MNT/status")" '^journal the journal in .* cannot be written'
	ok "the job runs on" eventually 10 test -e "$JOBS/late"
	ok "umount" stop_mount
	umount "$T/ext4"
	e2fsck -fy "$T/image" >"$T/fsck" 2>&1
	mount -o loop "$T/image" "$T/ext4"
	start_mount "$MNT" "$T/config" "$T/ext4/state"
	is "after fsck all runs are there" "$(ls "$MNT/runs" | grep -c '^[0-9]')" 4
	is "the job has its end" "$(timeout 20 cat "$MNT/runs/4/wait")" "succeeded 0"
	is "once" "$(cat "$JOBS/late")" late
	echo 'echo goes on' >"$MNT/runs/new"
	is "and numbers go on" "$(timeout 20 cat "$MNT/runs/5/wait") $(cat "$MNT/runs/5/log")" "succeeded 0 goes on"
	ok "umount" stop_mount
	is "the journal is sound" "$(sound "$T/ext4/state/journal.db")" ok
else
	skip "a disk that fails for good" "no loop device can be mounted here"
fi
done_testing
