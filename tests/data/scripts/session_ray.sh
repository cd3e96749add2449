#!/bin/sh
# slurmray run warm (number 9), attempt 1, launcher session
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
export SLURMRAY_RUN=warm SLURMRAY_ATTEMPT=1
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
exec bash "${0%/job}/runner"
END_OF_FILE

cat >runner <<'END_OF_FILE' || unready
#!/usr/bin/env bash
_base="$HOME"/.slurmray/6f1c2a34
_hold="$HOME"/.slurmray/6f1c2a34/runs/9/a1
_max=9999 _idle=1800 _grace=10 _scope=session _nokill=0
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

cat >ray-settings <<'END_OF_FILE' || unready
# shellcheck shell=bash disable=SC2034
_tag=slurmray:6f1c2a34/9/a1
_max_workers=-1 _timeout=120 _grace=10 _dash=1 _client=1 _token=1 _local_cpus=1
_if=''
_head_addr=''
_ports=''
_want=''
_in() {
	 "$@"
}
_cpus=-1 _gpus=-1 _store=0
_dash_host=''
_args=()
END_OF_FILE

[ -n "$_nodes" ] || echo _local=1 >>ray-settings || unready # no Slurm around it

cat >ray-keeper <<'END_OF_FILE' || unready
#!/usr/bin/env bash
# Keeps a cluster in an allocation: starts a program on each node, the head's first, tells the workers where the head is, knows when all
# of them are there, sees who is lost, and ends it all, workers first, when it is told to (TERM) or when its parent is gone.
# What others may know is in the directory of its kind (ray, spark), each file written whole by rename.
_home=$1 _mode=$2 _parent=$PPID
_kind=${0##*/}
_kind=${_kind%-keeper}
. "$_home/$_kind-settings" || exit 66
. "$_home/$_kind-kind" || exit 66
cd "$_home" || exit 66
_begun=${EPOCHREALTIME//[!0-9]/}
umask 077
mkdir -p "$_kind/logs" "$_kind.d"
echo $$ >"$_kind.d/keeper"
rm -f "$_kind.d/command"
[ "$_mode" != run ] || echo "$_parent" >"$_kind.d/command"
rm -f "$_kind.d"/in.* "$_kind.d/report"
rm -f "$_kind/address" "$_kind/dashboard" "$_kind/client" "$_kind/version" "$_kind/python" "$_kind/nodes" "$_kind/available" "$_kind/executors" "$_kind/token"
_put() {
	printf '%s\n' "$2" >"$_kind.d/$1.new" && mv -f "$_kind.d/$1.new" "$_kind/$1"
}
_log() {
	local t=${EPOCHREALTIME//[!0-9]/}
	t=$(((t - _begun) / 1000))
	printf '%s +%d.%03d %s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)" $((t / 1000)) $((t % 1000)) "$*" >>"$_kind.d/log"
}
_put why 'its nodes are starting'
_put state starting
trap '_stop=TERM' TERM
trap : HUP INT USR1 USR2
if [ -e "$_kind.d/restart" ]; then # this is it; TERM may have come with it
	rm -f "$_kind.d/restart"
	_stop=''
fi
# A run's own takes orders itself; to a session's its runner passes them on. Started again it goes on where it was.
if [ "$_mode" = run ] && [ "${3:-}" != again ]; then { : >>orders && exec 7<orders; } || exit 73; fi
_part='' _done=${4:-}
_orders() { # KIND restart|stop WHICH .
	local line
	for ((;;)); do
		if ! read -r line <&7; then
			_part+=$line
			return
		fi
		line=$_part$line _part=''
		# shellcheck disable=SC2086 # words
		set -- $line
		[ "$1:$#:${4:-}" = "$_kind:4:." ] || continue
		if [ "$3" = "$_done" ] && [ "$3" != - ]; then continue; fi
		_done=$3
		case $2 in
		restart) : >"$_kind.d/restart" && _stop=restart ;;
		stop) _stop=stop ;;
		esac
	done
}
_stop='' _state=starting _head='' _watch='' _up=''
declare -A _fd _pid _vers _host _ip _at _ended _row
_names=() _ncpus=()

# Which nodes, and how many processors of each are the job's.
if [ -n "${_local:-}" ]; then
	_names=("$(uname -n)")
	_ncpus=("$([ "$_local_cpus" -gt 1 ] && echo "$_local_cpus" || nproc)")
else
	mapfile -t _names < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
	mapfile -t _ncpus < <(echo "${SLURM_JOB_CPUS_PER_NODE:-1}" | awk -F, '{
		for (i = 1; i <= NF; i++) { n = split($i, a, /[(x)]+/); for (k = 0; k < (n > 1 ? a[2] : 1); k++) print a[1] }
	}')
fi
[ "$_max_workers" = -1 ] || _names=("${_names[@]:0:_max_workers+1}")
_head=${_names[0]}
_id=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
echo "_id=$_id" >>"$_kind-settings"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$_kind.d/token.new" && mv -f "$_kind.d/token.new" "$_kind/token"

_before
mkfifo "$_kind.d/report" && exec 6<>"$_kind.d/report" || exit 73
_spawn() { # _spawn NODE ROLE CPUS
	local f fd run=(bash "$_home/$_kind-node" "$_home" "$1" "$2" "$3")
	mkdir -p "$_kind/logs/$1"
	mkfifo "$_kind.d/in.$1" && exec {fd}<>"$_kind.d/in.$1" || exit 73
	_fd[$1]=$fd
	[ -n "${_local:-}" ] || run=(srun --overlap -N1 -n1 -w "$1" --cpu-bind=none -u -J "$_kind" "${run[@]}")
	(
		trap - TERM
		for f in "${_fd[@]}"; do exec {f}>&-; done
		exec "${run[@]}" 6>&- 7<&-
	) <"$_kind.d/in.$1" >&6 2>>"$_kind/logs/$1/srun.log" &
	_pid[$1]=$!
}
_tell() { # _tell NODE LINE
	[ -n "${_ended[$1]:-}" ] || printf '%s\n' "$2" >&"${_fd[$1]}"
}

# Of a node whose program and its guard were killed, all that they can not end any more.
_cleaners=()
_clean() { # _clean NODE
	local f role=worker run
	[ "$1" != "$_head" ] || role=head
	run=(bash "$_home/$_kind-node" "$_home" "$1" "$role" 0 999999999)
	# Here it needs no srun, which starts nothing in a job that has ended for Slurm.
	[ -n "${_local:-}" ] || [ "$1" = "${SLURMD_NODENAME:-}" ] ||
		run=(srun --overlap -N1 -n1 -w "$1" --cpu-bind=none -J "$_kind" "${run[@]}")
	(
		trap - TERM
		for f in "${_fd[@]}"; do exec {f}>&-; done
		exec 6>&- timeout -k 1 10 "${run[@]}"
	) </dev/null >/dev/null 2>&1 &
	_cleaners+=($!)
}

_call() { # the workers, once
	local n
	[ -z "$_called" ] || return 0
	_called=1
	for n in "${_names[@]:_join_from}"; do _tell "$n" "join $_up ${_host[$_head]}"; done
}
_fail() { # _fail WHY [NODE]: it cannot be, or is no more
	[ "$_state" != failed ] || return 0
	_log "failed: $1"
	_put why "$1"
	{
		echo "$1"
		[ -z "${2:-}" ] || sed 's/^/    /' "$_kind/logs/$2/$_kind-start.log" "$_kind/logs/$2/srun.log" 2>/dev/null |
			sed 's/\x1b\[[0-9;]*m//g' | grep -v -e '^ *$' -e 'support for cpu binding' | tail -n 12
	} >"$_kind.d/tail"
	if [ "$_mode" = run ] && [ "$_state" != starting ]; then
		printf '%s\n' "$1" >reason
		echo "$_kind" >fault
	fi
	_was=$_state _state=failed _stop=failed
	_put state failed
	if [ "$_mode" = run ] && [ "$_was" != starting ]; then
		kill -TERM "$_parent" 2>/dev/null
	fi
}
_slurm_says() { # of the job, when that is not that it runs
	local s
	[ -z "${_local:-}" ] || return 0
	s=$(timeout -k 1 3 squeue -h -t all -j "$SLURM_JOB_ID" -o %T 2>/dev/null)
	case $s in '' | RUNNING) ;; *) echo " (Slurm calls the job $s)" ;; esac
}
_lost() { # _lost NODE WHY
	[ -z "${_ended[$1]:-}" ] || return 0
	_ended[$1]=1
	if [ "$2" = 'ended without a word' ]; then
		_clean "$1"
		set -- "$1" "$2$(_slurm_says)"
	fi
	if [ "$1" = "$_head" ]; then
		# When all of a job is told to end, this process may be the last to know.
		sleep 0.5
		kill -0 "$_parent" 2>/dev/null || _stop=parent
		[ -n "$_stop" ] || _fail "the head on $1 $2" "$1"
	elif [ "$_state" = starting ]; then
		sleep 0.5
		[ -n "$_stop" ] || _fail "the worker on $1 $2" "$1"
	elif [ -z "$_stop" ]; then
		_state=degraded
		_log "degraded: $1 $2"
		_put why "the worker on $1 $2"
		_put state degraded
		_rows
	fi
}
_rows() {
	local n
	for n in "${_names[@]}"; do
		set -- ${_row[$n]:-"$n" - - PENDING 0 0}
		[ -z "${_ended[$n]:-}" ] || set -- "$1" "$2" "$3" DEAD "$5" "$6"
		echo "$*"
	done >"$_kind.d/nodes.new" && mv -f "$_kind.d/nodes.new" "$_kind/nodes"
}
_hello() { # _hello NODE VERSION PYTHON HOST ADDRESS
	local v
	_vers[$1]="$2 with $_with $3" _host[$1]=$4 _ip[$1]=$5
	v=${_want#>=}
	if [ "$v" != "$_want" ]; then
		[ "$(printf '%s\n' "$v" "$2" | sort -V | head -n 1)" = "$v" ] ||
			_fail "${_kind}_version=$_want was asked for, and $1 has $_name $2"
	elif [ -n "$v" ]; then
		case $2. in "$v".*) ;; *) _fail "${_kind}_version=$v was asked for, and $1 has $_name $2" ;; esac
	fi
	[ "$1" != "$_head" ] || _head_is "$2" "$3"
	for v in "${!_vers[@]}"; do
		[ "${_vers[$v]}" = "${_vers[$1]}" ] || _fail "$v has $_name ${_vers[$v]}, and $1 has $_name ${_vers[$1]}: they must be the same"
	done
}
_line() { # _line NODE WORD...
	local n
	case $1:$2 in
	*:hello)
		_log "$*"
		_hello "$1" "$3" "$4" "$5" "$6"
		;;
	*:again)
		_log "$*"
		[ "$1" != "$_head" ] || _up='' # who looked at it was ended with it
		;;
	*:up)
		_log "$*"
		[ -z "$_up" ] || return 0
		_up=$3 _dashboard=$4 _client_at=$5
		_look
		[ "$_join_at" != up ] || _call
		;;
	*:fail)
		_ended[$1]=1
		n=$1
		shift 2
		_fail "$*" "$n"
		;;
	*:died)
		_log "$*"
		n=$1
		shift 2
		_lost "$n" "ended by itself with code $*"
		;;
	*:gone)
		_lost "$1" 'was told to end'
		;;
	*:serving) _at[$3]=$1 ;;
	@:node)
		[ -z "${_at[$3]:-}" ] || set -- @ node "${_at[$3]}" "${@:4}"
		[ "${_row[$3]:-}" = "$3 $4 $5 $6 $7 $8" ] || _log "$*"
		[ "$3" = '?' ] || _row[$3]="$3 $4 $5 $6 $7 $8"
		[ "$_join_at:$3:$6" != "alive:$_head:ALIVE" ] || _call
		;;
	@:more)
		_extra+="${_at[$3]:-$3} ${*:4}"$'\n'
		;;
	@:free)
		_free+="$3 $4 of $5"$'\n'
		;;
	@:end)
		_alive=$3
		[ -z "$_free" ] || _put available "${_free%$'\n'}"
		[ -z "$_extra" ] || _put executors "${_extra%$'\n'}"
		_free='' _extra=''
		_rows
		for n in "${_names[@]:1}"; do
			case ${_row[$n]:-} in *' DEAD '*) [ -n "${_ended[$n]:-}" ] || _lost "$n" 'is dead to the head'; ;; esac
		done
		;;
	@:lost)
		_fail "the head does not answer any more" "$_head"
		;;
	esac
}
_ready() {
	[ "$_alive" -ge ${#_names[@]} ] || return 1
	if [ "$_dashboard" != - ]; then (exec 3<>"/dev/tcp/${_dashboard%:*}/${_dashboard##*:}") 2>/dev/null || return 1; fi
	_put address "$_up"
	[ "$_dashboard" = - ] || _put dashboard "$_dashboard"
	[ "$_client" != 1 ] || _put client "$_client_at"
	_publish
	_state=ready
	_log "ready: ${#_names[@]} nodes"
	_put why "all ${#_names[@]} nodes are there"
	_put state ready
}

_alive=0 _free='' _extra='' _dashboard=- _half='' _called='' _suspect='' _beat=$SECONDS _looked=$SECONDS
_spawn "$_head" head "${_ncpus[0]}"
for ((i = 1; i < ${#_names[@]}; i++)); do _spawn "${_names[i]}" worker "${_ncpus[i]:-${_ncpus[0]}}"; done
while [ -z "$_stop" ]; do
	_pause=1
	[ "$_state$_suspect" = ready ] || [ "$_state$_suspect" = degraded ] || _pause=0.1
	if IFS= read -r -t "$_pause" -u 6 line; then
		line=$_half$line _half=''
		# shellcheck disable=SC2086 # words
		_line $line
		[ "$SECONDS" != "$_looked" ] || continue
	else
		_half+=$line # what the time limit cut in two
	fi
	_looked=$SECONDS
	if [ $((SECONDS - _beat)) -ge 5 ]; then
		_beat=$SECONDS
		for n in "${_names[@]}"; do _tell "$n" .; done
	fi
	[ "$_mode" != run ] || _orders
	for n in "${_names[@]}"; do
		! kill -0 "${_pid[$n]}" 2>/dev/null || continue
		# What it said last may have come since.
		if [ "$_suspect" = "$n" ]; then
			_suspect=''
			_lost "$n" 'ended without a word'
		elif [ -z "${_ended[$n]:-}" ]; then
			_suspect=$n
			break
		fi
	done
	kill -0 "$_parent" 2>/dev/null || _stop=parent
	[ -n "$_stop" ] || [ "$_state" != starting ] || _ready || [ $((${EPOCHREALTIME//[!0-9]/} - _begun)) -lt $((_timeout * 1000000)) ] || {
		missing=''
		for n in "${_names[@]}"; do case ${_row[$n]:-} in *' ALIVE '*) ;; *) missing="$missing $n" ;; esac done
		# shellcheck disable=SC2086
		_fail "not ready after $_timeout s: nothing of${missing:- the dashboard}" $missing
	}
done

# Workers first: a head that is gone would keep them waiting.
_log "stopping: $_stop"
if [ "$_state" != failed ] && [ -e "$_kind.d/restart" ]; then # who waits for it waits on
	_put why 'it is started again'
	_put state starting
elif [ "$_state" != failed ]; then
	_put state stopping
fi
for n in "${_names[@]}"; do # some may have gone in the same moment
	if [ "$_stop" = TERM ] || [ -n "${_ended[$n]:-}" ] || kill -0 "${_pid[$n]}" 2>/dev/null; then continue; fi
	_ended[$n]=1
	_clean "$n"
done
_await() { # _await NODE...
	local i n left
	for ((i = 0; i < 30; i++)); do
		left=0
		for n in "$@"; do kill -0 "${_pid[$n]}" 2>/dev/null && left=1; done
		[ $left = 1 ] || return 0
		read -r -t 0.1 -u 6 _
	done
	for n in "$@"; do
		kill -TERM "${_pid[$n]}" 2>/dev/null
	done
	sleep 0.3
	for n in "$@"; do kill -KILL "${_pid[$n]}" 2>/dev/null; done
}
trap : TERM
for n in "${_names[@]:1}"; do _tell "$n" stop; done
_await "${_names[@]:1}"
[ -z "$_watch" ] || kill "$_watch" $(pgrep -P "$_watch") 2>/dev/null
_tell "$_head" stop
_await "$_head"
if [ "$_mode" = run ] && [ "$_state" = failed ] && [ "${_was:-starting}" != starting ]; then
	for ((i = 0; i < _grace * 10; i++)); do
		kill -0 "$_parent" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$_parent" 2>/dev/null
fi
[ ${#_cleaners[@]} = 0 ] || wait "${_cleaners[@]}"
rm -f "$_kind.d"/in.* "$_kind.d/report"
if [ "$_state" != failed ] && [ ! -e "$_kind.d/restart" ]; then
	_put why 'it was ended'
	_put state ended
fi
_log "ended"
if [ -e "$_kind.d/restart" ] && kill -0 "$_parent" 2>/dev/null; then
	sed -i '/^_id=/d' "$_kind-settings"
	exec bash "$_home/$_kind-keeper" "$_home" "$_mode" again "$_done"
fi
rm -f "$_kind.d/keeper"
END_OF_FILE

cat >ray-node <<'END_OF_FILE' || unready
#!/usr/bin/env bash
# One node of a cluster in an allocation: takes a block of ports, starts what its kind says, copies logs, and ends all of it when it is told to (a
# line `stop`), when its standard input ends (whoever keeps the cluster is gone) or when that ends. A guard does the same when
# this process is killed. What it has to say goes to standard output, a line each, behind the node's name.
_home=$1 _node=$2 _role=$3 _ncpus=$4 _watched=${5:-} _tmp=${6:-} _other=${7:-}
_kind=${0##*/}
_kind=${_kind%-node}
. "$_home/$_kind-settings" || exit 66
. "$_home/$_kind-kind" || exit 66
_logs=$_home/$_kind/logs/$_node
# With the id of this one: what is left of an earlier one is swept while the next begins.
_mark="SLURMRAY_${_kind^^}_NODE=$_tag@$_node;$_id"
_say() { printf '%s %s\n' "$_node" "$*"; }

# All processes of this node's part: those that have the mark in their environment, what they started, and those that
# lost the mark by changing their title and hold files of its directory open. Drivers of the user are none of them.
_left() {
	{
		grep -alsF "$_mark" /proc/[0-9]*/environ
		[ -z "$_titles" ] || grep -alsE "$_titles" /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ p _; do
			find "/proc/$p/fd" -maxdepth 1 -lname "$_tmp/*" -printf "/proc/$p/environ\\n" -quit
		done
	} 2>/dev/null | {
		cut -d/ -f3
		echo .
		ps -e -o pid= -o ppid=
	} | awk '
		list { ppid[$1] = $2; next }
		$1 == "." { list = 1; next }
		{ in_it[$1] = 1 }
		END {
			do {
				more = 0
				for (p in ppid) if (!(p in in_it) && (ppid[p] in in_it)) { in_it[p] = 1; more = 1 }
			} while (more)
			for (p in in_it) if (p in ppid) print p
		}'
}
_sweep() {
	local i all
	for ((i = 0; i < 50; i++)); do
		mapfile -t all < <(_left)
		[ ${#all[@]} != 0 ] || break
		kill -KILL "${all[@]}" 2>/dev/null
		sleep 0.1
	done
	rm -rf "$_tmp" ${_other:+"$_other"}
}

# Short, for sockets in it have at most 107 bytes. Old Ray takes the head's name on all nodes, whatever it is told.
_own_dir() {
	_tmp=/tmp/sr-$_id
	[ "$_role" = head ] || _tmp=$_tmp-$(printf %s "$_node" | cksum | cut -c 1-6)
}

# What kept the cluster was killed, on this node, which is the head's. The command of a run has no cluster any more, and
# nobody else would tell it.
_bereft=''
_bereave() {
	echo 'what kept the cluster was killed' >"$_home/$_kind/why"
	echo failed >"$_home/$_kind/state"
	{ read -r _bereft <"$_home/$_kind.d/command"; } 2>/dev/null || return 0
	cp "$_home/$_kind/why" "$_home/reason"
	echo "$_kind" >"$_home/fault"
	kill -TERM "$_bereft"
}
_bury() { # after its grace
	local i
	for ((i = 0; i < _grace * 10; i++)); do
		kill -0 "${_bereft:-0}" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL "$_bereft"
}

if [ -n "$_watched" ]; then # the guard
	trap '' TERM HUP INT
	[ -n "$_tmp" ] || _own_dir
	while kill -0 "$_watched" 2>/dev/null; do sleep 0.5; done
	[ "$_role" != head ] || ! read -r p 2>/dev/null <"$_home/$_kind.d/keeper" || kill -0 "$p" 2>/dev/null || _bereave
	_sweep
	[ -z "$_bereft" ] || _bury
	exit 0
fi

# A block of 16 ports that is locked as long as anything of this node's part lives, and in which nobody listens.
_lock() {
	local low high first=$1 dir=/tmp/.slurmray-ports used n slot port
	read -r high _ </proc/sys/net/ipv4/ip_local_port_range || high=32768
	[ "$high" -le 32768 ] || high=32768
	low=$((high > 12000 ? high - 8192 : high > 2048 ? high / 2 : 1024)) high=$((high - 1))
	[ -z "$_ports" ] || low=${_ports%-*} high=${_ports#*-}
	( umask 0; mkdir -m 1777 "$dir" ) 2>/dev/null
	n=$(((high - low + 1) / 16))
	used=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '{ sub(/.*:/, "", $2); print $2 }' | tr '\n' ' ')
	for ((slot = 0; slot < n; slot++)); do
		_port=$((low + (first + slot) % n * 16))
		[ -e "$dir/$_port" ] || ( umask 0; : >"$dir/$_port" ) 2>/dev/null
		{ exec 8<"$dir/$_port"; } 2>/dev/null || continue
		flock -n 8 || continue
		for ((port = _port; port < _port + 16; port++)); do
			case " $used" in *" $(printf %04X "$port") "*) continue 2 ;; esac
		done
		return 0
	done
	exec 8<&-
	return 1
}
_open() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

_address() { # this node's, at the interface that was asked for
	local a
	if [ "$_role" = head ] && [ -n "$_head_addr" ]; then
		echo "$_head_addr"
		return
	fi
	if [ -n "$_if" ]; then
		a=$(ip -o addr show dev "$_if" scope global | awk '{ sub(/\/.*/, "", $4); print ($3 == "inet" ? 0 : 1), $4 }' | sort |
			sed -n '1s/.* //p')
	else
		a=$(hostname -I 2>/dev/null | tr ' ' '\n' | grep -m 1 '\.')
		[ -n "$a" ] || a=$(getent ahostsv4 "$(uname -n)" | sed -n '1s/ .*//p')
	fi
	echo "${a:-127.0.0.1}"
}

# Copies of the logs, as far as they have grown; a bound for each file and for all.
declare -A _have
_copied=0
_copy() {
	local size name to n from
	from=$(_log_dir)
	while read -r size name; do
		_log_file "$name" || continue
		[ "${_have[$name]:-0}" -le "$size" ] || _have[$name]=0 # begun anew
		n=$((size - ${_have[$name]:-0}))
		[ "$n" -gt 0 ] && [ "$size" -le 33554432 ] && [ $((_copied + n)) -le 268435456 ] || continue
		to=$_logs/$name
		[ "$name" = "${name##*/}" ] || mkdir -p "${to%/*}"
		tail -c "+$((size - n + 1))" "$from/$name" 2>/dev/null | head -c "$n" >>"$to"
		_have[$name]=$size _copied=$((_copied + n))
	done < <(cd "$from" 2>/dev/null && find . -type f -size +0 -printf '%s %P\n')
}

trap '_stop=TERM' TERM
trap : HUP INT USR1 USR2
_stop='' _pids=() _joined=''
mkdir -p "$_logs"
_addr=$(_address)
_know || exit 1
_say hello "$_vers" "$(uname -n)" "$_addr"
_own_dir
_lock "$((0x$_id % 499 * 7))" || {
	_say fail "no 16 free ports in a row on $_node${_ports:+ among $_ports}"
	exit 1
}

_make_dir() {
	mkdir -m 700 "$_tmp" 2>/dev/null || [ -O "$_tmp" ] || {
		_say fail "$_tmp belongs to somebody else"
		exit 1
	}
}
_watch() { # somebody who outlives this process; not its child, so that a scheduler does not take both at once
	(setsid bash "$_home/$_kind-node" "$_home" "$_node" "$_role" "$_ncpus" $$ "$_tmp" "$_other" </dev/null >/dev/null 2>&1 &
		echo $! >"$_home/$_kind.d/guard.$_node")
	_guard=$(cat "$_home/$_kind.d/guard.$_node")
}
_end() {
	local i
	if [ ${#_pids[@]} != 0 ]; then
		# shellcheck disable=SC2046 # numbers
		kill -TERM $(pgrep -P "$(IFS=, && echo "${_pids[*]}")") "${_pids[@]}" 2>/dev/null
		for ((i = 0; i < 10; i++)); do
			kill -0 "${_pids[@]}" 2>/dev/null || break
			sleep 0.1
		done
		_copy
	fi
	_sweep
	[ -z "$_bereft" ] || _bury
	_say gone
	exit 0
}

[ "$_role" != head ] || _start_head
_told='' _tick=0 _half='' _silent=0
while [ -z "$_stop" ]; do
	if [ "$_role" = head ] && [ -z "$_told" ]; then
		if _open "$_addr" "$_port"; then
			_told=1
			_say up "$(_up_words)"
		fi
		_silent=0
		IFS= read -r -t 0.1 line
	else
		IFS= read -r -t 1 line
	fi
	rc=$?
	_half+=$line # what the time limit cut in two
	if [ $rc = 0 ]; then
		line=$_half _half='' _silent=0
		case $line in
		stop) break ;;
		join\ *)
			[ -z "$_joined" ] || continue
			_joined=1
			# shellcheck disable=SC2086 # an address and the head's host
			set -- $line
			[ "$3" = "$(uname -n)" ] || _other=/tmp/sr-$_id
			_start_worker "$2"
			;;
		esac
	elif [ $rc -le 128 ]; then # nobody is there any more
		[ "$_role" != head ] || [ -n "$_stop" ] || _bereave
		break
	fi
	# The keeper says something every five seconds. A step whose slurmd and srun are gone hears no end of its input. Looks
	# are counted, for the time goes on while a job is suspended.
	[ $((_silent++)) -lt 25 ] || break
	[ ${#_pids[@]} != 0 ] || continue
	_dead=''
	for p in "${_pids[@]}"; do kill -0 "$p" 2>/dev/null || _dead=$p; done
	if [ -n "$_dead" ]; then
		wait "$_dead"
		rc=$?
		sleep 0.3
		[ -z "$_stop" ] || break
		_copy
		! _again || continue
		_say died "$rc" "$(_last_words)"
		break
	fi
	[ $((_tick++ % 2)) != 0 ] || _copy
	kill -0 "$_guard" 2>/dev/null || _watch
done
_end
END_OF_FILE

cat >ray-kind <<'END_OF_FILE' || unready
# What Ray is, for the keeper of a cluster and for its nodes.
_name=Ray _with=Python _join_from=1
_join_at=alive # before the head's own raylet is there, workers can only wait, and not for long
_titles='^ray(-|::)' # of its own processes that changed them
_log_dir() {
	[ -d "$_tmp/session_latest/logs" ] && echo "$_tmp/session_latest/logs" || echo "${_other:-$_tmp}/session_latest/logs"
}
_log_file() { # is it one that is copied?
	case $1 in *.sock | *debug_state* | events/* | export_events/*) return 1 ;; esac
}
_last_words() { # of `ray start`: which of its processes ended, or its last line
	sed 's/\x1b\[[0-9;]*m//g' "$_logs/ray-start.log" | awk '
		match($0, /[a-z_]+ \[exit code=[^]]*\]/) { which = substr($0, RSTART, RLENGTH) }
		NF && !/Remaining processes/ { last = $0 }
		END { print which != "" ? which : substr(last, 1, 200) }'
}

_know() { # which one is there: _vers and _auth
	_bin=$(_in bash -c 'command -v ray') || {
		_say fail "there is no ray in PATH on $_node: give the environment that has it"
		return 1
	}
	# shellcheck disable=SC2016 # for that shell
	_vers=$(_in bash -c '
		py=$(sed -n "1s/^#! *//p" "$1")
		case $py in *python*) ;; *) py=python3 ;; esac
		$py -c "import importlib.metadata as m, platform as p; print(m.version(\"ray\"), p.python_version())"' - "$_bin" 2>&1 | tail -n 1)
	# shellcheck disable=SC2086 # two words
	set -- $_vers
	case $#:${1:-} in
	2:[0-9]*.[0-9]*) ;;
	*)
		_say fail "the version of $_bin cannot be told: $_vers"
		return 1
		;;
	esac
	_auth=''
	_minor=${1#*.}
	if [ "${1%%.*}" -gt 2 ] || [ "${_minor%%.*}" -ge 52 ]; then # older ones have no tokens
		[ "$_token" = 1 ] && _auth=token || _auth=disabled
	fi
}

_start() { # _start OPTION...
	_said=("$@") _tries=$((_tries + 1))
	local env=("$_mark" "RAY_TMPDIR=$_tmp" RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_DISABLE_IMPORT_WARNING=1
		"SLURMRAY_PATIENCE=$_timeout" "RAY_DASHBOARD_STARTUP_TIMEOUT_S=$_timeout" "RAY_agent_register_timeout_ms=${_timeout}000"
		"AUTOSCALER_METRIC_PORT=$((_port + 9))" "DASHBOARD_METRIC_PORT=$((_port + 10))")
	local gpus=$_gpus cpus=$_cpus store=$_store mem=''
	[ "$cpus" != -1 ] || cpus=$_ncpus
	[ "$gpus" != -1 ] || gpus=${SLURM_GPUS_ON_NODE:-}
	if [ -z "$gpus" ]; then
		gpus=0
		[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | grep -c '^[0-9GM]')
	fi
	if [ "${SLURM_MEM_PER_NODE:-0}" -gt 0 ] 2>/dev/null; then
		mem=$SLURM_MEM_PER_NODE
	elif [ "${SLURM_MEM_PER_CPU:-0}" -gt 0 ] 2>/dev/null; then
		mem=$((SLURM_MEM_PER_CPU * _ncpus))
	fi
	# Three tenths for the object store, as Ray does with a whole machine, and no more than what shared memory has free.
	if [ "$store" = 0 ] && [ -n "$mem" ]; then
		store=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 * 972 }')
		[ "${store:-0}" -gt 0 ] && [ "$store" -lt $((mem * 314572)) ] || store=$((mem * 314572))
		[ "$store" -ge 78643200 ] || store=78643200
	fi
	[ -z "$mem" ] || [ "$mem" -lt 512 ] || set -- "$@" --memory=$((mem * 734003))
	[ "$store" = 0 ] || set -- "$@" --object-store-memory="$store"
	[ -z "$_auth" ] || env+=("RAY_AUTH_MODE=$_auth" "RAY_AUTH_TOKEN_PATH=$_home/ray/token")
	set -- --block --disable-usage-stats --node-name="$_node" --node-ip-address="$_addr" --num-cpus="$cpus" --num-gpus="$gpus" \
		--node-manager-port=$((_port + 3)) --object-manager-port=$((_port + 4)) --runtime-env-agent-port=$((_port + 5)) \
		--dashboard-agent-listen-port=$((_port + 6)) --dashboard-agent-grpc-port=$((_port + 7)) \
		--metrics-export-port=$((_port + 8)) --ray-client-server-port=$((_port + 2)) \
		--min-worker-port=0 --max-worker-port=0 "$@" "${_args[@]}"
	_make_dir
	(
		export "${env[@]}"
		# shellcheck disable=SC2016 # for that shell; what is in the background ignores INT, and ray.cancel needs it
		_in sh -c 'py=$(sed -n "1s/^#! *//p" "$(command -v ray)")
		case $py in *python*) set -- $py "$@" ;; *) shift && set -- ray "$@" ;; esac
		env --default-signal=INT,QUIT true 2>/dev/null && exec env --default-signal=INT,QUIT setsid "$@"
		exec setsid "$@"' - "$_home/ray-start" start --temp-dir="$_tmp" "$@"
	) >>"$_logs/ray-start.log" 2>&1 </dev/null &
	_pids=($!)
	kill -0 "${_guard:-}" 2>/dev/null || _watch
}
_tries=0
_again() { # ray-start knows the limits that Ray has; there may be others
	[ "$_tries" -lt 9 ] && tail -n 5 "$_logs/ray-start.log" | grep -q -e 'timed out during startup' -e 'No node info found' || return 1
	_sweep
	_told=''
	_say again "$_tries"
	_start "${_said[@]}"
}
_start_head() {
	_dash_args=(--include-dashboard=false)
	if [ "$_dash" = 1 ]; then
		# Without a token nobody else is to reach it by the network.
		[ -n "$_dash_host" ] || _dash_host=$([ -n "$_auth" ] && [ "$_auth" = token ] && echo "$_addr" || echo 127.0.0.1)
		_dash_args=(--include-dashboard=true --dashboard-host="$_dash_host" --dashboard-port=$((_port + 1)))
	fi
	_start --head --port="$_port" "${_dash_args[@]}"
}
_start_worker() { _start --address="$1"; }
_up_words() {
	echo "$_addr:$_port $([ "$_dash" = 1 ] && echo "${_dash_host/#0.0.0.0/$_addr}:$((_port + 1))" || echo -) $_addr:$((_port + 2))"
}

# For the keeper.
_head_is() { # _head_is VERSION PYTHON
	local v=${1#*.}
	_put version "$1"
	_put python "$2"
	if [ "$_token" != 1 ] || { [ "${1%%.*}" -le 2 ] && [ "${v%%.*}" -lt 52 ]; }; then
		rm -f ray/token
		_log "no token: $([ "$_token" = 1 ] && echo "Ray $1 has none" || echo 'token=false')"
	fi
}
_before() { :; }
_publish() { :; }
_eye=''
_look() { # the watcher, as part of the head's node: it is found when that is ended
	local f
	[ -z "$_eye" ] || exec {_eye}>&- # a second try
	rm -f ray.d/in.@
	mkfifo ray.d/in.@ && exec {_eye}<>ray.d/in.@ || exit 73
	_fd[@]=$_eye
	(
		trap - TERM
		export "SLURMRAY_RAY_NODE=$_tag@$_head;$_id" RAY_DISABLE_IMPORT_WARNING=1
		[ ! -e ray/token ] || export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$_home/ray/token"
		for f in "${_fd[@]}"; do exec {f}>&-; done
		exec 6>&-
		# shellcheck disable=SC2016 # for that shell
		_in bash -c '
			py=$(sed -n "1s/^#! *//p" "$(command -v ray)")
			case $py in *python*) ;; *) py=python3 ;; esac
			exec $py "$@"' - "$_home/ray-watch" "$_up" ${#_names[@]}
	) <ray.d/in.@ >&6 2>>ray.d/watch.log &
	_watch=$!
}
END_OF_FILE

cat >ray-connect <<'END_OF_FILE' || unready
# Waits for the cluster in the directory $_at, whose kind is called $_what. POSIX; read by the file `job`.
_inner_fail() {
	_own=${_own:-${0%/job}}
	printf '%s: %s\n' "$_what" "$1" >"$_own/reason"
	{
		echo "slurmray: $_what: $1"
		[ ! -s "$_at.d/tail" ] || sed '1d; s/^/slurmray: /' "$_at.d/tail"
	} >&2
	echo "${_at##*/}" >"$_own/fault"
	exit 78
}
_n=0
while :; do
	_s=''
	{ read -r _s <"$_at/state"; } 2>/dev/null
	case $_s in
	ready | degraded) break ;;
	failed) _inner_fail "$(cat "$_at/why")" ;;
	ended | stopping)
		[ -z "$_must" ] || _inner_fail "it was stopped"
		break
		;;
	esac
	[ "$_n" -lt "$_limit" ] || _inner_fail 'its cluster is not ready'
	_n=$((_n + 1))
	sleep 0.1
done
# Lets the command find the Ray cluster in the directory $_at. POSIX; read by the file `job`.
if [ -e "$_at/address" ]; then
	read -r RAY_ADDRESS <"$_at/address"
	export RAY_ADDRESS
	if [ -e "$_at/token" ]; then
		export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$_at/token"
	else
		export RAY_AUTH_MODE=disabled
	fi
	if [ -e "$_at/dashboard" ]; then
		read -r _s <"$_at/dashboard"
		RAY_API_SERVER_ADDRESS=http://$_s
		export RAY_API_SERVER_ADDRESS
	fi
fi
END_OF_FILE

cat >ray-start <<'END_OF_FILE' || unready
"""`ray start`, with patience: a raylet gives up when the agents beside it, which import much, have not said their ports within 15 s,
and `ray start` when the raylet is not known within 30 s. All the ports are given, so they can be said at once, and who waits may
wait as long as the raylet lives. Where Ray is not as expected, it is left as it is."""
import inspect
import os
import sys
import time
from importlib.util import find_spec

PORTS = (('DASHBOARD_AGENT_LISTEN_PORT_NAME', 'dashboard_agent_listen_port'), ('METRICS_AGENT_PORT_NAME', 'metrics_agent_port'),
         ('METRICS_EXPORT_PORT_NAME', 'metrics_export_port'), ('RUNTIME_ENV_AGENT_PORT_NAME', 'runtime_env_agent_port'))


def announce(given):
    import ray._raylet as core
    complete = all(find_spec(m) for m in ('aiohttp', 'aiohttp_cors', 'grpc', 'opencensus', 'prometheus_client'))
    for name, key in PORTS if complete and hasattr(core, 'persist_port') else ():
        if hasattr(core, name) and given.get(key):
            core.persist_port(given['session_dir'], given['node_id'], getattr(core, name), int(given[key]))


def patient(seconds):
    import ray._private.services as services
    limit, raylets = time.monotonic() + seconds, []
    real_start, real_get = services.start_raylet, services.get_node
    names = list(inspect.signature(real_start).parameters)

    def start_raylet(*args, **kwargs):
        try:
            announce(dict(zip(names, args), **kwargs))
        except Exception as e:
            print('slurmray: ports were not announced:', repr(e), flush=True)
        raylets.append(real_start(*args, **kwargs))
        return raylets[-1]

    def get_node(*args, **kwargs):
        while True:
            try:
                return real_get(*args, **kwargs)
            except RuntimeError:
                if any(r.process.poll() is not None for r in raylets):
                    raise Exception('The raylet timed out during startup, or crashed') from None
                if time.monotonic() > limit:
                    raise
            time.sleep(0.2)

    services.start_raylet, services.get_node = start_raylet, get_node


try:
    patient(float(os.environ.pop('SLURMRAY_PATIENCE')))
except Exception as e:
    print('slurmray: without patience:', repr(e), flush=True)
try:
    from ray.scripts.scripts import main
except ImportError:
    os.execvp('ray', ['ray'] + sys.argv[1:])
sys.argv[0] = 'ray'
sys.exit(main())
END_OF_FILE

cat >ray-watch <<'END_OF_FILE' || unready
"""Says what the cluster's own node table has: a line for each node whenever it changes, and what is free."""
import os
import sys
import threading
import time

from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions



def orphaned():
    while os.read(0, 4096):
        pass
    os._exit(0)


threading.Thread(target=orphaned, daemon=True).start()
address, nodes = sys.argv[1], int(sys.argv[2])
if hasattr(GcsClientOptions, 'create'):
    options = GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
else:
    options = GcsClientOptions.from_gcs_address(address)
state = GlobalState()
state._initialize_global_state(options)
told, failures, ready = '', 0, False
while True:
    try:
        table, free = state.node_table(), state.available_resources()
        failures = 0
    except Exception as e:
        failures += 1
        if failures > 30:
            print('@ lost', str(e).replace('\n', ' ')[:200], flush=True)
            break
        time.sleep(0.2)
        continue
    alive, lines, sums = set(), [], {}
    for n in table:
        has = n.get('Resources') or {}
        up = n.get('Alive', n.get('alive'))
        lines.append('@ node %s %s %s %s %g %g' % (n.get('NodeName') or '?', n.get('NodeManagerAddress') or '?', n.get('NodeID'),
                     'ALIVE' if up else 'DEAD', has.get('CPU', 0), has.get('GPU', 0)))
        if up:
            alive.add(n.get('NodeName'))
            for k, v in has.items():
                sums[k] = sums.get(k, 0) + v
    for k in sorted(sums):
        if ':' not in k:
            lines.append('@ free %s %.15g %.15g' % (k, free.get(k, 0), sums[k]))
    text = '\n'.join(lines + ['@ end %d' % len(alive)])
    if text != told:
        told = text
        print(text, flush=True)
    ready = ready or len(alive) >= nodes
    time.sleep(1 if ready else 0.1)
END_OF_FILE

cat >inner-hook <<'END_OF_FILE' || unready
# What the runner of a session does about the clusters in it: begins them, passes orders on, ends them.
declare -A _inner
_inner_begin() { # _inner_begin KIND
	rm -f "$1/state"
	sed -i '/^_id=/d' "$1-settings"
	(
		trap - TERM
		_leave
		exec bash "$_hold/$1-keeper" "$_hold" session </dev/null
	) &
	_inner[$1]=$!
}
_inner_order() { # _inner_order KIND restart|stop WHICH: the same one may come twice
	[ -n "${_inner[$1]:-}" ] || return 0
	if [ "$3" = "${_inner_done:-}" ] && [ "$3" != - ]; then return 0; fi
	_inner_done=$3
	if ! kill -0 "${_inner[$1]}" 2>/dev/null; then
		[ "$2" != restart ] || _inner_begin "$1"
		return 0
	fi
	[ "$2" != restart ] || : >"$1.d/restart"
	kill -TERM "${_inner[$1]}"
}
_inner_look() { # an order may come when the keeper had no ear for it any more
	local k
	for k in "${!_inner[@]}"; do
		[ ! -e "$k.d/restart" ] || kill -0 "${_inner[$k]}" 2>/dev/null || _inner_begin "$k"
	done
}
_inner_end() {
	local i k
	for k in "${!_inner[@]}"; do
		rm -f "$k.d/restart"
		kill -TERM "${_inner[$k]}" 2>/dev/null
	done
	for k in "${!_inner[@]}"; do
		for ((i = 0; i < 80; i++)); do
			kill -0 "${_inner[$k]}" 2>/dev/null || break
			sleep 0.1
		done
	done
}
for _k in ray spark; do
	[ ! -e "$_k-settings" ] || _inner_begin "$_k"
done
[ -z "${_inner[ray]:-}" ] || export SLURMRAY_RAY="$_hold/ray"
[ -z "${_inner[spark]:-}" ] || export SLURMRAY_SPARK="$_hold/spark"
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

# Its cluster ends first.
_n=0
while [ "$_n" -lt 150 ] && read -r _k <ray.d/keeper && kill -0 "$_k"; do
	_n=$((_n + 1))
	sleep 0.1
done 2>/dev/null

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
_reason=''
if [ -s reason ]; then
	_reason=$(head -c 600 reason | tr '\n' ' ' | tr -d '\000-\037\177' |
		sed 's/ *$//; s/%/%25/g; s/ /%20/g')
fi
_code=$_rc
[ "$_fault" = - ] || _code=-
_now
_end=$_t _n=0
_rec="v=1 run=9 attempt=1 job=$_me rc=$_code sig=$_sig start=$_start end=$_end \
out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \
nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault reason=${_reason:--} host=$_host limit=-"
record() { printf '%s\n' "$_rec" >exit.tmp && mv -f exit.tmp "$_ends/9.a1"; }
until record || [ "$_n" -ge 30 ]; do # a full disk may pass
	_n=$((_n + 1))
	sleep 2
done
exit "$_rc"
