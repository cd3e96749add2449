#!/bin/sh
# slurmray run train (number 9), attempt 2, launcher bash
# slurmray:6f1c2a34/9/a2
#
# All of the job: this wrapper starts at most once, runs the file `job` (written below),
# passes signals on to it, and leaves an exit record in `ends`.

_dir="$HOME"/.slurmray/6f1c2a34/runs/9/a2
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
export SLURMRAY_RUN=train SLURMRAY_ATTEMPT=2
export SLURMRAY_RESULTS="$_dir/results" SLURMRAY_INPUTS="$_dir/work"
export SLURM_EXPORT_ENV=ALL
unset SLURMRAY_JOB_ID

# Dagster Pipes: the context is in the file `context`, messages go to the file `events`.
_param() { # JSON before a path, the path, JSON behind it
	{
		printf %s "$1"
		printf %s "$2" | sed 's/[\\"]/\\&/g'
		printf %s "$3"
	} | od -An -v -tu1 | awk '
		{ for (i = 1; i <= NF; i++) { if ($i == 10) continue; d[n++] = $i; a = (a + $i) % 65521; b = (b + a + 1) % 65521 } }
		function put(byte) { o[m++] = byte % 256 }
		END {
			a = (a + 1) % 65521
			put(120); put(1); put(1); put(n); put(int(n / 256)); put(255 - n % 256); put(255 - int(n / 256))
			for (i = 0; i < n; i++) put(d[i])
			put(int(b / 256)); put(b); put(int(a / 256)); put(a)
			c = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
			for (i = 0; i < m; i += 3) {
				t = o[i] * 65536 + (i + 1 < m ? o[i + 1] * 256 : 0) + (i + 2 < m ? o[i + 2] : 0)
				for (k = 0; k < 4; k++) {
					q = int(t / (64 ^ (3 - k))) % 64
					printf "%s", (i + k > m ? "=" : substr(c, q + 1, 1))
				}
			}
		}'
}
[ -e context ] || mv work/.slurmray-context context || unready
DAGSTER_PIPES_CONTEXT=$(_param '{"path": "' "$_dir/context" '"}') || unready
export DAGSTER_PIPES_CONTEXT
[ -z "$(tail -c 1 events 2>/dev/null)" ] || echo >>events
[ "$_restart" = 0 ] || echo '{"slurmray": "start", "restart": '"$_restart}" >>events || unready
: >>events || unready
DAGSTER_PIPES_MESSAGES=$(_param '{"path": "' "$_dir/events" '"}') || unready
export DAGSTER_PIPES_MESSAGES

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
exec "${BASH:-/bin/sh}" -c 'python train.py'
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
_events=$(wc -c <events)
_code=$_rc
[ "$_fault" = - ] || _code=-
_now
_end=$_t _n=0
_rec="v=1 run=9 attempt=2 job=$_me rc=$_code sig=$_sig start=$_start end=$_end \
out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \
nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault events=${_events:--} host=$_host limit=-"
record() { printf '%s\n' "$_rec" >exit.tmp && mv -f exit.tmp "$_ends/9.a2"; }
until record || [ "$_n" -ge 30 ]; do # a full disk may pass
	_n=$((_n + 1))
	sleep 2
done
exit "$_rc"
