# shellcheck shell=bash
# For tests that break things; after tap.sh, in bash.

# submit SPEC...: a run per argument; prints its id. The line is complete, so read(2) gives the id as soon as it is in
# the journal, whatever the cluster does.
submit() {
	# shellcheck disable=SC2016
	timeout -k 5 "$TAP_TIMEOUT" bash -c 'exec 3<>"$1/${3:-runs/new}" && printf "%s\n" "$2" >&3 && read -r id <&3 && echo "$id"' - \
		"$MNT" "$@"
}

job_of() {
	timeout 5 cat "$MNT/runs/$1/job_id"
}

word() { # word ID: its status
	timeout -k 1 5 cat "$MNT/runs/$1/status"
}

is_now() { # is_now ID WORD: for eventually
	[ "$(word "$1")" = "$2" ]
}

running() { # running ID...: waits until they are
	local id
	for id in "$@"; do
		eventually 40 is_now "$id" running || return 1
	done
}

why() {
	timeout -k 1 5 cat "$MNT/runs/$1/why"
}

ended() { # ended ID [SECONDS]: what `wait` says
	timeout -k 1 "${2:-40}" cat "$MNT/runs/$1/wait" 2>&1
}

order() { # order ID VERB...: the scheduler's answer
	# shellcheck disable=SC2016
	timeout -k 5 70 bash -c 'exec 3<>"$1" && printf "%s\n" "$2" >&3 && read -r line <&3 && echo "$line"' - \
		"$MNT/runs/$1/ctl" "$2" 2>&1
}

why_says() { # for eventually
	why "$1" | grep -Eq -e "$2"
}

link_is() {
	grep -qx "link $1" "$MNT/clusters/demo/status"
}

link_says() {
	grep -Eq "^text .*$1" "$MNT/clusters/demo/status"
}

history_has() { # history_has ID WORD: it was in this status once
	grep -q "\"to\": \"$2\"" "$MNT/runs/$1/history"
}

at_once() { # at_once NAME COMMAND...: succeeds in less than a second
	local name=$1 status=0
	shift
	timeout -k 1 1 "$@" >"$T/out" 2>"$T/err" || status=$?
	if [ $status = 0 ]; then
		pass "$name"
	else
		fail "$name" "status $status (124: over a second) of: $*" "$(head -n 5 "$T/err")"
	fi
}

# A payload that leaves a line each time it runs; ran N counts them.
mark() {
	# shellcheck disable=SC2016
	echo 'echo $SLURM_JOB_ID >>'"$DEMO_HOME/ran.$1"
}

ran() {
	if [ -f "$DEMO_HOME/ran.$1" ]; then wc -l <"$DEMO_HOME/ran.$1"; else echo 0; fi
}

# What the administrator of the testbed does.
admin() {
	SLURM_CONF=$TESTBED_DIR/slurm.conf timeout -k 5 60 "$@"
}

squeue_of() { # squeue_of JOB FORMAT
	admin squeue -h -t all -j "$1,$1" -o "$2"
}

# The pids of the login sessions on the testbed: sshd's children.
login_pids() {
	local sshd stat rest pid
	sshd=$(cat "$TESTBED_DIR/run/sshd.pid")
	for stat in /proc/[0-9]*/stat; do
		read -r rest 2>/dev/null <"$stat" || continue
		rest=${rest##*) }
		# shellcheck disable=SC2086
		set -- $rest
		[ "$2" = "$sshd" ] || continue
		pid=${stat#/proc/}
		echo "${pid%/stat}"
	done
}

cut_logins() {
	local pids
	pids=$(login_pids)
	# shellcheck disable=SC2086
	[ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
}

reconnect() {
	echo reconnect >"$MNT/clusters/demo/ctl"
}

# --- a network between the mount and the login node; see tests/tools/proxy.c ---

need_proxy() {
	PROXY=$BUILD/tools/proxy
	[ -x "$PROXY" ] || skip_all "there is no $PROXY; run make tools"
}

# Puts the proxy between a testbed and those who use its ssh configuration from now on. Before mount_demo.
proxy_testbed() {
	need_testbed
	in_background "$PROXY" 0 "$TESTBED_SSH_PORT" --stats "$T/stats" --control "$T/control"
	eventually 10 test -s "$T/stats" || skip_all "the proxy does not start"
	commands=0
	PROXY_PORT=$(net port)
	sed -i "s/Port $TESTBED_SSH_PORT/Port $PROXY_PORT/" "$TESTBED_SSH_CONFIG"
	sed "s/$TESTBED_SSH_PORT/$PROXY_PORT/" "$TESTBED_DIR/ssh/known_hosts" >>"$TESTBED_DIR/ssh/known_hosts.new"
	cat "$TESTBED_DIR/ssh/known_hosts.new" >>"$TESTBED_DIR/ssh/known_hosts"
}

net() { # net KEY: a counter of the proxy
	sleep 0.02 # it writes its file at most every 5 ms
	sed -n "s/^$1 //p" "$T/stats"
}

net_is() {
	[ "$(net "$1")" = "$2" ]
}

network() { # network COMMAND: and waits until it has taken effect
	commands=$((commands + 1))
	echo "$1" >"$T/control"
	eventually 5 net_is commands $commands
}
