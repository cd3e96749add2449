#!/bin/sh
# slurmray run gpu4 (number 9), attempt 1, launcher session
# slurmray:6f1c2a34/9/a1
#
# All of the job: this wrapper starts at most once, runs the file `job` (written below),
# passes signals on to it, and leaves an exit record in `ends`.

_dir="$HOME"/.slurmray/6f1c2a34/runs/9/a1
_ends="$HOME"/.slurmray/6f1c2a34/ends
cd "$_dir" || exit 66
_start=$(date +%s)

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
	ln -s "$_me" "$_f" 2>/dev/null
	[ "$(readlink "$_f")" = "$_me" ] || refuse "$_f is $(readlink "$_f")"
done
_who=$(uname -n).$$.$_start _f=begun.$_restart${SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}
ln -s "$_who" "$_f" 2>/dev/null
[ "$(readlink "$_f")" = "$_who" ] || refuse 'it began before'

# Signals go to the job's process.
_rc='' _sig=-
rm -f pid signal rc fault
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
_max=4 _idle=600 _grace=10
cd "$_hold" || exit 66
_job=${SLURM_JOB_ID:?}
_node=${SLURMD_NODENAME:-$(uname -n)}
_total=$(echo "${SLURM_JOB_CPUS_PER_NODE:-1}" | awk -F, '{
	for (i = 1; i <= NF; i++) n += split($i, a, /[(x)]+/) > 1 ? a[1] * a[2] : a[1]
	print n
}')
case $_total in '' | *[!0-9]*) _total=1 ;; esac
declare -A _pid _cpus _since _seen
_wait=() _live=0 _used=0 _stop='' _half8='' _half7='' _dirty=1 _told=0 _quiet=$SECONDS

# Everything that happens rings the bell; nothing is lost when a ring is, for all is looked at once a second anyway.
rm -f bell
mkfifo bell && exec 9<>bell && : >>queue && : >>orders && exec 8<queue 7<orders || exit 73
mkdir -p "$_base/sessions" && ln -sfn "$_hold" "$_base/sessions/$_job" || exit 73
trap '_stop=TERM' TERM
trap : HUP INT USR1 USR2 # ignored ones would be so in the steps, for ever

