#!/bin/sh
# slurmray run gpu4 (number 9), attempt 1, launcher session
# slurmray:6f1c2a34/9/a1
#
# All of the job: this wrapper starts at most once, runs the file `job` (written below),
# passes signals on to it, and leaves an exit record in `ends`.

_dir="$HOME"/.slurmray/6f1c2a34/runs/9/a1
_ends="$HOME"/.slurmray/6f1c2a34/ends
cd "$_dir" || exit 66
_host=$(uname -n)
_now() { _t=$(date +%s); }
_now
_start=$_t

# The guard: only the job that `claim` names runs, and only once.
_me=${SLURMRAY_JOB_ID:-${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}}
_restart=${SLURM_RESTART_COUNT:-0}
[ -z "${SLURMRAY_JOB_ID:-}" ] || _restart=0
refuse() {
	echo "$(date +%s) job $_me: $1" >>refused
	exit 0
}
[ -n "$_me" ] || refuse 'no job id in the environment'
[ "$_restart" = 0 ] || [ -e "grant.$_restart" ] || refuse "restart $_restart has no grant"
for _f in claim started; do
	ln -s "$_me" "$_f" 2>/dev/null || [ "$(readlink "$_f")" = "$_me" ] ||
		refuse "$_f is $(readlink "$_f")"
done
_who=$_host.$$.$_start _f=begun.$_restart${SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}
set -C
if ! { echo "$_who" >"$_f"; } 2>/dev/null; then
	{ read -r _t <"$_f"; } 2>/dev/null || _t=''
	[ "$_t" = "$_who" ] || refuse 'it began before'
fi
set +C

# Signals go to the job's process.
_rc='' _sig=-
for _f in pid signal rc fault; do [ ! -e "$_f" ] || rm -f "$_f"; done
# shellcheck disable=SC2317 # called by the traps
pass() {
	_sig=$1
	echo "$1" >signal
	{ read -r _to <pid && kill -s "$1" "$_to"; } 2>/dev/null
}
trap 'pass TERM' TERM; trap 'pass INT' INT; trap 'pass HUP' HUP
trap 'pass USR1' USR1; trap 'pass USR2' USR2

# Directories and environment.
_fault=-
unready() {
	_k=$?
	[ -z "$_rc" ] || return 0 # the first one counts
	_rc=$_k
	[ "$_rc" -gt 128 ] || _rc=73 _fault='write'
}
{ [ -d "$_ends" ] && [ -d work ] && [ -d results ]; } ||
	mkdir -p "$_ends" work results || unready
_nodes='' _cpus=''
if [ -z "${SLURMRAY_JOB_ID:-}" ]; then
	_nodes=${SLURM_JOB_NUM_NODES:-}
	_cpus=$(echo "${SLURM_JOB_CPUS_PER_NODE:-}" | awk -F, '{
		for (i = 1; i <= NF; i++) n += split($i, a, /[(x)]+/) > 1 ? a[1] * a[2] : a[1]
		print n
	}' 2>/dev/null)
fi
case $_nodes in *[!0-9]*) _nodes='' ;; esac
case $_cpus in *[!0-9]*) _cpus='' ;; esac
export SLURMRAY_RUN=gpu4 SLURMRAY_ATTEMPT=1
export SLURMRAY_RESULTS="$_dir/results" SLURMRAY_INPUTS="$_dir/work"
export SLURM_EXPORT_ENV=ALL
unset SLURMRAY_JOB_ID

