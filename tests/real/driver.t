#!/bin/bash
# The Slurm driver against a Slurm of its own: four nodes, private ports, private munge, everything under one temporary
# directory. TAP; exit 77 when Slurm's programs are missing. The remote shell is bash; driver-dash.t is the same with dash.
# TEST_SECONDS=130
# TEST_TIMEOUT=600
#
#	SCHEDTOOL=PATH  PORT=N  SHELLS="dash bash"  KEEP=1 (leave the directory)
#	PARTS="basic race ..." (also: limit, which takes a minute)
#	RECORD=DIR: every answer of the remote side is kept there, for tests/data/slurm

cd "$(dirname "$0")/../.." || exit 1
export PATH=$PATH:/usr/sbin:/sbin
for p in sbatch slurmctld slurmd munged scontrol; do
	command -v "$p" >/dev/null || { echo "1..0 # SKIP $p is not installed"; exit 77; }
done
TOOL=$(realpath "${SCHEDTOOL:-build/tools/schedtool}")
[ -x "$TOOL" ] || { echo "1..0 # SKIP make build/tools/schedtool first"; exit 77; }
free_ports() {
	local p
	for p in 0 1 2 3 4; do
		if (: <>"/dev/tcp/127.0.0.1/$(($1 + p))") 2>/dev/null; then return 1; fi
	done
}
for p in ${PORT:-$(seq "${PORTS_FROM:-29300}" 10 $((${PORTS_FROM:-29300} + 40)))}; do
	if free_ports "$p"; then
		PORT=$p
		break
	fi
done
[[ ${PORT-} ]] || { echo "1..0 # SKIP no free ports"; exit 77; }
PARTS=${PARTS:-basic ends verbs refused race requeue node controller frozen amnesia forgotten probes}
T=$(mktemp -d /tmp/slurmray-driver.XXXXXX)
D=$T/cluster
H=$(hostname -s)
UUID=0123abcd
N=0 FAILED=0 NUM=0 SHELLS=${SHELLS:-bash}

ok() { # CONDITION-RC NAME [DIAGNOSIS]
	N=$((N + 1))
	if [ "$1" -eq 0 ]; then echo "ok $N - $2"; return; fi
	echo "not ok $N - $2"
	FAILED=$((FAILED + 1))
	[ -z "${3-}" ] || sed 's/^/# /' <<<"$3"
}
is() { [ "$1" = "$2" ]; ok $? "$3" "got:  $1"$'\n'"want: $2"; }
like() { [[ $1 =~ $2 ]]; ok $? "$3" "got:  $1"$'\n'"want: $2"; }

# --- the cluster ---

