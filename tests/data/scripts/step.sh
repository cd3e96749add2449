#!/bin/sh
# slurmray run 10 (number 10), attempt 1, launcher bash
# slurmray:6f1c2a34/10/a1
#
# All of the job: this wrapper starts at most once, runs the file `job` (written below),
# passes signals on to it, and leaves an exit record in `ends`.

_dir="$HOME"/.slurmray/6f1c2a34/runs/10/a1
_ends="$HOME"/.slurmray/6f1c2a34/ends
cd "$_dir" || exit 66
# shellcheck disable=SC2086 # two words
set -- ${SLURMRAY_RUNNER:-}
_off=${1:-} _host=${2:-$(uname -n)} _key=${3:-} _bell=${SLURMRAY_BELL:-}
unset SLURMRAY_RUNNER SLURMRAY_BELL
_now() {
	if [ -n "$_off" ] && read -r _t _ </proc/uptime; then
		_t=$(((${_t%.*} * 100 + 1${_t#*.} - 100 + _off) / 100))
	else
		_t=$(date +%s)
	fi
}
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
ln -s "$_me" started 2>/dev/null || [ "$(readlink started)" = "$_me" ] ||
	refuse "started is $(readlink started)"
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
export SLURMRAY_RUN=10 SLURMRAY_ATTEMPT=1
export SLURMRAY_RESULTS="$_dir/results" SLURMRAY_INPUTS="$_dir/work"
export SLURM_EXPORT_ENV=ALL
unset SLURMRAY_JOB_ID

# shellcheck disable=SC2086 # words
_job() {
	trap - TERM INT QUIT HUP USR1 USR2
	read -r _t _ </proc/self/stat && echo "$_t" >pid || exit 73
	[ ! -s signal ] || { read -r _f <signal && kill -s "$_f" "$_t"; }
	cd work || exit 66
	_own=$_dir
if [ -n "${SLURMRAY_RAY:-}" ]; then
	_at=$SLURMRAY_RAY _what=Ray _must='' _limit=1350
	# shellcheck disable=SC1090,SC1091 # of the session
	. "$_at-connect"
fi
if [ -n "${SLURMRAY_SPARK:-}" ]; then
	_at=$SLURMRAY_SPARK _what=Spark _must='' _limit=1350
	# shellcheck disable=SC1090,SC1091 # of the session
	. "$_at-connect"
fi
	exec srun --overlap --exact -n4 -c1 $_env "$_sh" -c hostname
}

# Run it, bash where there is one.
_env='env --default-signal=INT,QUIT'
if [ -n "$_off" ] || ! $_env true 2>/dev/null; then _env=''; fi
_sh=bash
command -v bash >/dev/null || _sh=/bin/sh
if [ -z "$_rc" ]; then
	(
		trap : TERM INT HUP USR1 USR2
		(exec 2>&3 3>&- && _job </dev/null)
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
fi
exec 2>/dev/null
trap '' TERM INT HUP USR1 USR2 # what follows is not to be disturbed

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

_rss=''
[ ! -s rss ] || read -r _rss <rss
case $_rss in *[!0-9]*) _rss='' ;; esac
_cpu='' _rss=''

# A requeue that was granted ended this start; the next one will leave the record.
[ ! -e "grant.$((_restart + 1))" ] || exit "$_rc"

# The exit record: complete, then renamed to where the other side looks.
# shellcheck disable=SC3045 # bash, as _off says
_bytes() {
	_n=''
	if [ ! -s "$1" ]; then
		[ ! -e "$1" ] || _n=0
	elif [ -n "$_off" ] && LC_ALL=C && ! IFS= read -r -d '' -n 65536 _v <"$1"; then
		_n=${#_v}
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
_limit=-
case $_sig:$_rc in -:129 | -:130 | -:137 | -:143 | [!-]*)
	[ -e stopped ] || [ -e cancelled ] || sleep 1 ;;
esac
[ ! -e stopped ] || _limit=session
_code=$_rc
[ "$_fault" = - ] || _code=-
_now
_end=$_t _n=0
_rec="v=1 run=10 attempt=1 job=$_me rc=$_code sig=$_sig start=$_start end=$_end \
out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \
nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault reason=${_reason:--} host=$_host limit=$_limit"
record() { printf '%s\n' "$_rec" >exit.tmp && mv -f exit.tmp "$_ends/10.a1"; }
until record || [ "$_n" -ge 30 ]; do # a full disk may pass
	_n=$((_n + 1))
	sleep 2
done
printf '%s\n' "$_rec" >./exit
[ ! -p "$_bell" ] || echo "${_key:-10/a1}" 1<>"$_bell"
exit "$_rc"
