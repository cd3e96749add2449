# shellcheck shell=sh
# TAP for tests written in shell; for dash and bash alike. A test file is
#
#	#!/bin/sh
#	. "$(dirname "$0")/../lib/tap.sh"
#	mount_local
#	ok "the README can be read" grep -q runs/new "$MNT/README"
#	is "nothing ran yet" "$(cat "$MNT/runs/list")" ""
#	done_testing
#
# It gets a directory of its own ($T), a HOME in it, and a time limit for every command that it runs by ok, not_ok, run
# and within (TAP_TIMEOUT seconds). What it mounted, started or left running is taken down when it ends, however it ends.
# Without done_testing at its end a test has failed.

ROOT=$(cd "$(dirname "$0")" && while [ ! -f .clang-format ] && [ "$PWD" != / ]; do cd ..; done && pwd)
BUILD=${BUILD:-$ROOT/build}
SLURMRAY=${SLURMRAY:-$BUILD/slurmray}
TAP_TIMEOUT=${TAP_TIMEOUT:-20}
T=$(mktemp -d "${TMPDIR:-/tmp}/slurmray-test.XXXXXX") || exit 99
MNT=$T/mnt
STATE=$T/state
# The environment of a user of whom nothing is known; the cluster that he may use is none of the test's business.
HOME=$T/home
mkdir -p "$HOME"
PATH=$(dirname "$SLURMRAY"):$PATH
LC_ALL=C
export HOME PATH LC_ALL
unset SLURM_CONF XDG_CONFIG_HOME XDG_STATE_HOME XDG_RUNTIME_DIR XDG_CACHE_HOME SSH_AUTH_SOCK CDPATH

tap_number=0
tap_failed=0
tap_done=no
tap_mounts=
tap_pids=
tap_testbed=

# --- results --------------------------------------------------------------------------------------------------------

diag() { # each argument is a text; its lines become comments
	printf '%s\n' "$@" | sed 's/^/# /'
}

pass() {
	tap_number=$((tap_number + 1))
	echo "ok $tap_number - $1"
}

fail() { # fail NAME [TEXT...]
	tap_number=$((tap_number + 1))
	tap_failed=$((tap_failed + 1))
	echo "not ok $tap_number - $1"
	shift
	[ $# = 0 ] || diag "$@"
	return 0
}

skip() { # skip NAME WHY
	tap_number=$((tap_number + 1))
	echo "ok $tap_number - $1 # SKIP $2"
}

skip_all() { # the whole file, before its first result
	echo "1..0 # SKIP $1"
	tap_done=skip
	exit 77
}

done_testing() {
	tap_done=yes
	exit 0
}

# --- commands -------------------------------------------------------------------------------------------------------

# within SECONDS COMMAND...: status 124 when it took longer. A shell function runs without a limit of its own: what it
# calls has one, and the runner has one for the whole file.
within() {
	tap_limit=$1
	shift
	case $(command -V "$1" 2>/dev/null) in
	*function*) "$@" ;;
	*) timeout -k 5 "$tap_limit" "$@" ;;
	esac
}

# run COMMAND...: leaves $status, $out and $err; the output is also in the files $T/out and $T/err.
run() {
	status=0
	within "$TAP_TIMEOUT" "$@" >"$T/out" 2>"$T/err" || status=$?
	# shellcheck disable=SC2034
	out=$(cat "$T/out")
	# shellcheck disable=SC2034
	err=$(cat "$T/err")
}

ok() { # ok NAME COMMAND...: it succeeds
	tap_name=$1
	shift
	run "$@"
	if [ "$status" = 0 ]; then
		pass "$tap_name"
	else
		fail "$tap_name" "status $status of: $*" "$(tail -n 20 "$T/out")" "$(tail -n 20 "$T/err")"
	fi
}

not_ok() { # not_ok NAME COMMAND...: it fails, by itself and in time
	tap_name=$1
	shift
	run "$@"
	case $status in
	0 | 124 | 126 | 127 | 137)
		fail "$tap_name" "status $status of: $*" "$(tail -n 20 "$T/out")" "$(tail -n 20 "$T/err")"
		;;
	*) pass "$tap_name" ;;
	esac
}

is() { # is NAME GOT WANTED
	if [ "$2" = "$3" ]; then
		pass "$1"
	else
		fail "$1" "     got: $2" "  wanted: $3"
	fi
}

