#!/bin/sh
# --allow-other and --allow-uid: who gets in. The cases are in tests/lib/others.py.
. "$(dirname "$0")/../lib/tap.sh"

[ "$(id -u)" = 0 ] || skip_all "only root can be several users"
# Others must get to the mount at all: the runner's and our own directory are private.
for dir in "$T" "$(dirname "$T")" "$(dirname "$(dirname "$T")")"; do
	case $dir in
	*/slurmray-test.* | */slurmray-run.*) chmod o+x "$dir" ;;
	esac
done
mkdir -p "$MNT"
others() { # a command as a user of whom nothing is known
	python3 -c 'import os, sys; os.setresgid(54322, 54322, 54322); os.setresuid(54322, 54322, 54322); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}
others test -d "$MNT" || skip_all "other users cannot get to $MNT"
# shellcheck disable=SC2119
mount_local
tap_from 60 python3 "$ROOT/tests/lib/others.py" "$MNT" "$STATE" owner_only
ok "umount" stop_mount
start_mount "$MNT" "$T/config" "$STATE" --allow-other --allow-uid 54321,54323
ok "others see that there is a mount" others stat "$MNT"
tap_from 120 python3 "$ROOT/tests/lib/others.py" "$MNT" "$STATE" named_user unnamed_user warm_caches
ok "umount again" stop_mount
start_mount "$MNT" "$T/config" "$STATE" --allow-other
tap_from 60 python3 "$ROOT/tests/lib/others.py" "$MNT" "$STATE" unnamed_user
mkdir "$T/other"
run slurmray mount "$T/other" --state "$T/s2" --allow-other --allow-uid nobody
isnt "a user that is no number is refused" "$status" 0
like "with a sentence" "$err" 'allow-uid'
done_testing