controller_up() { slurmctld; }
node_up() { mkdir -p "$D/spool/$1"; slurmd -N "$1"; }
stop() { # PIDFILE [SIGNAL]
	local p
	p=$(cat "$1" 2>/dev/null) && [ -n "$p" ] || return 0
	kill "-${2:-TERM}" "$p" 2>/dev/null
	for _ in $(seq 200); do
		readlink "/proc/$p/exe" >/dev/null || break
		sleep 0.05
	done
	rm -f "$1"
}
cluster_down() {
	local f
	for f in "$D"/run/slurmd-*.pid; do stop "$f"; done
	stop "$D/run/slurmctld.pid"
	stop "$D/run/munged.pid"
}
cleanup() {
	cluster_down
	[ -n "${KEEP-}" ] || rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

configure() {
	mkdir -p "$D"/{munge,state,spool,log,run}
	chmod 700 "$D/munge"
	dd if=/dev/urandom of="$D/munge/key" bs=32 count=1 status=none
	chmod 600 "$D/munge/key"
	cat >"$D/slurm.conf" <<-C
	ClusterName=driver
	SlurmctldHost=$H(127.0.0.1)
	SlurmctldPort=$PORT
	SlurmUser=$(id -un)
	SlurmdUser=$(id -un)
	AuthType=auth/munge
	AuthInfo=socket=$D/run/munge.socket
	MpiDefault=none
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	ReturnToService=2
	SlurmctldPidFile=$D/run/slurmctld.pid
	SlurmdPidFile=$D/run/slurmd-%n.pid
	SlurmdSpoolDir=$D/spool/%n
	StateSaveLocation=$D/state
	SlurmctldLogFile=$D/log/slurmctld.log
	SlurmdLogFile=$D/log/slurmd-%n.log
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core_Memory
	DefMemPerCPU=10
	SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
	JobCompType=jobcomp/none
	JobAcctGatherType=jobacct_gather/linux
	KillWait=2
	MessageTimeout=10
	SlurmdTimeout=10
	SlurmdParameters=config_overrides
	NodeName=n[1-4] NodeHostname=$H NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + 4))] CPUs=16 RealMemory=4000 State=UNKNOWN
	PartitionName=compute Nodes=ALL Default=YES MaxTime=INFINITE State=UP
	PartitionName=short Nodes=ALL MaxTime=1 State=UP
	C
	export SLURM_CONF=$D/slurm.conf
}
cluster_up() {
	munged --key-file="$D/munge/key" --socket="$D/run/munge.socket" --pid-file="$D/run/munged.pid" \
		--log-file="$D/log/munged.log" --seed-file="$D/munge/seed" --force 2>/dev/null
	controller_up
	for n in n1 n2 n3 n4; do node_up $n; done
	for _ in $(seq 200); do
		[ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" = 4 ] && return 0
		sleep 0.1
	done
	return 1
}

# --- the driver ---

"$TOOL" prelude >"$T/prelude"

# Runs the code that the driver prints, in the shell of this round; the answer is in $T/o, $T/e, RC.
remote() { # [KEY=VALUE ...] CALL...
	"$TOOL" dir="$T/control" uuid=$UUID num=$NUM "$@" >"$T/code"
	far "$T/code" "$T/o" "$T/e"
	RC=$?
	[ -z "${RECORD-}" ] || keep "$@"
}
keep() {
	local word
	for word; do case $word in *=*) ;; *) break ;; esac; done
	REC=$((${REC:-0} + 1))
	cp "$T/o" "$RECORD/$(printf '%s-%s-%03d.%s.%s' "$SH" "$PART" $REC "$word" "$RC")"
}
far() { # CODE OUT ERR
	env -i HOME="$T" PATH="$PATH" SLURM_CONF="$SLURM_CONF" IN="$T/in" LC_ALL=C \
		"$SH" -c '. "$0"; . "$1"' "$T/prelude" "$1" >"$2" 2>"$3" </dev/null
}
read_back() { "$TOOL" dir="$T/control" uuid=$UUID num=$NUM rc="$RC" out="$T/o" err="$T/e" "$@"; }

