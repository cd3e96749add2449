/*
 * The launcher of a session's own job: inside the usual wrapper runs a runner, which starts the session's steps (runs
 *of their own, with the usual wrapper each) when they are put into its queue. docs/design/16-sessions.md has the whole.
 *
 * Invariants of the runner: it needs nothing but the shared directory, so it goes on without login node, controller and
 * connection; it decides nothing about a step but when it starts (that a step starts once is its wrapper's guard); it
 * ends by itself when nothing was to do for `idle` seconds. Lines of `queue` and `orders` end in " ." and are only
 * ever appended:
 *	queue	NUM/aATTEMPT CPUS MERGED .
 *	orders	cancel NUM/aATTEMPT GRACE .	signal NUM/aATTEMPT NAME .	stop - 0 .
 * It leaves `steps`, a line for each that runs or waits: NUM/aATTEMPT STATE SINCE. Needs bash 5, ps and setsid.
 */
#include "launchers/ray.h"
#include "launchers/wrapper.h"

#include "backend/base/quote.h"

#include <string.h>

static const char runner[] =
	"cd \"$_hold\" || exit 66\n"
	"_job=${SLURM_JOB_ID:?}\n"
	"_node=${SLURMD_NODENAME:-$(uname -n)}\n"
	"_total=$(echo \"${SLURM_JOB_CPUS_PER_NODE:-1}\" | awk -F, '{\n"
	"\tfor (i = 1; i <= NF; i++) n += split($i, a, /[(x)]+/) > 1 ? a[1] * a[2] : a[1]\n"
	"\tprint n\n"
	"}')\n"
	"case $_total in '' | *[!0-9]*) _total=1 ;; esac\n"
	"declare -A _pid _cpus _since _seen\n"
	"_wait=() _live=0 _used=0 _stop='' _half8='' _half7='' _dirty=1 _told=0 _quiet=$SECONDS\n"
	"\n"
	"# Everything that happens rings the bell; nothing is lost when a ring is, for all is looked at once a second anyway.\n"
	"rm -f bell\n"
	"mkfifo bell && exec 9<>bell && : >>queue && : >>orders && exec 8<queue 7<orders || exit 73\n"
	"mkdir -p \"$_base/sessions\" && ln -sfn \"$_hold\" \"$_base/sessions/$_job\" || exit 73\n"
	"trap '_stop=TERM' TERM\n"
	"trap : HUP INT USR1 USR2 # ignored ones would be so in the steps, for ever\n"
	"\n"
	"# The steps as the poll wants them, whole or not at all.\n"
	"_tell() {\n"
	"\tlocal k\n"
	"\t_dirty=0 _told=${EPOCHREALTIME//[!0-9]/}\n"
	"\t{\n"
	"\t\tfor k in \"${!_pid[@]}\"; do echo \"$k RUNNING ${_since[$k]}\"; done\n"
	"\t\tfor k in \"${_wait[@]}\"; do echo \"${k%% *} PENDING 0\"; done\n"
	"\t} >steps.new && mv -f steps.new steps\n"
	"}\n"
	"\n"
	"# A step: its wrapper is the leader of a session of its own, so that all that it leaves behind is found.\n"
	"_start() { # _start NUM/aATTEMPT CPUS MERGED\n"
	"\tlocal num=${1%%/*} dir=$_base/runs/$1\n"
	"\t(\n"
	"\t\ttrap : TERM # Slurm tells everybody\n"
	"\t\texec 7<&- 8<&- </dev/null\n"
	"\t\tcd \"$dir\" || exit 0\n"
	"\t\texport SLURMRAY_JOB_ID=$_job.s$num\n"
	"\t\texec >>stdout\n"
	"\t\tif [ \"$3\" = 1 ]; then exec 2>&1; else exec 2>>stderr; fi\n"
	"\t\t# shellcheck disable=SC2016\n"
	"\t\tsetsid sh -c 'echo $$ >wrapper && exec sh ./script' 9>&-\n"
	"\t\t_p=$(cat wrapper) && _kill KILL \"$_p\"\n"
	"\t\techo >&9\n"
	"\t) 2>/dev/null &\n"
	"\t_pid[$1]=$! _cpus[$1]=$2 _since[$1]=$(printf '%(%s)T' -1)\n"
	"\t_live=$((_live + 1)) _used=$((_used + $2)) _dirty=1\n"
	"}\n"
	"\n"
	"_kill() { # _kill SIGNAL WRAPPER: all of the step but its wrapper\n"
	"\tlocal p all=()\n"
	"\tfor p in $(ps -o pid= -s \"$2\" 2>/dev/null); do\n"
	"\t\t[ \"$p\" = \"$2\" ] || all+=(\"$p\")\n"
	"\tdone\n"
	"\t[ ${#all[@]} = 0 ] || kill -s \"$1\" \"${all[@]}\" 2>/dev/null\n"
	"}\n"
	"\n"
	"_end() { # _end NUM/aATTEMPT\n"
	"\tlocal dir=$_base/runs/$1\n"
	"\t_live=$((_live - 1)) _used=$((_used - _cpus[$1])) _dirty=1\n"
	"\tunset \"_pid[$1]\" \"_cpus[$1]\" \"_since[$1]\"\n"
	"\t# Whose wrapper was killed has no record; one that was read already is in the step's own directory.\n"
	"\t[ -e \"$_base/ends/${1%/*}.${1#*/}\" ] || [ -e \"$dir/exit\" ] || [ ! -L \"$dir/started\" ] || : >\"$dir/gone\"\n"
	"}\n"
	"\n"
	"_cancel() { # _cancel NUM/aATTEMPT GRACE: as scancel does\n"
	"\tlocal dir=$_base/runs/$1 p i left=()\n"
	"\tfor i in \"${_wait[@]}\"; do [ \"${i%% *}\" = \"$1\" ] || left+=(\"$i\"); done\n"
	"\t[ ${#left[@]} = ${#_wait[@]} ] || _dirty=1\n"
	"\t_wait=(\"${left[@]}\")\n"
	"\t[ -n \"${_pid[$1]:-}\" ] && p=$(cat \"$dir/wrapper\" 2>/dev/null) || return 0\n"
	"\tkill -s TERM \"$p\" 2>/dev/null\n"
	"\t_kill TERM \"$p\"\n"
	"\t(\n"
	"\t\ttrap : TERM\n"
	"\t\texec 7<&- 8<&- 9>&-\n"
	"\t\tfor ((i = 0; i < $2 * 5; i++)); do\n"
	"\t\t\tkill -0 \"$p\" || exit 0\n"
	"\t\t\tsleep 0.2\n"
	"\t\tdone\n"
	"\t\t_kill KILL \"$p\"\n"
	"\t) 2>/dev/null &\n"
	"}\n"
	"\n"
	"_order() { # _order VERB NUM/aATTEMPT ARGUMENT\n"
	"\tlocal p\n"
	"\tcase $1 in\n"
	"\tcancel) _cancel \"$2\" \"$3\" ;;\n"
	"\tsignal) [ -n \"${_pid[$2]:-}\" ] && p=$(cat \"$_base/runs/$2/wrapper\") && case $3 in\n"
	"\t\tHUP | INT | TERM | USR1 | USR2) kill -s \"$3\" \"$p\" ;;\n"
	"\t\t*) _kill \"$3\" \"$p\" ;;\n"
	"\t\tesac ;;\n"
	"\tstop) _stop=stop ;;\n"
	"\tray) _ray_order \"$2\" ;;\n"
	"\tesac 2>/dev/null\n"
	"}\n"
	"\n"
	"# Lines end in \" .\"; what comes in two pieces is put together.\n"
	"_read() {\n"
	"\tlocal line\n"
	"\twhile :; do\n"
	"\t\tif ! read -r line <&8; then\n"
	"\t\t\t_half8+=$line\n"
	"\t\t\tbreak\n"
	"\t\tfi\n"
	"\t\tline=$_half8$line _half8=''\n"
	"\t\t# shellcheck disable=SC2086\n"
	"\t\tset -- $line\n"
	"\t\tif [ \"$#:${4:-}\" = 4:. ] && [ -z \"${_seen[$1]:-}\" ]; then\n"
	"\t\t\t_seen[$1]=1 _dirty=1\n"
	"\t\t\t_wait+=(\"$1 $2 $3\")\n"
	"\t\tfi\n"
	"\tdone\n"
	"\twhile :; do\n"
	"\t\tif ! read -r line <&7; then\n"
	"\t\t\t_half7+=$line\n"
	"\t\t\tbreak\n"
	"\t\tfi\n"
	"\t\tline=$_half7$line _half7=''\n"
	"\t\t# shellcheck disable=SC2086\n"
	"\t\tset -- $line\n"
	"\t\t[ \"$#:${4:-}\" != 4:. ] || _order \"$1\" \"$2\" \"$3\"\n"
	"\tdone\n"
	"}\n"
	"\n"
	"_finish() { # _finish WHY CODE\n"
	"\tlocal k i\n"
	"\texec 8<&-\n"
	"\t_wait=()\n"
	"\tfor k in \"${!_pid[@]}\"; do\n"
	"\t\t: >\"$_base/runs/$k/stopped\"\n"
	"\t\t_cancel \"$k\" \"$_grace\"\n"
	"\tdone\n"
	"\tfor ((i = 0; i < (_grace + 5) * 10 && ${#_pid[@]}; i++)); do\n"
	"\t\tfor k in \"${!_pid[@]}\"; do kill -0 \"${_pid[$k]}\" 2>/dev/null || _end \"$k\"; done\n"
	"\t\t[ ${#_pid[@]} = 0 ] || read -r -t 0.1 -u 9 _\n"
	"\tdone\n"
	"\t_ray_end\n"
	"\trm -f \"$_base/sessions/$_job\" steps bell\n"
	"\techo \"$(date +%Y-%m-%dT%H:%M:%S%z) $1\"\n"
	"\texit \"$2\"\n"
	"}\n"
	"\n"
	"_ray_order() { :; }\n"
	"_ray_end() { :; }\n"
	"[ ! -e ray-hook ] || . ./ray-hook\n"
	"echo \"$(date +%Y-%m-%dT%H:%M:%S%z) up on $_node with $_total CPUs\"\n"
	"while :; do\n"
	"\tfor k in \"${!_pid[@]}\"; do kill -0 \"${_pid[$k]}\" 2>/dev/null || _end \"$k\"; done\n"
	"\t_read\n"
	"\tcase $_stop in\n"
	"\tstop) _finish stopped 0 ;;\n"
	"\tTERM) _finish 'told to end by the scheduler' 143 ;;\n"
	"\tesac\n"
	"\twhile [ -z \"$_stop\" ] && [ ${#_wait[@]} != 0 ] && [ \"$_live\" -lt \"$_max\" ]; do\n"
	"\t\t# shellcheck disable=SC2086\n"
	"\t\tset -- ${_wait[0]}\n"
	"\t\t[ $((_used + $2)) -le \"$_total\" ] || [ \"$_live\" = 0 ] || break\n"
	"\t\t_wait=(\"${_wait[@]:1}\")\n"
	"\t\t_start \"$1\" \"$2\" \"$3\"\n"
	"\tdone\n"
	"\tif [ \"$_live\" != 0 ] || [ ${#_wait[@]} != 0 ]; then\n"
	"\t\t_quiet=$SECONDS\n"
	"\telif [ \"$_idle\" != 0 ] && [ $((SECONDS - _quiet)) -ge \"$_idle\" ]; then\n"
	"\t\t_finish \"idle for $_idle s\" 0\n"
	"\tfi\n"
	"\t_now=${EPOCHREALTIME//[!0-9]/}\n"
	"\tif [ \"$_dirty\" = 1 ] && [ $((_now - _told)) -ge 200000 ]; then _tell; fi\n"
	"\t_pause=1\n"
	"\t[ $((SECONDS - _quiet)) -ge 60 ] || _pause=0.05\n"
	"\tread -r -t \"$_pause\" -u 9 _\n"
	"done\n";

