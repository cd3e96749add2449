#!/bin/bash
# What goes over the wire, counted by tests/tools/proxy between a mount and the sshd of a testbed: round trips until a job
# exists, logins and bytes for a hundred jobs, what an idle mount says. A table in Markdown.
# usage: wire.sh SLURMRAY PROXY TESTBED-DIR [JOBS]
set -eu
RAY=${1:?usage: wire.sh SLURMRAY PROXY TESTBED-DIR [JOBS]}
PROXY=${2:?usage: wire.sh SLURMRAY PROXY TESTBED-DIR [JOBS]}
BED=${3:?usage: wire.sh SLURMRAY PROXY TESTBED-DIR [JOBS]}
JOBS=${4:-100}
TRIES=${TRIES:-10}

work=$(mktemp -d "${TMPDIR:-/tmp}/slurmray-wire.XXXXXX")
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
submit() { # prints the id
	local id
	exec 3<>"$mnt/runs/new"
	echo "$1" >&3
	read -r id <&3
	exec 3>&-
	echo "$id"
}
median() {
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}
complete() {
	grep -q '^logs complete' "$mnt/runs/$1/info"
}
is_up() {
	grep -qx 'link up' "$mnt/clusters/demo/status"
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

# The claim in the attempt's directory is made when sbatch has given the id: then the job exists. The line is slow, so
# that nothing that comes after it can be counted.
network "delay 50"
runs=("$BED"/home/.slurmray/*/runs)
for _ in $(seq "$TRIES"); do
	network reset
	id=$(submit true)
	until [ -L "${runs[0]}/$id/a1/claim" ]; do
		sleep 0.002
		runs=("$BED"/home/.slurmray/*/runs)
	done
	net flips >>"$work/trips"
	timeout 60 cat "$mnt/runs/$id/wait" >/dev/null
	until_true 30 complete "$id"
	sleep 1.5 # until clean-up is through
done
network reset
ssh -F "$work/ssh" slurmray-demo 'sbatch --parsable -o /dev/null --wrap true' </dev/null >/dev/null
by_ssh=$(net flips)
network "delay 0"

network reset
before=$(grep -c 'Accepted publickey' "$BED/log/sshd.log")
ids=()
for _ in $(seq "$JOBS"); do
	ids+=("$(submit 'seq 1 10')")
done
good=0
for id in "${ids[@]}"; do
	[ "$(timeout 120 cat "$mnt/runs/$id/wait")" != "succeeded 0" ] || good=$((good + 1))
done
until_true 60 complete "${ids[-1]}"
new=$(($(grep -c 'Accepted publickey' "$BED/log/sshd.log") - before))
up=$(net client_bytes) down=$(net server_bytes) flips=$(net flips)
logins=$((new + 1)) # the one that was there

sleep 5
network reset
sleep 30
idle=$(($(net client_bytes) + $(net server_bytes)))

echo '| what | count |'
echo '|---|---|'
echo "| round trips before the job exists: slurmray (median of $TRIES; least, most) | $(median <"$work/trips") ($(sort -n "$work/trips" | head -n 1), $(sort -n "$work/trips" | tail -n 1)) |"
echo "| the same: \`ssh host sbatch\`, new connection, until it returns | $by_ssh |"
echo "| logins for $JOBS jobs ($good succeeded) | $logins |"
echo "| round trips for $JOBS jobs, with their logs and ends | $flips |"
echo "| bytes for a job: up, down | $((up / JOBS)), $((down / JOBS)) |"
echo "| bytes of an idle mount in 30 s, both ways | $idle |"