# The protocol of the batch script, by hand: guard, work, exit record. BODY is the work.
script() { # BODY
	local a=$T/control/$UUID/runs/$NUM/a${A:-1}
	cat <<-S
	#!/bin/sh
	cd $a || exit 66
	_me=\${SLURM_ARRAY_JOB_ID:-\$SLURM_JOB_ID}
	_r=\${SLURM_RESTART_COUNT:-0}
	refuse() { echo "0 job \$_me: \$1" >>refused; exit 0; }
	[ ${GRANTED:-0} = 1 ] || [ "\$_r" = 0 ] || [ -e grant.\$_r ] || refuse "restart \$_r has no grant"
	for f in claim started; do
		ln -s "\$_me" \$f 2>/dev/null
		[ "\$(readlink \$f)" = "\$_me" ] || refuse "\$f is \$(readlink \$f)"
	done
	_sig=- _s=\$(date +%s)
	_who="\$(uname -n).\$\$.\$_s"
	ln -s "\$_who" begun.\$_r 2>/dev/null
	[ ${OLDGUARD:-0} = 1 ] || [ "\$(readlink begun.\$_r)" = "\$_who" ] || refuse "it began before"
	trap '_sig=TERM; kill -TERM \$_p' TERM
	trap '_sig=USR1; kill -USR1 \$_p' USR1
	echo "run" >>$T/executed.$NUM
	( $1
	) &
	_p=\$!
	wait \$_p; rc=\$?
	while kill -0 \$_p 2>/dev/null; do wait \$_p; rc=\$?; done
	printf 'v=1 run=$NUM attempt=${A:-1} job=%s rc=%s sig=%s start=%s end=%s out=- err=- restart=%s manifest=0 maxrss=- cpu=- host=h limit=-\n' \\
		\$_me \$rc \$_sig \$_s \$(date +%s) \$_r >exit.tmp && mv exit.tmp $T/control/$UUID/ends/$NUM.a${A:-1}
	exit \$rc
	S
}
submit() { # BODY [KEY=VALUE ...]
	local body=$1
	shift
	script "$body" >"$T/in"
	remote attempt=${A:-1} script="$(wc -c <"$T/in")" "$@" submit
	SAID=$(read_back answer submit)
	JOB=$(cut -d' ' -f2 <<<"$SAID")
}
next() { NUM=$((NUM + 1)) A=1; }
row() { remote poll; read_back answer poll | grep " slurmray:$UUID/$NUM/a${A:-1} "; }
state() { row | cut -d' ' -f5; }
await() { # STATUS
	for _ in $(seq "${2:-300}"); do
		[ "$(state)" = "$1" ] && return 0
		sleep 0.1
	done
	return 1
}
verify() { # [KEY=VALUE ...]
	remote attempt=${A:-1} job="$JOB" "$@" verify
	read_back attempt=${A:-1} job="$JOB" "$@" answer verify
}
field() { sed 's/^[a-z-]* //' <<<"$1" | grep -o "\"$2\":[^,}]*" | cut -d: -f2- | tr -d '"'; }
verb() {
	remote attempt=${A:-1} job="$JOB" verb "$@"
	read_back answer verb "$@"
}
record_there() {
	for _ in $(seq 300); do
		[ -e "$T/control/$UUID/ends/$NUM.a${A:-1}" ] && return 0
		sleep 0.1
	done
	return 1
}
adir() { echo "$T/control/$UUID/runs/$NUM/a${A:-1}"; }
executed() { if [ -e "$T/executed.$NUM" ]; then wc -l <"$T/executed.$NUM" | tr -d ' '; else echo 0; fi; }

# --- the parts ---

part_basic() {
	next
	submit 'echo hello; echo oops >&2' name="it's a \"job\" | x"
	like "$SAID" '^ok [0-9]+ ' "$SH: submitted"
	record_there
	is "$(cat "$(adir)/stdout")/$(cat "$(adir)/stderr")" 'hello/oops' "$SH: two streams"
	is "$(readlink "$(adir)/claim")" "$JOB" "$SH: the claim names the job"
	is "$(stat -c %a "$(adir)")" 700 "$SH: the attempt's directory is private"
	local first=$JOB
	submit 'echo hello'
	is "$SAID" "ok $first " "$SH: a second submission gives the same job"
	is "$(executed)" 1 "$SH: executed once"
	await succeeded
	is "$(state)" succeeded "$SH: the poll says succeeded"
	ls -A "$(adir)" | grep -q tmp
	is $? 1 "$SH: no temporary files are left"

	next
	mkdir -p "$T/files/sub"
	echo data >"$T/files/sub/a file"
	ln -sf 'sub/a file' "$T/files/link"
	tar -C "$T/files" -cf "$T/files.tar" .
	script 'cat "work/sub/a file" work/link' >"$T/in"
	local len
	len=$(wc -c <"$T/in")
	cat "$T/files.tar" >>"$T/in"
	remote script="$len" files="$(wc -c <"$T/files.tar")" merged=1 submit
	like "$(read_back answer submit)" '^ok ' "$SH: submitted with files"
	record_there
	is "$(cat "$(adir)/stdout")" $'data\ndata' "$SH: files are in the working directory"
	[ ! -e "$(adir)/stderr" ]
	ok $? "$SH: merged streams have one file"

	next
	script 'cat work/x' >"$T/in"
	len=$(wc -c <"$T/in")
	head -c 3000 "$T/files.tar" >>"$T/in"
	remote script="$len" files=99999 submit
	like "$(read_back answer submit)" '^unsure - the script arrived with' "$SH: a cut payload is not submitted"
	is "$(executed)" 0 "$SH: and nothing ran"

	next
	script 'ls work/ >seen; readlink work >>seen' >"$T/in"
	len=$(wc -c <"$T/in")
	cat "$T/files.tar" >>"$T/in"
	remote scratch="$T/scratch" script="$len" files="$(wc -c <"$T/files.tar")" output=out-%j submit
	like "$(read_back answer submit)" '^ok ' "$SH: submitted with a scratch directory"
	record_there
	is "$(tail -n 1 "$(adir)/seen")" "$T/scratch/$UUID/runs/$NUM/a1/work" "$SH: work is a link to scratch"
	ls "$T/scratch/$UUID/runs/$NUM/a1/work/" | grep -q '^out-[0-9]*$'
	ok $? "$SH: a relative --output is in the working directory"
}

