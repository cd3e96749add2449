#!/bin/sh
# docs/interface.md against the running binary and the source, both ways; and that the check sees a wrong row.
. "$(dirname "$0")/../lib/tap.sh"

# shellcheck disable=SC2119
mount_local
run "$ROOT/scripts/check-interface" "$MNT"
cp "$T/out" "$T/results"
tap_lines "$T/results"
is "the check came to its end" "$status $err" "0 "

# A copy of the tree with one wrong row each: the check must not be blind.
mkdir -p "$T/copy/scripts" "$T/copy/docs" "$T/copy/fs"
cp "$ROOT/scripts/check-interface" "$T/copy/scripts/"
cp "$ROOT"/fs/files_*.c "$T/copy/fs/"
blind() { # blind NAME SED-EXPRESSION [MNT]
	sed "$2" "$ROOT/docs/interface.md" >"$T/copy/docs/interface.md"
	if cmp -s "$ROOT/docs/interface.md" "$T/copy/docs/interface.md"; then
		fail "$1" "the expression changes nothing: $2"
		return
	fi
	blind_name=$1
	shift 2
	run "$T/copy/scripts/check-interface" "$@"
	is "$blind_name" "$status $err" "1 "
}
# shellcheck disable=SC2016
{
	blind "a missing row is seen" '/`runs\/ID\/why`/d'
	blind "a row too many is seen" 's/^| `runs\/ID\/why`.*/&\n| `runs\/ID\/nothing` | text | 0444 | yes | x | | |/'
	blind "a wrong mode is seen" 's/^\(| `runs\/ID\/why` | text |\) 0444/\1 0644/'
	blind "a wrong class is seen" 's/^\(| `runs\/ID\/log` |\) growing/\1 stream/'
	blind "a wrong listing is seen" 's/^\(| `runs\/ID\/wait` | blocking | 0444 |\) no/\1 yes/'
	# shellcheck disable=SC2119
	stop_mount
	STATE=$T/other-state
	# shellcheck disable=SC2119
	mount_local
	blind "a wrong shape is seen" 's/^\(| `runs\/ID\/why` |\) text/\1 value/' "$MNT"
}
done_testing
