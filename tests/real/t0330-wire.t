#!/bin/bash
# What goes over the wire, counted between the mount and sshd (tests/tools/proxy.c) and on the login node (programs in
# front of Slurm's own that leave a line each time). The comments with numbers are for docs/benchmarks.md.
# TEST_SECONDS=70
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
need_proxy
export NODES=4 CPUS=8
proxy_testbed
# What follows writes programs with the names of Slurm's own: below the testbed, or not at all.
case ${DEMO_HOME:-} in
"$T"/*) mkdir "$DEMO_HOME/bin" || exit 99 ;;
*) fail "the testbed's home is below $T" "it is '${DEMO_HOME:-}'" && exit 99 ;;
esac
for program in squeue sbatch scontrol scancel sacct sinfo; do
	printf '#!/bin/sh\necho %s >>%s/calls\nexec %s "$@"\n' $program "$DEMO_HOME" "$(command -v $program)" \
		>"$DEMO_HOME/bin/$program"
done
chmod +x "$DEMO_HOME"/bin/*
for file in .bashrc .profile .zshenv; do
	# shellcheck disable=SC2016
	echo 'PATH=$HOME/bin:$PATH' >>"$DEMO_HOME/$file"
done
mount_demo
ok "the link is up" eventually 20 link_is up

calls() { # calls PROGRAM
	grep -cx "$1" "$DEMO_HOME/calls" 2>/dev/null
}

ended "$(submit "-- true")" >/dev/null
ok "whether the cluster keeps accounts is asked after the first end" eventually 15 grep -qx sacct "$DEMO_HOME/calls"
sleep 1

# --- a submission ---

# flips counts how often bytes of the client came after bytes of the server: the number of times that the client has
# said something and may have waited for an answer before. Read as soon as the job's claim is there, which is what
# makes it exist: 1 is the submission itself, and nothing that was asked before it. The network is slow, so that the answer
# has not come back yet then.
network "delay 300"
trips=
for i in 1 2 3 4 5; do
	network reset
	id=$(submit "-- true")
	until [ -L "$(echo "$DEMO_HOME"/.slurmray/*/runs/"$id"/a1)/claim" ]; do sleep 0.005; done
	trips="$trips$(net flips) "
	ended "$id" >/dev/null
	eventually 10 contains "$MNT/runs/$id/info" 'logs complete'
	sleep 1 # until clean-up is through
done
network "delay 0"
is "one round trip between the write and the job" "$trips" "1 1 1 1 1 "

# --- nothing to do ---

wire() { echo $(($(net client_bytes) + $(net server_bytes))); }
silent() { # clean-up of what ended is through, however slow this machine is
	local before
	before=$(wire)
	sleep 2
	[ "$(wire)" = "$before" ]
}
ok "after the last end nothing is left to say" eventually 60 silent
network reset
: >"$DEMO_HOME/calls"
sleep 14
diag "idle for 14 s: bytes up $(net client_bytes), down $(net server_bytes), round trips $(net flips)"
ok "idle: a sign of life at most" test "$(net flips)" -le 1 -a $(($(net client_bytes) + $(net server_bytes))) -le 400
is "and no command" "$(wc -l <"$DEMO_HOME/calls")" 0

id=$(submit "-- echo here; sleep 300")
ok "a job that says nothing" eventually 15 test -s "$MNT/runs/$id/log" # stat(2): nobody reads it
network reset
: >"$DEMO_HOME/calls"
sleep 14
diag "one silent job for 14 s: bytes up $(net client_bytes), down $(net server_bytes), round trips $(net flips), squeue $(calls squeue)"
ok "is asked about less and less" test "$(calls squeue)" -le 12
ok "for few bytes: about a kilobyte a second" test $(($(net client_bytes) + $(net server_bytes))) -lt 21000
is "cancel" "$(order "$id" cancel)" ok
is "ends it" "$(ended "$id")" "cancelled 143"
is "accounts were asked for no more" "$(calls sacct)" 0
# --- a hundred jobs ---

sleep 1
network reset
: >"$DEMO_HOME/calls"
began=$(date +%s)
ids=()
for i in $(seq 100); do
	ids+=("$(submit "-- $(mark "$i"); echo $i; sleep 1")")
	sleep 0.1
done
ends=0 counts=0
for i in $(seq 100); do
	[ "$(ended "${ids[i - 1]}" 60)" != "succeeded 0" ] || ends=$((ends + 1))
	[ "$(ran "$i")" != 1 ] || counts=$((counts + 1))
done
took=$(($(date +%s) - began))
is "100 jobs in $took s, each once" "$ends $counts" "100 100"
eventually 10 sh -c "for f in $MNT/runs/*/info; do grep -q '^logs complete' \$f || exit 1; done"
is "one login" "$(net connections) $(grep -c 'Accepted publickey' "$TESTBED_DIR/log/sshd.log")" "0 1"
diag "100 jobs of a second in $took s: sbatch $(calls sbatch), squeue $(calls squeue), scontrol $(calls scontrol), sacct $(calls sacct)" \
	"  bytes up $(net client_bytes), down $(net server_bytes), round trips $(net flips)"
is "one sbatch each" "$(calls sbatch)" 100
ok "one query a second at most, for all of them" test "$(calls squeue)" -le $((took + 2))
ok "no question about single jobs" test $(($(calls scontrol) + $(calls sacct))) -le 4
ok "less than 40 kB a job, its script, logs and end included" test $((($(net client_bytes) + $(net server_bytes)) / 100)) -lt 40000

done_testing