part_ends() {
	local code
	for code in 0 1 137; do
		next
		submit "exit $code"
		record_there
		await "$([ $code = 0 ] && echo succeeded || echo failed)"
		local v
		v=$(verify)
		like "$v" '^end ' "$SH: exit $code: verify gives an end"
		is "$(field "$v" exit_code)" $code "$SH: exit $code: the code"
		rm "$T/control/$UUID/ends/$NUM.a1"
		v=$(verify)
		is "$(field "$v" status) $(field "$v" exit_code)" \
			"$([ $code = 0 ] && echo succeeded || echo failed) $code" "$SH: exit $code: without a record"
	done
	next
	submit 'sleep 60'
	await running
	v=$(verify)
	is "$(cut -d' ' -f1 <<<"$v") $(field "$v" status)" 'state running' "$SH: a job that runs is alive"
	scancel --batch -s KILL "$JOB"
	await failed
	v=$(verify)
	is "$(field "$v" status) $(field "$v" signal)" 'failed 9' "$SH: killed without a record"
	next
	submit 'echo never' error=/nowhere/x
	await failed
	v=$(verify)
	like "$v" 'could not be started' "$SH: an output file that cannot be written"
	is "$(readlink "$(adir)/started")" void "$SH: and the attempt is void"
}

part_verbs() {
	next
	submit 'sleep 60' hold=1
	is "$(state)" pending "$SH: held"
	is "$(verb release)" done "$SH: release"
	await running
	ok $? "$SH: runs after release"
	is "$(verb hold)" 'errno 16 hold: the job is not waiting in the queue: RUNNING' "$SH: a running job cannot be held"
	is "$(verb update time=30)" done "$SH: update time"
	like "$(scontrol show job "$JOB")" 'TimeLimit=00:30:00' "$SH: the limit is there"
	like "$(verb update time=bogus)" '^errno 22 ' "$SH: a bad limit is EINVAL"
	is "$(verb cancel)" done "$SH: cancel a running job"
	record_there
	await cancelled
	v=$(verify)
	is "$(field "$v" status) $(field "$v" exit_code)" 'cancelled 143' "$SH: it ended cancelled"
	like "$(verb cancel)" '^errno 3 ' "$SH: cancelling again is ESRCH"
	like "$(verb hold)" '^errno (3|16) ' "$SH: holding it too is refused"

	next
	submit 'echo no' hold=1
	is "$(verb cancel)" done "$SH: cancel a pending job"
	is "$(readlink "$(adir)/started")" void "$SH: it can never start"
	await cancelled
	v=$(verify)
	is "$(field "$v" status)" cancelled "$SH: cancelled before it started"
	is "$(executed)" 0 "$SH: it never ran"
	submit 'echo no'
	is "$SAID" 'void - ' "$SH: the attempt cannot be submitted again"

	next
	JOB=
	is "$(verb cancel)" done "$SH: cancel before the submission arrives"
	submit 'echo no'
	is "$SAID" 'void - ' "$SH: the late submission finds it void"

	next
	submit 'trap "echo got >>got" USR1; i=0; while [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done'
	await running
	sleep 0.5
	is "$(verb signal USR1)" done "$SH: signal"
	sleep 1
	is "$(cat "$(adir)/got")" got "$SH: the command got it once"
	like "$(verb signal NOSUCH)" '^errno 22 ' "$SH: no such signal is EINVAL"
	JOB=999999
	like "$(verb hold)" '^errno 3 hold: the scheduler does not know job 999999' "$SH: an unknown job is ESRCH"
	JOB=1
	like "$(verb hold)" '^errno 3 hold: (job 1 belongs|the scheduler does not know)' "$SH: another's job is left alone"
}

