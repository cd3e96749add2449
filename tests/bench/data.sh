#!/bin/bash
# Data up and down, through tests/tools/proxy between a mount and the sshd of a testbed: many small files over a line with a
# delay, and one large file beside `ssh cat` through the same proxy. A table in Markdown.
# usage: data.sh SLURMRAY PROXY TESTBED-DIR [FILES [MEGABYTES]]
# Environment: DELAY=50 (milliseconds each way), LIMIT=600 (seconds for a copy), RATE=0 (bytes a second of the line for the large
# file; 0: as fast as it goes), PARTS="small large".
set -eu
RAY=${1:?usage: data.sh SLURMRAY PROXY TESTBED-DIR [FILES [MEGABYTES]]}
PROXY=${2:?usage: data.sh SLURMRAY PROXY TESTBED-DIR [FILES [MEGABYTES]]}
BED=${3:?usage: data.sh SLURMRAY PROXY TESTBED-DIR [FILES [MEGABYTES]]}
FILES=${4:-10000}
MEGABYTES=${5:-1000}
DELAY=${DELAY:-50} LIMIT=${LIMIT:-600} RATE=${RATE:-0} PARTS=${PARTS:-small large}

work=$(mktemp -d "${TMPDIR:-/tmp}/slurmray-data.XXXXXX")
mnt=$work/mnt proxy_pid=
finish() {
	trap - EXIT
	! grep -qF " $mnt " /proc/self/mountinfo || timeout 20 "$RAY" umount "$mnt" >/dev/null 2>&1 ||
		fusermount3 -uz "$mnt" 2>/dev/null || umount -l "$mnt" || true
	[ -z "$proxy_pid" ] || kill "$proxy_pid" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

until_true() { # until_true SECONDS COMMAND...
	local tries=$(($1 * 50))
	shift
	while [ $((tries -= 1)) -ge 0 ]; do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.02
	done
	echo "never: $*" >&2
	exit 1
}
net() {
	sleep 0.02 # it writes its file at most every 5 ms
	sed -n "s/^$1 //p" "$work/stats"
}
commands=0
taken() {
	[ "$(net commands)" = $commands ]
}
network() { # and waits until it has taken effect
	commands=$((commands + 1))
	echo "$1" >"$work/control"
	until_true 5 taken
}
since() { # seconds with two digits
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }'
}
rate() { # MB/s of $1 megabytes in $2 seconds
	awk -v m="$1" -v s="$2" 'BEGIN { printf "%.1f", s ? m / s : 0 }'
}
submit() { # prints the id
	local id
	exec 3<>"$mnt/runs/new"
	echo "$1" >&3
	read -r id <&3
	exec 3>&-
	echo "$id"
}
is_up() {
	grep -qx 'link up' "$mnt/clusters/demo/status"
}
ended() { # ended RUN: waits, fails unless it succeeded
	local word
	word=$(timeout "$LIMIT" cat "$mnt/runs/$1/wait")
	[ "$word" = 'succeeded 0' ] || {
		echo "run $1: $word: $(cat "$mnt/runs/$1/why")" >&2
		exit 1
	}
}
rss() { # megabytes of the worker: now and most
	awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$(cat "$work/state/worker.pid")/status"
}

port=$(sed -n 's/^\tPort //p' "$BED/ssh/config")
"$PROXY" 0 "$port" --stats "$work/stats" --control "$work/control" &
proxy_pid=$!
until_true 10 test -s "$work/stats"
through=$(net port)
sed "s/$port/$through/" "$BED/ssh/known_hosts" >"$work/known_hosts"
sed "s/Port $port/Port $through/; s,UserKnownHostsFile .*,UserKnownHostsFile $work/known_hosts," "$BED/ssh/config" >"$work/ssh"
sed "s,^ssh_config = .*,ssh_config = $work/ssh," "$BED/config" >"$work/config"
mkdir "$mnt"
timeout 60 "$RAY" mount "$mnt" --config "$work/config" --state "$work/state" >/dev/null 2>"$work/mount.log" </dev/null || {
	cat "$work/mount.log" >&2
	exit 1
}
until_true 30 is_up

echo "| what | bytes | seconds | MB/s | beside it |"
echo "|---|---|---|---|---|"