# The steps as the poll wants them, whole or not at all.
_tell() {
	local k
	_dirty=0 _told=${EPOCHREALTIME//[!0-9]/}
	{
		for k in "${!_pid[@]}"; do echo "$k RUNNING ${_since[$k]}"; done
		for k in "${_wait[@]}"; do echo "${k%% *} PENDING 0"; done
	} >steps.new && mv -f steps.new steps
}

# A step: its wrapper is the leader of a session of its own, so that all that it leaves behind is found.
_start() { # _start NUM/aATTEMPT CPUS MERGED
	local num=${1%%/*} dir=$_base/runs/$1
	(
		trap : TERM # Slurm tells everybody
		exec 7<&- 8<&- </dev/null
		cd "$dir" || exit 0
		export SLURMRAY_JOB_ID=$_job.s$num
		exec >>stdout
		if [ "$3" = 1 ]; then exec 2>&1; else exec 2>>stderr; fi
		# shellcheck disable=SC2016
		setsid sh -c 'echo $$ >wrapper && exec sh ./script' 9>&-
		_p=$(cat wrapper) && _kill KILL "$_p"
		echo >&9
	) 2>/dev/null &
	_pid[$1]=$! _cpus[$1]=$2 _since[$1]=$(printf '%(%s)T' -1)
	_live=$((_live + 1)) _used=$((_used + $2)) _dirty=1
}

_kill() { # _kill SIGNAL WRAPPER: all of the step but its wrapper
	local p all=()
	for p in $(ps -o pid= -s "$2" 2>/dev/null); do
		[ "$p" = "$2" ] || all+=("$p")
	done
	[ ${#all[@]} = 0 ] || kill -s "$1" "${all[@]}" 2>/dev/null
}

_end() { # _end NUM/aATTEMPT
	local dir=$_base/runs/$1
	_live=$((_live - 1)) _used=$((_used - _cpus[$1])) _dirty=1
	unset "_pid[$1]" "_cpus[$1]" "_since[$1]"
	# Whose wrapper was killed has no record; one that was read already is in the step's own directory.
	[ -e "$_base/ends/${1%/*}.${1#*/}" ] || [ -e "$dir/exit" ] || [ ! -L "$dir/started" ] || : >"$dir/gone"
}

_cancel() { # _cancel NUM/aATTEMPT GRACE: as scancel does
	local dir=$_base/runs/$1 p i left=()
	for i in "${_wait[@]}"; do [ "${i%% *}" = "$1" ] || left+=("$i"); done
	[ ${#left[@]} = ${#_wait[@]} ] || _dirty=1
	_wait=("${left[@]}")
	[ -n "${_pid[$1]:-}" ] && p=$(cat "$dir/wrapper" 2>/dev/null) || return 0
	kill -s TERM "$p" 2>/dev/null
	_kill TERM "$p"
	(
		trap : TERM
		exec 7<&- 8<&- 9>&-
		for ((i = 0; i < $2 * 5; i++)); do
			kill -0 "$p" || exit 0
			sleep 0.2
		done
		_kill KILL "$p"
	) 2>/dev/null &
}

_order() { # _order VERB NUM/aATTEMPT ARGUMENT
	local p
	case $1 in
	cancel) _cancel "$2" "$3" ;;
	signal) [ -n "${_pid[$2]:-}" ] && p=$(cat "$_base/runs/$2/wrapper") && case $3 in
		HUP | INT | TERM | USR1 | USR2) kill -s "$3" "$p" ;;
		*) _kill "$3" "$p" ;;
		esac ;;
	stop) _stop=stop ;;
	ray) _ray_order "$2" ;;
	esac 2>/dev/null
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
		if [ "$#:${4:-}" = 4:. ] && [ -z "${_seen[$1]:-}" ]; then
			_seen[$1]=1 _dirty=1
			_wait+=("$1 $2 $3")
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
		: >"$_base/runs/$k/stopped"
		_cancel "$k" "$_grace"
	done
	for ((i = 0; i < (_grace + 5) * 10 && ${#_pid[@]}; i++)); do
		for k in "${!_pid[@]}"; do kill -0 "${_pid[$k]}" 2>/dev/null || _end "$k"; done
		[ ${#_pid[@]} = 0 ] || read -r -t 0.1 -u 9 _
	done
	_ray_end
	rm -f "$_base/sessions/$_job" steps bell
	echo "$(date +%Y-%m-%dT%H:%M:%S%z) $1"
	exit "$2"
}

_ray_order() { :; }
_ray_end() { :; }
[ ! -e ray-hook ] || . ./ray-hook
echo "$(date +%Y-%m-%dT%H:%M:%S%z) up on $_node with $_total CPUs"
while :; do
	for k in "${!_pid[@]}"; do kill -0 "${_pid[$k]}" 2>/dev/null || _end "$k"; done
	_read
	case $_stop in
	stop) _finish stopped 0 ;;
	TERM) _finish 'told to end by the scheduler' 143 ;;
	esac
	while [ -z "$_stop" ] && [ ${#_wait[@]} != 0 ] && [ "$_live" -lt "$_max" ]; do
		# shellcheck disable=SC2086
		set -- ${_wait[0]}
		[ $((_used + $2)) -le "$_total" ] || [ "$_live" = 0 ] || break
		_wait=("${_wait[@]:1}")
		_start "$1" "$2" "$3"
	done
	if [ "$_live" != 0 ] || [ ${#_wait[@]} != 0 ]; then
		_quiet=$SECONDS
	elif [ "$_idle" != 0 ] && [ $((SECONDS - _quiet)) -ge "$_idle" ]; then
		_finish "idle for $_idle s" 0
	fi
	_now=${EPOCHREALTIME//[!0-9]/}
	if [ "$_dirty" = 1 ] && [ $((_now - _told)) -ge 200000 ]; then _tell; fi
	_pause=1
	[ $((SECONDS - _quiet)) -ge 60 ] || _pause=0.05
	read -r -t "$_pause" -u 9 _
done
END_OF_FILE

# Run it, bash where there is one.
_env='env --default-signal=INT,QUIT'
$_env true 2>/dev/null || _env=''
_sh=$(command -v bash) || _sh=/bin/sh
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
	case $_fault in workdir | input | environment | ray) ;; *) _fault=- ;; esac
	[ "$_rc" != 73 ] || [ -s pid ] || _fault='write'
	rm -f pid
fi
exec 2>/dev/null
trap '' TERM INT HUP USR1 USR2 # what follows is not to be disturbed

# Processor time of all that the job waited for, in microseconds.
_us() {
	_m=${1%%m*} _s=${1#*m}
	_s=${_s%s}
	_f=$(printf '%.6s' "${_s#*[.,]}000000")
	echo $((_m * 60000000 + ${_s%[.,]*} * 1000000 + 1$_f - 1000000))
}
_cpu='' _user='' _sys=''
times >times.tmp && { read -r _ && read -r _user _sys; } <times.tmp
case $_user:$_sys in
[0-9]*m*s:[0-9]*m*s) _cpu=$(($(_us "$_user") + $(_us "$_sys"))) ;;
esac
rm -f times.tmp

# What is in results/, for readers: type, size, mtime, mode, path, target.
_man=0
find results/ -mindepth 1 \( -type f -o -type d -o -type l \) \
	-printf '%y\0%s\0%T@\0%m\0%P\0%l\0' >manifest.tmp && mv -f manifest.tmp manifest && _man=1

# Peak memory and processor time, where the job has cgroups; what srun starts is seen only there.
_rss='' _all=''
_cg=$(sed -n 's|^[0-9]*:\([a-z,]*\):\(/.*/job_[0-9]*\)/step_.*|/sys/fs/cgroup/\1\2|p' /proc/self/cgroup)
case $_me in *.s*) _cg='' ;; esac # the session's
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
_out=$(wc -c <stdout)
_err=$(wc -c <stderr)
_code=$_rc
[ "$_fault" = - ] || _code=-
record() {
	printf '%s\n' "v=1 run=9 attempt=1 job=$_me rc=$_code sig=$_sig start=$_start end=$_end \
out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \
nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault host=$(uname -n) limit=-" >exit.tmp && mv -f exit.tmp "$_ends/9.a1"
}
_end=$(date +%s) _n=0
until record || [ "$_n" -ge 30 ]; do # a full disk may pass
	_n=$((_n + 1))
	sleep 2
done
exit "$_rc"