part_refused() {
	next
	submit 'echo no' opt=--partition=nowhere
	like "$SAID" '^refused - .*nvalid partition' "$SH: a bad partition is refused"
	is "$(readlink "$(adir)/started")" void "$SH: and the attempt is void"
	submit 'echo no'
	like "$SAID" '^refused - .*nvalid partition' "$SH: asking again says the same"
	next
	submit 'echo no' opt=--mem=999999999
	like "$SAID" '^refused ' "$SH: too much memory is refused"
	next
	submit 'echo no' opt=--nonsense
	like "$SAID" '^refused - .*nonsense' "$SH: an unknown option is refused"
	next
	submit 'echo no' opt=--time=tomorrow
	like "$SAID" '^refused ' "$SH: a bad time is refused"
}

# Four submitters at once; each has a shell of its own.
part_race() {
	local i k bad=0 wrong=0
	SPREAD=
	for i in $(seq "${RACES:-20}"); do
		next
		script 'sleep 0.1' >"$T/in"
		"$TOOL" dir="$T/control" uuid=$UUID num=$NUM script="$(wc -c <"$T/in")" submit >"$T/code"
		for k in 1 2 3 4; do
			far "$T/code" "$T/race.$k" "$T/race.e.$k" &
		done
		wait $(jobs -p)
		record_there || bad=$((bad + 1))
		k=$(cat "$T"/race.[1-4] | grep -c "^ok $(readlink "$(adir)/claim")\$")
		[ "$k" = 4 ] || wrong=$((wrong + 1))
		SPREAD="$SPREAD $(squeue -h -t all -o '%k' | grep -c "^slurmray:$UUID/$NUM/a1$")"
	done
	sleep 1
	for i in $(seq $((NUM - ${RACES:-20} + 1)) $NUM); do
		k=$(NUM=$i executed)
		[ "$k" = 1 ] || { bad=$((bad + 1)); echo "# run $i was executed $k times"; }
	done
	is $bad 0 "$SH: every run was executed once (jobs made per run:$SPREAD)"
	is $wrong 0 "$SH: every submitter was told the job that ran"
}

part_requeue() {
	next
	submit 'sleep 30'
	await running
	for _ in $(seq 100); do # Slurm says running before the first line of the script runs
		[ "$(executed)" = 0 ] || break
		sleep 0.1
	done
	scontrol update jobid="$JOB" requeue=1
	scontrol requeue "$JOB"
	sleep 1.5
	rm -f "$T/control/$UUID/ends/$NUM.a1"
	v=$(verify)
	is "$(field "$v" status)" node_failed "$SH: requeued by hand without leave is an end"
	like "$v" 'does not start a job twice' "$SH: and says why"
	is "$(squeue -h -j "$JOB,$JOB" -o %T)" '' "$SH: it is taken out of the queue"
	is "$(executed)" 1 "$SH: executed once"

	next
	GRANTED=1 submit 'sleep 30' requeue=1
	await running
	scontrol requeue "$JOB"
	sleep 1.5
	v=$(verify requeue=1)
	is "$(cut -d' ' -f1 <<<"$v") $(field "$v" status)" 'state pending' "$SH: with requeue=true it stays alive"
	scancel "$JOB"

	next
	submit 'sleep 30'
	await running
	is "$(verb requeue)" done "$SH: the verb requeue"
	sleep 1.5
	v=$(verify)
	is "$(cut -d' ' -f1 <<<"$v") $(field "$v" status)" 'state pending' "$SH: a requeue that was asked for is no end"
	scancel "$JOB"
}