small() {
	local t id
	mkdir "$work/many"
	for d in $(seq 0 9); do
		mkdir "$work/many/$d"
	done
	head -c $((FILES * 1000)) /dev/urandom | (cd "$work/many" && python3 -c '
import sys
for i in range(int(sys.argv[1])):
    open("%d/f%05d" % (i % 10, i), "wb").write(sys.stdin.buffer.read(1000))' "$FILES")
	network "delay $DELAY"
	mkdir "$mnt/runs/many"
	t=$EPOCHREALTIME
	cp -r "$work/many" "$mnt/runs/many/files/"
	echo "| $FILES files of 1 kB into \`files/\` of a draft (\`cp -r\`) | $((FILES * 1000)) | $(since "$t") | | |"
	t=$EPOCHREALTIME
	# shellcheck disable=SC2016
	echo '-- date +%s.%N; cp -r many $SLURMRAY_RESULTS/' >"$mnt/runs/many/spec"
	ended many
	echo "| the same shipped: from the spec to the job's first instruction | $((FILES * 1000)) | $(awk -v a="$t" '{ printf "%.2f", $1 - a }' "$mnt/runs/many/stdout") | | |"
	t=$EPOCHREALTIME
	timeout "$LIMIT" cp -r "$mnt/runs/many/results" "$work/back" || echo "gave up: $(find "$work/back" -type f | wc -l) files" >&2
	echo "| the same back: \`cp -r runs/many/results DIR\` | $((FILES * 1000)) | $(since "$t") | | |"
	diff -r "$work/many" "$work/back/many" >/dev/null && echo "| equal | | | | |" || echo "| DIFFERENT | | | | |"
	t=$EPOCHREALTIME
	timeout "$LIMIT" ssh -F "$work/ssh" slurmray-demo 'tar -C ~/.slurmray/*/runs/1/a1/results -cf - many' </dev/null | tar -C "$work" -xf - --one-top-level=tar
	echo "| \`ssh tar\` of them, a login included | $((FILES * 1000)) | $(since "$t") | | |"
	rm -rf "$work/many" "$work/back" "$work/tar"
}

large() { # large DELAY RATE
	local t id s
	network "delay $1"
	network "rate $2"
	local line="delay $1 ms, $([ "$2" = 0 ] && echo 'no limit' || echo "$(($2 / 1000000)) MB/s")"
	local bytes=$((MEGABYTES * 1000000))
	[ -e "$work/big" ] || head -c "$bytes" /dev/urandom >"$work/big"
	t=$EPOCHREALTIME
	ssh -F "$work/ssh" slurmray-demo 'cat >big' <"$work/big"
	s=$(since "$t")
	local up=$s
	t=$EPOCHREALTIME
	ssh -F "$work/ssh" slurmray-demo 'cat big' </dev/null >"$work/back"
	local down
	down=$(since "$t")
	t=$EPOCHREALTIME
	# shellcheck disable=SC2016
	id=$(submit "{\"command\": \"date +%s.%N; mv big \$SLURMRAY_RESULTS/\", \"files\": [\"$work/big\"]}")
	ended "$id"
	s=$(awk -v a="$t" '{ printf "%.2f", $1 - a }' "$mnt/runs/$id/stdout")
	echo "| one file up ($line), until the job starts | $bytes | $s | $(rate "$MEGABYTES" "$s") | \`ssh cat\` $up s |"
	t=$EPOCHREALTIME
	timeout "$LIMIT" cp "$mnt/runs/$id/results/big" "$work/back" || echo "gave up" >&2
	s=$(since "$t")
	echo "| one file down ($line), \`cp results/big\` | $bytes | $s | $(rate "$MEGABYTES" "$s") | \`ssh cat\` $down s |"
	cmp "$work/big" "$work/back"
	ssh -F "$work/ssh" slurmray-demo 'rm -f big' </dev/null
	rmdir "$mnt/runs/$id"
	rm -f "$work/back"
}

case " $PARTS " in *" small "*) small ;; esac
case " $PARTS " in
*" large "*)
	large 0 0
	large "$DELAY" 0
	large 0 20000000
	;;
esac
echo "| most memory of the worker, MB | $(rss) | | | |"