isnt() {
	if [ "$2" != "$3" ]; then
		pass "$1"
	else
		fail "$1" "got what was not wanted: $2"
	fi
}

like() { # like NAME GOT PATTERN: an extended regular expression, matched against each line
	if printf '%s\n' "$2" | grep -Eq -e "$3"; then
		pass "$1"
	else
		fail "$1" "      got: $2" "  pattern: $3"
	fi
}

unlike() {
	if printf '%s\n' "$2" | grep -Eq -e "$3"; then
		fail "$1" "       got: $2" "  matches: $3"
	else
		pass "$1"
	fi
}

# eventually SECONDS COMMAND...: tries until it succeeds. For states that come by themselves; not a test in itself:
#	ok "the job ended" eventually 10 grep -q succeeded "$MNT/runs/1/status"
eventually() {
	tap_until=$(($(date +%s) + $1 + 1))
	shift
	while ! within "$TAP_TIMEOUT" "$@"; do
		[ "$(date +%s)" -lt $tap_until ] || return 1
		sleep 0.05
	done
}

contains() { # contains FILE TEXT: for eventually
	grep -qF -e "$2" "$1" 2>/dev/null
}

# tap_from SECONDS COMMAND...: the results of a program that speaks TAP itself become ours.
tap_from() {
	tap_seconds=$1
	shift
	tap_before=$tap_number
	status=0
	within "$tap_seconds" "$@" >"$T/tap" 2>&1 || status=$?
	while IFS= read -r tap_line; do
		tap_name=$(printf '%s\n' "$tap_line" | sed 's/^\(not \)\{0,1\}ok *[0-9]* *-\{0,1\} *//')
		case $tap_line in
		*"ok "*"# SKIP"*) skip "${tap_name#\# SKIP }" "it says so" ;;
		"ok "*) pass "$tap_name" ;;
		"not ok "*) fail "$tap_name" ;;
		1..*) ;;
		*) diag "$tap_line" ;;
		esac
	done <"$T/tap"
	if [ $tap_number = "$tap_before" ] || { [ $status != 0 ] && [ $tap_failed = 0 ]; }; then
		fail "$1 ends well" "status $status, $((tap_number - tap_before)) results"
	fi
}

# Passes on the results of a program that prints lines `ok NAME` and `not ok NAME`, each followed by comments.
tap_lines() { # tap_lines FILE
	tap_why=
	tap_name=
	while IFS= read -r tap_line; do
		case $tap_line in
		'# '* | '#') tap_why="$tap_why${tap_line#\# }
" ;;
		*)
			tap_flush
			tap_name=$tap_line
			;;
		esac
	done <"$1"
	tap_flush
}

tap_flush() {
	case $tap_name in
	'ok '*) pass "${tap_name#ok }" ;;
	'not ok '*) fail "${tap_name#not ok }" "$tap_why" ;;
	esac
	tap_name=
	tap_why=
}

in_background() { # in_background COMMAND...: leaves $pid; ended with the test
	"$@" &
	pid=$!
	tap_pids="$tap_pids $pid"
}

# --- mounts ---------------------------------------------------------------------------------------------------------

need_fuse() {
	[ -x "$SLURMRAY" ] || skip_all "there is no $SLURMRAY; run make first"
	if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
		skip_all "/dev/fuse is missing or may not be used (as root: mknod /dev/fuse c 10 229; chmod 666 /dev/fuse)"
	fi
}

is_mounted() {
	grep -qF " $1 " /proc/self/mountinfo
}

# start_mount DIR CONFIG STATE [OPTION...]: leaves $mount_pid; its messages are in $T/mount.log.
start_mount() {
	need_fuse
	tap_dir=$1
	tap_conf=$2
	tap_state=$3
	shift 3
	mkdir -p "$tap_dir"
	tap_mounts="$tap_dir $tap_mounts"
	"$SLURMRAY" mount "$tap_dir" --config "$tap_conf" --state "$tap_state" --foreground "$@" >>"$T/mount.log" 2>&1 &
	mount_pid=$!
	tap_pids="$tap_pids $mount_pid"
	tap_until=$(($(date +%s) + TAP_TIMEOUT))
	until is_mounted "$tap_dir" && timeout -k 1 5 test -e "$tap_dir/README"; do
		if ! kill -0 $mount_pid 2>/dev/null || [ "$(date +%s)" -gt $tap_until ]; then
			fail "slurmray mount serves $tap_dir" "$(tail -n 20 "$T/mount.log")"
			exit 1
		fi
		sleep 0.02
	done
}

