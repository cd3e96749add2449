#!/bin/sh
# A journal that does not answer for a while: the cases are in tests/lib/journal.py.
# TEST_SECONDS=27
. "$(dirname "$0")/../lib/tap.sh"

command -v "${CC:-cc}" >/dev/null || skip_all "there is no C compiler for tests/lib/slow_fsync.c"
"${CC:-cc}" -shared -fPIC -o "$T/slow_fsync.so" "$ROOT/tests/lib/slow_fsync.c" || exit 1
: >"$T/die"
SLURMRAY_TEST_DIE=$T/die
SLOW_FSYNC=$T/hang
SLURMRAY_TEST_JOURNAL_MS=3000
export SLURMRAY_TEST_DIE SLURMRAY_TEST_JOURNAL_MS SLOW_FSYNC T
mkdir "$T/bin"
cat >"$T/bin/slurmray" <<X
#!/bin/sh
ASAN_OPTIONS=\${ASAN_OPTIONS:+\$ASAN_OPTIONS:}verify_asan_link_order=0 LD_PRELOAD=$T/slow_fsync.so exec "$SLURMRAY" "\$@"
X
chmod +x "$T/bin/slurmray"
SLURMRAY=$T/bin/slurmray
# shellcheck disable=SC2119
mount_local
tap_from 200 python3 "$ROOT/tests/lib/journal.py" "$MNT" "$STATE"
rm -f "$T/hang"
done_testing