static void add_settings(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf base = STRBUF_INIT;

	strbuf_addf(&base, "%s/%s", job->directory, ctx->uuid);
	strbuf_addstr(out, "#!/usr/bin/env bash\n_base=");
	quote_sh_path(out, base.buf);
	strbuf_addstr(out, "\n_hold=");
	launch_attempt_dir(out, job->directory, ctx);
	strbuf_addf(out, "\n_max=%d _idle=%lld _grace=%d\n", job->max_steps ? job->max_steps : 9999,
		    (long long)job->idle_s, job->grace_s);
}

static int render(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e)
{
	cleanup_strbuf struct strbuf body = STRBUF_INIT, text = STRBUF_INIT;
	int rc = wrap_check(job, ctx, e);

	if (rc)
		return rc;
	add_settings(job, ctx, &text);
	strbuf_addstr(&text, runner);
	wrap_environment(job, &body);
	strbuf_addstr(&body, "exec bash \"${0%/job}/runner\"\n");
	wrap_prologue(job, ctx, out);
	wrap_file(out, "job", body.buf, body.len);
	wrap_file(out, "runner", text.buf, text.len);
	ray_files(job, ctx, out);
	if (job->ray.on)
		wrap_file(out, "ray-hook", ray_hook_text, strlen(ray_hook_text));
	wrap_epilogue(job, ctx, out);
	return 0;
}

extern const struct launcher launcher_session;
const struct launcher launcher_session = { .name = "session", .render = render };