part_node() {
	next
	submit 'sleep 60' opt=--nodelist=n4
	await running
	stop "$D/run/slurmd-n4.pid"
	scontrol update nodename=n4 state=down reason=test
	for _ in $(seq 100); do [ "$(state)" = node_failed ] && break; sleep 0.1; done
	is "$(state)" node_failed "$SH: the poll says node_failed"
	v=$(verify)
	is "$(field "$v" status)" node_failed "$SH: a node that failed"
	node_up n4
	scontrol update nodename=n4 state=resume 2>/dev/null
	for _ in $(seq 100); do [ "$(sinfo -h -n n4 -o %T | head -n 1)" = idle ] && break; sleep 0.1; done
}

part_controller() {
	next
	submit 'sleep 30; exit 3'
	await running
	: >"$T/running"
	sleep 1
	# until the controller has saved its state, which it does every few seconds; else see part_amnesia
	for _ in $(seq 200); do [ "$D/state/job_state" -nt "$T/running" ] && break; sleep 0.1; done
	sleep 1
	stop "$D/run/slurmctld.pid" KILL
	NUM=$((NUM + 1))
	submit 'echo later'
	like "$SAID" '^unsure - .*nable to contact' "$SH: no controller: unsure"
	NUM=$((NUM - 1))
	JOB=$(readlink "$(adir)/claim")
	remote poll
	like "$(read_back answer poll)" '^errno 11 ' "$SH: no controller: the poll says so"
	is "$(verify)" '- {}' "$SH: no controller: no verdict"
	controller_back
	NUM=$((NUM + 1))
	submit 'echo later'
	like "$SAID" '^ok ' "$SH: submitted when it is back"
	record_there
	is "$(executed)" 1 "$SH: executed once"
	NUM=$((NUM - 1))
	record_there
	await failed
	JOB=$(readlink "$(adir)/claim")
	v=$(verify)
	is "$(field "$v" status) $(field "$v" exit_code)" 'failed 3' "$SH: the other job went on"
	NUM=$((NUM + 1))
}

# A controller that is killed before it saved that the job runs starts it a second time: same id, restart count 0. Here its
# state is put back by hand, and the second start goes to another node, for a node refuses a second copy by itself.
part_amnesia() {
	next
	submit 'sleep 1; exit 3' hold=1 opt=--nodelist=n1
	stop "$D/run/slurmctld.pid"
	cp -r "$D/state" "$T/state"
	controller_back
	scontrol release "$JOB"
	await running
	stop "$D/run/slurmctld.pid" KILL
	record_there
	rm -rf "${D:?}/state"
	mv "$T/state" "$D/state"
	controller_back
	scontrol update "jobid=$JOB" reqnodelist=n2
	scontrol release "$JOB"
	for _ in $(seq 900); do [ -e "$(adir)/refused" ] && break; sleep 0.1; done
	is "$(executed)" 1 "$SH: a controller that forgot a start: executed once"
	like "$(cat "$(adir)/refused")" 'it began before' "$SH: the guard refused the second start"
	sleep 1
	v=$(verify)
	is "$(field "$v" status) $(field "$v" exit_code)" 'failed 3' "$SH: the first start decides the end"
	nodes_fresh
}
controller_back() {
	controller_up
	for _ in $(seq 100); do scontrol ping | grep -q UP && break; sleep 0.1; done
}
# A node that remembers a job refuses another with its number, and the controller starts to count again here.
nodes_fresh() {
	local n
	for n in n1 n2 n3 n4; do
		stop "$D/run/slurmd-$n.pid"
		node_up $n
	done
	nodes_idle
}
nodes_idle() {
	for _ in $(seq 300); do
		[ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = 4 ] && return
		sleep 0.1
	done
}