cat >job <<'END_OF_FILE' || unready
echo $$ >pid || exit 73
[ ! -s signal ] || kill -s "$(cat signal)" $$
_no_path() {
	_why=$(LC_ALL=C ls -ld -- "$2" 2>&1 >/dev/null)
	_why=${_why##*: }
	echo "slurmray: $1: $2: ${_why:-$3}" >&2
	echo "$1" >"${0%/job}/fault"
	exit 66
}
cd "${0%/job}/work" 2>/dev/null || _no_path workdir "${0%/job}/work" 'Permission denied'
export A=b
exec bash "${0%/job}/runner"
END_OF_FILE

cat >runner <<'END_OF_FILE' || unready
#!/usr/bin/env bash
_base="$HOME"/.slurmray/6f1c2a34
_hold="$HOME"/.slurmray/6f1c2a34/runs/9/a1
_max=4 _idle=600 _grace=10 _scope=session _nokill=0
cd "$_hold" || exit 66
_job=${SLURM_JOB_ID:?}
_host=$(uname -n)
_bell=$_hold/bell
declare -A _pid _got _since _seen _on _lease _gone _ear
_wait=() _over=() _live=0 _stop='' _half8='' _half7='' _dirty=1 _told=0 _beat=0 _swept=0 _leased=''
_quiet=$SECONDS
printf -v _up '%(%s)T' -1
_calm=$_up

# What there is, by node: processors, memory in MiB, GPUs; the first node is this one.
_node=() _cpus=() _mem=() _gpus=() _fc=() _fm=() _fg=() _total=0
_resources() {
	local part n k i g
	case ${SLURM_JOB_NODELIST:-} in
	*[[,]*) mapfile -t _node < <(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>/dev/null) ;;
	esac
	[ ${#_node[@]} != 0 ] || _node=("${SLURMD_NODENAME:-$_host}")
	for part in ${SLURM_JOB_CPUS_PER_NODE//,/ }; do
		n=${part%%(*} k=1
		case $part in *'(x'*) k=${part##*(x} k=${k%)} ;; esac
		case $n$k in *[!0-9]*) n=1 k=1 ;; esac
		for ((i = 0; i < k; i++)); do _cpus+=("$n"); done
	done
	# Devices as this job sees them; the other nodes' are taken to be like this one's.
	g=''
	[ -z "${SLURM_JOB_GPUS:-}" ] || g=${CUDA_VISIBLE_DEVICES:-${ROCR_VISIBLE_DEVICES:-$SLURM_JOB_GPUS}}
	for i in "${!_node[@]}"; do
		n=${_cpus[i]:-1}
		_cpus[i]=$n _total=$((_total + n)) _gpus[i]=${g//,/ }
		_mem[i]=999999999
		[ "${SLURM_MEM_PER_CPU:-0}" = 0 ] || _mem[i]=$((SLURM_MEM_PER_CPU * n))
		[ "${SLURM_MEM_PER_NODE:-0}" = 0 ] || _mem[i]=$SLURM_MEM_PER_NODE
	done
	_fc=("${_cpus[@]}") _fm=("${_mem[@]}") _fg=("${_gpus[@]}")
}

# Where a step goes: _where is "NODE:CPUS:MEM:GPUS ...". 1: not now; 2: never.
_place() { # _place CPUS MEM GPUS TASKS
	local i c=$1 m=$2 g=${3#-} n words rc=2
	g=${g:-0} _where=''
	if [ "$4" -gt 1 ]; then
		_spread "$c" "$m" "$g"
		return
	fi
	for i in "${!_node[@]}"; do
		[ -z "${_gone[$i]:-}" ] || continue
		read -ra words <<<"${_gpus[i]}"
		if [ "$c" -gt "${_cpus[i]}" ] || [ "$m" -gt "${_mem[i]}" ] || [ "$g" -gt ${#words[@]} ]; then continue; fi
		rc=1
		read -ra words <<<"${_fg[i]}"
		if [ "$c" -gt "${_fc[i]}" ] || [ "$m" -gt "${_fm[i]}" ] || [ "$g" -gt ${#words[@]} ]; then continue; fi
		n=${words[*]:0:g}
		_where=$i:$c:$m:${n// /,}
		return 0
	done
	return $rc
}

# Several tasks: srun lays them out; here the first nodes count.
_spread() { # _spread CPUS MEM GPUS
	local i c=$1 m=$2 g=$3 ac=0 am=0 ag=0 tc tm words n
	for i in "${!_node[@]}"; do
		[ -z "${_gone[$i]:-}" ] || continue
		read -ra words <<<"${_gpus[i]}"
		ac=$((ac + _cpus[i])) am=$((am + _mem[i])) ag=$((ag + ${#words[@]}))
		read -ra words <<<"${_fg[i]}"
		tc=$((c < _fc[i] ? c : _fc[i])) tm=$((m < _fm[i] ? m : _fm[i])) n=${words[*]:0:g}
		c=$((c - tc)) m=$((m - tm)) g=$((g > ${#words[@]} ? g - ${#words[@]} : 0))
		_where+="$i:$tc:$tm:${n// /,} "
	done
	if [ "$c" = 0 ] && [ "$m" = 0 ] && [ "$g" = 0 ]; then return 0; fi
	[ "$1" -le $ac ] && [ "$2" -le $am ] && [ "$3" -le $ag ] && return 1
	return 2
}

_take() { # _take WHERE SIGN: 1 takes it, -1 gives it back
	local part i c m g id left word
	for part in $1; do
		IFS=: read -r i c m g <<<"$part"
		_fc[i]=$((_fc[i] - $2 * c)) _fm[i]=$((_fm[i] - $2 * m))
		for id in ${g//,/ }; do
			left=''
			for word in ${_fg[i]}; do [ "$word" = "$id" ] || left+=" $word"; done
			[ "$2" = 1 ] || left+=" $id"
			_fg[i]=$left
		done
	done
}

# Where a step is.
_at() { # _at KEY
	case $1 in
	*:*) _root=${_base%/*}/${1%%:*} _k=${1#*:} _of=.${1%%-*} _of=${_of%%:*} ;;
	*) _root=$_base _k=$1 _of='' ;;
	esac
	_num=${_k%%/*} _dir=$_root/runs/$_k _end=$_root/ends/${_k%/*}.${_k#*/}
}

# Others read these whole or not at all.
_tell() {
	local k now left
	printf -v now '%(%s)T' -1
	_dirty=0 _told=${EPOCHREALTIME//[!0-9]/} _beat=$SECONDS
	{
		for k in "${!_pid[@]}"; do echo "$k RUNNING ${_since[$k]}"; done
		for k in "${_wait[@]}"; do echo "${k%% *} PENDING 0"; done
	} >new/steps
	{
		echo "nodes ${_node[*]}"
		echo "up $_up"
		if [ "$_live" != 0 ] || [ ${#_wait[@]} != 0 ]; then echo 'quiet_since -'; else echo "quiet_since $_calm"; fi
		echo "idle $_idle"
		echo "live $_live"
		echo "waiting ${#_wait[@]}"
		echo "beat $now"
		for k in "${!_gone[@]}"; do echo "lost ${_node[k]}"; done
	} >new/session
	for k in "${!_lease[@]}"; do
		left=$((_lease[$k] - SECONDS))
		echo "$k $((left > 0 ? left : 0)) $now"
	done >new/leases
	mv -f new/steps new/session new/leases .
}

# What no child may hold open: or nobody sees that this process is gone.
_leave() {
	local f
	exec 7<&- 8<&- 9<&-
	for f in "${_ear[@]}"; do exec {f}>&-; done
}

# A step: its wrapper is the leader of a session of its own, so that all that it leaves behind is found.
_start() { # _start NUM/aATTEMPT CPUS MERGED MEM GPUS
	local on=${_where%%:*} gpus=${_where##*:} t f
	_at "$1"
	read -r t _ </proc/uptime && f=${EPOCHREALTIME//[!0-9]/} && _off=$((f / 10000 - ${t%.*} * 100 - 1${t#*.} + 100))
	if [ "$on" != 0 ]; then
		rm -f "new/in.$_num$_of"
		mkfifo "new/in.$_num$_of" && exec {f}<>"new/in.$_num$_of" && _ear[$1]=$f
	fi
	(
		trap : TERM INT QUIT # Slurm tells everybody; and what is in the background would not hear the others
		if [ -n "${_ear[$1]:-}" ]; then exec <"new/in.$_num$_of"; else exec </dev/null; fi
		_leave
		cd "$_dir" || exit 0
		export SLURMRAY_JOB_ID=$_job.s$_num$_of SLURMRAY_BELL=$_bell
		if [ "$5" != - ] && [ -n "${_gpus[on]}" ]; then
			export SLURM_STEP_GPUS=$gpus CUDA_VISIBLE_DEVICES=$gpus ROCR_VISIBLE_DEVICES=$gpus
		fi
		exec >>stdout
		if [ "$3" = 1 ]; then exec 2>&1; else exec 2>>stderr; fi
		if [ "$on" = 0 ]; then
			export SLURMRAY_RUNNER="$_off $_host $1"
			exec setsid bash ./script
		fi
		set -- "$_bell" "$1" "$2" "${_node[on]}" "$5"
		# Past srun, which says itself what a step sees.
		if [ "$5" = - ]; then set -- "${@:1:4}"; else set -- "${@:1:4}" env "SLURM_STEP_GPUS=$gpus" \
			"CUDA_VISIBLE_DEVICES=$gpus" "ROCR_VISIBLE_DEVICES=$gpus"; fi
		# shellcheck disable=SC2016 # for that shell
		exec setsid bash -c 'trap : TERM INT HUP USR1 USR2
			srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$3" --nodelist="$4" "${@:7}" bash "$5" "$6"
			echo "$2" 1<>"$1"' - "${@:1:4}" "$_hold/far" "$_grace" "${@:5}"
	) 2>/dev/null &
	_pid[$1]=$! _got[$1]=$_where _on[$1]=$on
	printf -v "_since[$1]" '%(%s)T' -1
	_take "$_where" 1
	[ "$_live" != 0 ] || _weighed=$((SECONDS + 3)) # short ones are not weighed
	_live=$((_live + 1)) _dirty=1
}

_kill() { # _kill SIGNAL WRAPPER: all of the step but its wrapper
	local p all=()
	for p in $(ps -o pid= -s "$2" 2>/dev/null); do
		[ "$p" = "$2" ] || all+=("$p")
	done
	[ ${#all[@]} = 0 ] || kill -s "$1" "${all[@]}" 2>/dev/null
}

# What ended steps have left behind, of all of them at once.
_sweep() {
	local ids p all=()
	ids=${_over[*]}
	_over=() _swept=$SECONDS
	for p in $(ps -o pid= -s "${ids// /,}" 2>/dev/null); do all+=("$p"); done
	[ ${#all[@]} = 0 ] || kill -s KILL "${all[@]}" 2>/dev/null
}

_end() { # _end NUM/aATTEMPT
	_at "$1"
	local f
	_take "${_got[$1]}" -1
	_over+=("${_pid[$1]}")
	_live=$((_live - 1)) _dirty=1
	# Whose wrapper was killed has no record; one that was read already is in the step's own directory.
	if [ ! -e "$_end" ] && [ ! -e "$_dir/exit" ]; then
		if [ -L "$_dir/started" ]; then
			echo "${_gone[${_on[$1]}]:-}" >"$_dir/gone"
		else
			unset "_seen[$1]" # it has not begun (a full disk?): its line may come again
		fi
	fi
	if [ -n "${_ear[$1]:-}" ]; then
		f=${_ear[$1]}
		exec {f}>&-
		rm -f "new/in.$_num$_of"
	fi
	unset "_pid[$1]" "_got[$1]" "_since[$1]" "_on[$1]" "_ear[$1]"
}

# It can never start: nobody may start it any more, and it has a record that says why.
_refuse() { # _refuse NUM/aATTEMPT WHY
	local why=${2// /%20} now
	_at "$1"
	printf -v now '%(%s)T' -1
	echo "v=1 run=$_num attempt=${1##*/a} job=$_job.s$_num$_of rc=- sig=- start=- end=$now out=0 err=0 restart=0" \
		"manifest=0 maxrss=- cpu=- nodes=- cpus=- fault=refused reason=$why host=$_host limit=-" >"$_dir/exit.tmp" &&
		cp "$_dir/exit.tmp" "$_dir/exit" # before it is void, for that alone would be no end
	ln -s void "$_dir/started" 2>/dev/null
	if [ "$(readlink "$_dir/started")" = void ]; then
		mv -f "$_dir/exit.tmp" "$_end"
	else
		rm -f "$_dir/exit"
	fi
}

_cancel() { # _cancel NUM/aATTEMPT GRACE: as scancel does
	local p i n=$(($2 * 5)) left=()
	for i in "${_wait[@]}"; do [ "${i%% *}" = "$1" ] || left+=("$i"); done
	[ ${#left[@]} = ${#_wait[@]} ] || _dirty=1
	_wait=("${left[@]}")
	p=${_pid[$1]:-}
	[ -n "$p" ] || return 0
	if [ -n "${_ear[$1]:-}" ]; then
		n=$((n + 50)) # it is done there
		echo "cancel $2" >&"${_ear[$1]}"
	else
		kill -s TERM "$p" 2>/dev/null
		_kill TERM "$p"
	fi
	(
		trap : TERM
		_leave
		for ((i = 0; i < n; i++)); do
			kill -0 "$p" || exit 0
			sleep 0.2
		done
		_kill KILL "$p"
	) 2>/dev/null &
}

_signal() { # _signal NUM/aATTEMPT NAME: the wrapper passes some on to its command
	local p=${_pid[$1]:-}
	[ -n "$p" ] || return 0
	case $2:${_on[$1]} in
	HUP:0 | INT:0 | TERM:0 | USR1:0 | USR2:0) kill -s "$2" "$p" ;;
	*:0) _kill "$2" "$p" ;;
	*) echo "signal $2" >&"${_ear[$1]}" ;;
	esac
}

_order() { # _order VERB NUM/aATTEMPT ARGUMENT
	case $1 in
	cancel) _cancel "$2" "$3" ;;
	signal) _signal "$2" "$3" ;;
	stop) _stop=stop ;;
	ray | spark) _inner_order "$1" "$2" "$3" ;;
	lease) case $3$2 in
		*[!A-Za-z0-9._:@+-]*) ;;
		[0-9]*) case $3 in *[!0-9]*) ;; *) _lease[$2]=$((SECONDS + $3)) _leased=1 _dirty=1 ;; esac ;;
		esac ;;
	unlease) case $2 in
		*[!A-Za-z0-9._:@+-]*) ;;
		*) unset "_lease[$2]" && _dirty=1 ;;
		esac ;;
	esac 2>/dev/null
}

_leases() {
	local k
	for k in "${!_lease[@]}"; do
		[ "${_lease[$k]}" -gt "$SECONDS" ] || { unset "_lease[$k]" && _dirty=1; }
	done
}

# Lines end in " ."; what comes in two pieces is put together.
_read() {
	local line
	while :; do
		if ! read -r line <&8; then
			_half8+=$line
			break
		fi
		line=$_half8$line _half8=''
		# shellcheck disable=SC2086
		set -- $line
		case $#:${!#} in 4:. | 7:.) ;; *) continue ;; esac
		case ${1#*:} in *[!0-9/a]* | /* | *[!0-9]/* | *[!0-9]) continue ;; [0-9]*/a[0-9]*) ;; *) continue ;; esac
		case $1 in *:*) case ${1%%:*} in '' | *[!0-9a-f-]*) continue ;; esac ;; esac
		if [ -z "${_seen[$1]:-}" ]; then
			_seen[$1]=1 _dirty=1
			[ $# = 7 ] || set -- "$1" "$2" "$3" 0 - "$2" .
			_wait+=("$1 $2 $3 $4 $5 $6")
		fi
	done
	while :; do
		if ! read -r line <&7; then
			_half7+=$line
			break
		fi
		line=$_half7$line _half7=''
		# shellcheck disable=SC2086
		set -- $line
		[ "$#:${4:-}" != 4:. ] || _order "$1" "$2" "$3"
	done
}

_finish() { # _finish WHY CODE
	local k i
	exec 8<&-
	_wait=()
	for k in "${!_pid[@]}"; do
		_at "$k"
		: >"$_dir/stopped"
		_cancel "$k" "$_grace"
	done
	for ((i = 0; i < (_grace + 5) * 10 && ${#_pid[@]}; i++)); do
		for k in "${!_pid[@]}"; do kill -0 "${_pid[$k]}" 2>/dev/null || _end "$k"; done
		[ ${#_pid[@]} = 0 ] || read -r -t 0.1 -u 9 _
	done
	[ ${#_over[@]} = 0 ] || _sweep
	_inner_end
	rm -rf "$_base/sessions/$_job" steps session leases bell new
	echo "$(date +%Y-%m-%dT%H:%M:%S%z) $1"
	exit "$2"
}

# With --no-kill the session goes on when a node is lost: the controller is asked now and then, beside the loop.
_watch() {
	local i name
	if [ -s lost ]; then
		while read -r name; do
			for i in "${!_node[@]}"; do
				[ "${_node[i]}" != "$name" ] || [ -n "${_gone[$i]:-}" ] || { _gone[$i]=$name && _dirty=1; }
			done
		done <lost
	fi
	[ "$SECONDS" -ge "$_asked" ] || return 0
	_asked=$((SECONDS + _every))
	(
		trap - TERM
		_leave
		sinfo -h -N -n "$SLURM_JOB_NODELIST" -t down,fail -o %N >new/lost && mv -f new/lost lost
	) 2>/dev/null &
}

# The greatest memory that each step on this node was seen with, in bytes, for its wrapper; beside the loop.
_weigh() {
	_weighed=$((SECONDS + 2))
	! kill -0 "$_scale" 2>/dev/null || return 0 # a busy node
	(
		trap - TERM
		_leave
		declare -A kib
		while read -r sid n; do kib[$sid]=$n; done < <(ps -e -o sid=,rss= | awk '{ n[$1] += $2 } END { for (s in n) print s, n[s] }')
		for k in "${!_pid[@]}"; do
			n=$((${kib[${_pid[$k]}]:-0} * 1024)) was=0
			[ "${_on[$k]}" = 0 ] || continue
			_at "$k"
			[ ! -s "$_dir/rss" ] || read -r was <"$_dir/rss"
			[ "$n" -le "$was" ] || echo "$n" >"$_dir/rss"
		done
	) 2>/dev/null &
	_scale=$!
}

# Starts what has room: the first one that has none lets nobody pass.
_pack() {
	local rc
	while [ -z "$_stop" ] && [ ${#_wait[@]} != 0 ]; do
		# shellcheck disable=SC2086
		set -- ${_wait[0]}
		_place "$2" "$4" "$5" "$6"
		rc=$?
		if [ $rc = 1 ] || { [ $rc = 0 ] && [ "$_live" -ge "$_max" ]; }; then break; fi
		_wait=("${_wait[@]:1}")
		if [ $rc = 0 ]; then
			_start "$@"
		else
			_dirty=1
			_refuse "$1" "it needs more than its session has (CPUs $2, memory $4 MiB, GPUs ${5#-}, tasks $6)"
		fi
	done
}

_ring() { # _ring LINE: a step that has left its record says its name, everybody else nothing
	case $1 in '' | *[!0-9a-f/:-]*) return ;; esac
	[ -z "${_pid[$1]:-}" ] || _end "$1"
}

_resources
_asked=0 _every=${SLURMRAY_NODE_CHECK:-20} _weighed=1 _scale=none

# Everything that happens rings the bell; nothing is lost when a ring is, for all is looked at once a second anyway.
rm -f bell
mkfifo bell && exec 9<>bell && : >>queue && : >>orders && exec 8<queue 7<orders && mkdir -p new || exit 73
mkdir -p "$_base/sessions" && ln -sfn "$_hold" "$_base/sessions/$_job" || exit 73
trap '_stop=TERM' TERM
trap : HUP INT USR1 USR2 # ignored ones would be so in the steps, for ever

_inner_order() { :; }
_inner_look() { :; }
_inner_end() { :; }
# shellcheck disable=SC1091 # written with this
[ ! -e inner-hook ] || . ./inner-hook
echo "$(date +%Y-%m-%dT%H:%M:%S%z) up on ${_node[*]} with $_total CPUs"
while :; do
	for k in "${!_pid[@]}"; do kill -0 "${_pid[$k]}" 2>/dev/null || _end "$k"; done
	_read
	_leases
	_inner_look
	[ "$_nokill" = 0 ] || [ ${#_node[@]} = 1 ] || _watch
	case $_stop in
	stop) _finish stopped 0 ;;
	TERM) _finish 'told to end by the scheduler' 143 ;;
	esac
	_pack
	if [ "$_live" != 0 ] || [ ${#_wait[@]} != 0 ]; then
		_quiet=$SECONDS
		printf -v _calm '%(%s)T' -1
	elif [ "$_scope$_leased" = lease1 ] && [ ${#_lease[@]} = 0 ]; then
		_finish 'its last lease is gone' 0
	elif [ "$_idle" != 0 ] && [ $((SECONDS - _quiet)) -ge "$_idle" ]; then
		_finish "idle for $_idle s" 0
	fi
	_now=${EPOCHREALTIME//[!0-9]/}
	if [ "$_dirty" = 1 ] && [ $((_now - _told)) -ge 200000 ]; then
		_tell
	elif [ $((SECONDS - _beat)) -ge 15 ]; then
		_tell
	fi
	[ ${#_over[@]} = 0 ] || [ "$SECONDS" = "$_swept" ] || _sweep
	[ "$_live" = 0 ] || [ "$SECONDS" -lt "$_weighed" ] || _weigh
	_pause=1
	[ $((SECONDS - _quiet)) -ge 60 ] || _pause=0.05
	_line=''
	read -r -t "$_pause" -u 9 _line && _ring "$_line"
	while read -r -t 0 -u 9; do
		_line=''
		read -r -t 0.05 -u 9 _line && _ring "$_line"
	done
done
END_OF_FILE

cat >far <<'END_OF_FILE' || unready
#!/usr/bin/env bash
# A step of a session on another node than its runner's, in the step's directory. What the runner has to say comes by standard input, which srun
# carries: a line each, and its end when the runner is gone; srun itself would end a step without a grace.
_grace=$1
exec 3<&0 </dev/null
_kill() { # _kill SIGNAL: all of the step but its wrapper
	local p all=()
	for p in $(ps -o pid= -s "$_pid" 2>/dev/null); do
		[ "$p" = "$_pid" ] || all+=("$p")
	done
	[ ${#all[@]} = 0 ] || kill -s "$1" "${all[@]}" 2>/dev/null
}
_cancel() { # _cancel GRACE
	local i
	kill -s TERM "$_pid"
	_kill TERM
	for ((i = 0; i < $1 * 5; i++)); do
		kill -0 "$_pid" || return 0
		sleep 0.2
	done
	_kill KILL
}
_hear() {
	local verb what
	while read -r verb what; do
		case $verb:$what in
		cancel:*[!0-9]* | cancel:) ;;
		cancel:*) _cancel "$what" 3<&- & ;;
		signal:HUP | signal:INT | signal:TERM | signal:USR1 | signal:USR2) kill -s "$what" "$_pid" ;;
		signal:*) _kill "$what" ;;
		esac
	done
	[ -e exit ] || : >stopped
	_cancel "$_grace"
}
(
	trap : TERM INT QUIT # as the runner does it on its own node
	exec setsid sh ./script 3<&-
) &
_pid=$!
trap : TERM INT HUP USR1 USR2
_hear <&3 >/dev/null 2>&1 &
_ears=$!
exec 3<&-
wait "$_pid"
while kill -0 "$_pid" 2>/dev/null; do wait "$_pid"; done
exec >/dev/null 2>&1
kill -KILL "$_ears"
_kill KILL
exit 0
END_OF_FILE

# Run it, bash where there is one.
_env='env --default-signal=INT,QUIT'
$_env true 2>/dev/null || _env=''
_sh=bash
command -v bash >/dev/null || _sh=/bin/sh
if [ -z "$_rc" ]; then
	(
		trap : TERM INT HUP USR1 USR2
		(exec 2>&3 3>&- && exec $_env "$_sh" "$_dir/job" </dev/null)
		_rc=$?
		echo "$_rc" >rc
		exit "$_rc"
	) 3>&2 2>/dev/null &
	_pid=$!
	exec 2>/dev/null
	wait "$_pid"
	_rc=$?
	while kill -0 "$_pid"; do # a signal ended the wait
		wait "$_pid"
		_rc=$?
	done
	[ ! -s rc ] || read -r _rc <rc
	[ ! -s fault ] || read -r _fault <fault
	case $_fault in workdir | input | environment | secret_env | ray | spark) ;; *) _fault=- ;; esac
	[ "$_rc" != 73 ] || [ -s pid ] || _fault='write'
	rm -f pid
fi
exec 2>/dev/null
trap '' TERM INT HUP USR1 USR2 # what follows is not to be disturbed

# Was the runner killed? Then what it started hears from here that the session is over.
_steps() { # the first process of each
	grep -lsF "SLURMRAY_JOB_ID=$_me.s" /proc/[0-9]*/environ | cut -d/ -f3 | while read -r _p; do
		ps -o sid= -p "$_p"
	done | sort -u
}
_tell() { # _tell SIGNAL STEP...: all but that process
	_s=$1
	shift
	for _p; do
		for _k in $(ps -o pid= -s "$_p"); do
			[ "$_k" -eq "$_p" ] || kill -s "$_s" "$_k"
		done
	done
}
_until() { # _until TENTHS: or all of them have ended
	_n=0
	while [ "$_n" -lt "$1" ] && [ -n "$(_steps)" ]; do
		_n=$((_n + 2))
		sleep 0.2
	done
}
# shellcheck disable=SC2046,SC2086 # numbers
if [ -e bell ]; then
	_all=$(_steps) _near=''
	for _p in $_all; do
		touch "/proc/$_p/cwd/stopped"
		case $(tr '\0' ' ' <"/proc/$_p/cmdline") in # those on other nodes know it from srun
		*' ./script '*) kill -s TERM "$_p" && _near="$_near $_p" ;;
		esac
	done
	_tell TERM $_near
	_until 100
	_tell KILL $_all
	_until 20 # their records
	rm -rf "${_ends%/ends}/sessions/${SLURM_JOB_ID:-none}" steps session leases bell new
fi 2>/dev/null

# Processor time of all that the job waited for, in microseconds.
_us() { # adds 1m2.345s to _cpu
	_m=${1%%m*} _s=${1#*m}
	_s=${_s%s}
	_f=${_s#*[.,]}000000
	_f=${_f%"${_f#??????}"}
	_cpu=$((_cpu + _m * 60000000 + ${_s%[.,]*} * 1000000 + 1$_f - 1000000))
}
_cpu='' _user='' _sys=''
times >cpu_times && { read -r _ && read -r _user _sys; } <cpu_times
case $_user:$_sys in
[0-9]*m*s:[0-9]*m*s) _cpu=0 && _us "$_user" && _us "$_sys" ;;
esac

# What is in results/, for readers: type, size, mtime, mode, path, target.
_man=0 _t=''
for _f in results/* results/.[!.]* results/..?*; do
	if [ -e "$_f" ] || [ -L "$_f" ]; then _t=1 && break; fi
done
if [ -z "$_t" ] && [ -r results/ ] && [ -x results/ ]; then
	: >manifest && _man=1
else
	find results/ -mindepth 1 \( -type f -o -type d -o -type l \) \
		-printf '%y\0%s\0%T@\0%m\0%P\0%l\0' >manifest.tmp && mv -f manifest.tmp manifest && _man=1
fi

# Peak memory and processor time, where the job has cgroups; what srun starts is seen only there.
_rss='' _all=''
_cg=$(sed -n 's|^[0-9]*:\([a-z,]*\):\(/.*/job_[0-9]*\)/step_.*|/sys/fs/cgroup/\1\2|p' /proc/self/cgroup)
for _f in $_cg; do
	[ -n "$_rss" ] || _rss=$(cat "$_f/memory.peak" || cat "$_f/memory.max_usage_in_bytes")
	[ -n "$_all" ] || _all=$(sed -n 's/^usage_usec //p' "$_f/cpu.stat")
	[ -n "$_all" ] || _all=$(sed -n 's/...$//p' "$_f/cpuacct.usage") # nanoseconds
done
case $_rss in *[!0-9]*) _rss='' ;; esac
case $_all in
'' | *[!0-9]*) ! { head -c 65536 job; head -c 65536 payload; } | grep -q srun || _cpu='' ;;
*) _cpu=$_all ;;
esac

# A requeue that was granted ended this start; the next one will leave the record.
[ ! -e "grant.$((_restart + 1))" ] || exit "$_rc"

# The exit record: complete, then renamed to where the other side looks.
# shellcheck disable=SC3045 # bash, as _off says
_bytes() {
	_n=''
	if [ ! -s "$1" ]; then
		[ ! -e "$1" ] || _n=0
	else
		_n=$(wc -c <"$1")
	fi
}
_bytes stdout
_out=$_n
_bytes stderr
_err=$_n
_code=$_rc
[ "$_fault" = - ] || _code=-
_now
_end=$_t _n=0
_rec="v=1 run=9 attempt=1 job=$_me rc=$_code sig=$_sig start=$_start end=$_end \
out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \
nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault host=$_host limit=-"
record() { printf '%s\n' "$_rec" >exit.tmp && mv -f exit.tmp "$_ends/9.a1"; }
until record || [ "$_n" -ge 30 ]; do # a full disk may pass
	_n=$((_n + 1))
	sleep 2
done
exit "$_rc"