stop_mount() { # stop_mount [DIR]
	within "$TAP_TIMEOUT" "$SLURMRAY" umount "${1:-$MNT}"
}

# Jobs run as processes of this machine. Lines for the configuration may come on standard input: mount_local <<EOF
mount_local() {
	tap_config="$T/config"
	if [ -p /dev/stdin ] || [ -f /dev/stdin ]; then
		cat >"$tap_config"
	else
		printf '[defaults]\ncluster = local\n' >"$tap_config"
	fi
	start_mount "$MNT" "$tap_config" "$STATE" "$@"
}

# A Slurm of this test alone, with the environment that says where: see scripts/testbed.
need_testbed() {
	[ -z "$tap_testbed" ] || return 0
	for tap_program in slurmctld slurmd munged sshd; do
		PATH=$PATH:/usr/sbin command -v $tap_program >/dev/null ||
			skip_all "$tap_program is not installed (scripts/deps check)"
	done
	TESTBED_DIR=$T/testbed
	tap_testbed=$TESTBED_DIR
	export TESTBED_DIR
	if ! timeout -k 5 90 "$ROOT/scripts/testbed" up >"$T/testbed.out" 2>&1; then
		fail "a testbed comes up" "$(tail -n 20 "$T/testbed.out")"
		exit 1
	fi
	eval "$("$ROOT/scripts/testbed" env)"
	unset SLURM_CONF # the mount must find the cluster by its configuration alone
	# shellcheck disable=SC2034
	DEMO_HOME=$TESTBED_DIR/home
}

testbed() { # the testbed's own commands: testbed sshd-stop
	timeout -k 5 90 "$ROOT/scripts/testbed" "$@"
}

on_cluster() { # a command on the login node, past slurmray
	timeout -k 5 "$TAP_TIMEOUT" ssh -F "$TESTBED_SSH_CONFIG" "$TESTBED_HOST" "$@"
}

# Jobs run on the testbed. Lines on standard input are appended to its configuration.
mount_demo() {
	need_testbed
	cp "$TESTBED_CONFIG" "$T/config"
	if [ -p /dev/stdin ] || [ -f /dev/stdin ]; then
		cat >>"$T/config"
	fi
	start_mount "$MNT" "$T/config" "$STATE" "$@"
}

# --- the end --------------------------------------------------------------------------------------------------------

tap_unmount() {
	is_mounted "$1" || return 0
	timeout -k 2 10 "$SLURMRAY" umount "$1" >/dev/null 2>&1 || true
	is_mounted "$1" || return 0
	umount -l "$1" 2>/dev/null || fusermount3 -uz "$1" 2>/dev/null || true
}

# Whatever was started by this test has its HOME: jobs in sessions of their own, supervisors, servers.
tap_kill_leftovers() {
	for tap_environ in $(grep -lszxF "HOME=$T/home" /proc/[0-9]*/environ); do
		tap_pid=${tap_environ#/proc/}
		kill -KILL "${tap_pid%/environ}" 2>/dev/null || true
	done
}

tap_exit() {
	tap_status=$?
	trap '' HUP INT TERM
	trap - EXIT
	set +e
	cd / || exit 99
	if [ $tap_done = no ]; then
		fail "the test came to its end" "it stopped with status $tap_status before done_testing"
	fi
	if [ $tap_failed != 0 ] && [ -s "$T/mount.log" ]; then
		diag "the mount's messages:" "$(tail -n 30 "$T/mount.log")"
	fi
	for tap_dir in $tap_mounts; do
		tap_unmount "$tap_dir"
	done
	for tap_pid in $tap_pids; do
		kill -TERM "$tap_pid" 2>/dev/null
	done
	[ -z "$tap_testbed" ] || TESTBED_DIR=$tap_testbed "$ROOT/scripts/testbed" down 2>&1 | sed 's/^/# /'
	tap_kill_leftovers
	if [ -n "${TAP_KEEP:-}" ]; then
		diag "kept: $T"
	else
		rm -rf --one-file-system "$T"
	fi
	[ $tap_done = skip ] && exit 77
	echo "1..$tap_number"
	[ $tap_failed = 0 ] || exit 1
	exit 0
}
trap tap_exit EXIT
trap 'exit 143' HUP INT TERM