# The controller does not answer for a second while two submissions are on their way; one of their sbatch is killed.
part_frozen() {
	local i k p bad=0 ids
	for i in 1 2 3 4 5; do
		next
		script 'sleep 0.1' >"$T/in"
		"$TOOL" dir="$T/control" uuid=$UUID num=$NUM script="$(wc -c <"$T/in")" submit >"$T/code"
		p=$(cat "$D/run/slurmctld.pid")
		kill -STOP "$p"
		ids=
		for k in 1 2; do
			far "$T/code" "$T/race.$k" "$T/race.e.$k" &
			ids="$ids $!"
		done
		sleep 0.5
		k=$(pgrep -f "^sbatch .*slurmray:$UUID/$NUM/a1" | head -n 1)
		[ -z "$k" ] || kill -KILL "$k"
		sleep 0.5
		kill -CONT "$p"
		for k in 1 2 3; do
			far "$T/code" "$T/race.3" "$T/race.e.3"
			grep -q '^ok ' "$T/race.3" && break
		done
		# shellcheck disable=SC2086
		wait $ids
		record_there
		sleep 1.5
		k=$(executed)
		[ "$k" = 1 ] || { bad=$((bad + 1)); echo "# run $NUM was executed $k times"; }
		is "$(cat "$T/race.3")" "ok $(readlink "$(adir)/claim")" "$SH: frozen controller: the last submitter is told the job that ran"
	done
	is $bad 0 "$SH: frozen controller: every run was executed once"
}

part_limit() {
	next
	submit 'trap "" TERM; while :; do sleep 1; done' opt=--partition=short opt=--time=1
	await timeout 1500
	v=$(verify)
	is "$(field "$v" status)" timeout "$SH: the time limit"
	next
	submit 'trap "exit 0" TERM; while :; do sleep 1; done' opt=--partition=short opt=--time=1
	await timeout 1500
	v=$(verify)
	is "$(field "$v" status) $(field "$v" exit_code)" 'timeout 0' "$SH: a script that traps the limit and ends with 0"
}

# The controller loses its state: jobs that had not started are lost, those that had are not run again.
part_forgotten() {
	next
	submit 'echo no' hold=1
	local held=$JOB
	next
	submit 'sleep 2'
	await running
	record_there
	rm "$T/control/$UUID/ends/$NUM.a1"
	stop "$D/run/slurmctld.pid" KILL
	rm -rf "${D:?}"/state/*
	controller_back
	v=$(verify)
	is "$(cut -d' ' -f1 <<<"$v") $(field "$v" status)" 'end failed' "$SH: forgotten after it started"
	like "$v" 'cause unknown' "$SH: says that the cause is not known"
	NUM=$((NUM - 1)) JOB=$held
	v=$(verify)
	like "$v" '^lost .*lost the job before it started' "$SH: forgotten before it started: lost"
	is "$(readlink "$(adir)/started")" void "$SH: and void"
	A=2 submit 'echo second'
	A=2
	like "$SAID" '^ok ' "$SH: the next attempt is submitted"
	record_there
	is "$(executed)" 1 "$SH: executed once"
	NUM=$((NUM + 1))
	nodes_fresh

	# purged while nobody looked, the controller up all the time
	next
	submit 'echo no' hold=1
	touch -h -d '+1 hour' "$(adir)/claim"
	JOB=888888
	v=$(verify)
	is "$(field "$v" status)" cancelled "$SH: vanished under a controller that never stopped"
	like "$v" 'vanished before it started' "$SH: and says so"
}

part_probes() {
	local w
	for w in info partitions nodes queue shares; do
		remote probe $w
		read_back answer probe $w >"$T/json"
		python3 -c 'import json,sys; json.load(open(sys.argv[1]))' "$T/json" 2>/dev/null
		ok $? "$SH: $w is JSON" "$(head -c 300 "$T/json")"
	done
}

configure
cluster_up || { echo "Bail out! the cluster did not start"; exit 1; }
mkdir -p "$T/control"
for SH in $SHELLS; do
	for PART in $PARTS; do "part_$PART"; done
	scancel -u "$(id -un)" 2>/dev/null
done
echo "1..$N"
[ $FAILED = 0 ]
