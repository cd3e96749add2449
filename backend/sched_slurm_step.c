/*
 * Steps of a session: what sched_slurm*.c does with jobs, done with the queue of the session's own job (its holder,
 * launchers/session.c). The answers have the form that the readers of those files know, so only the code that asks is
 * another: what the controller would say of a job is said of a step.
 *
 * Invariants: a step's job id is known before it is queued (HOLDER.sNUM), so a claim needs no answer of anybody; the
 * line in the queue comes before the claim, so a claimed step is queued, and two lines start it once (the wrapper's
 * guard); a step is void before it is called lost.
 *
 * A session that is shared has links DIRECTORY/shared/NAME.N -> UUID/NUM/aATTEMPT. They are only ever made, the next
 * number when the session of the last one has ended; who makes one begins the session. The steps of another state
 * directory than the holder's have UUID: in front of their names, and the beginning of it behind their ids.
 */
#include "backend/sched_slurm.h"

#include "backend/base/hash.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <string.h>

const char slurm_step_prelude[] =
	/* A step that its session has refused (it can never fit) is void, and has a record: that is its end. */
	"st_settled() {\n"
	"\tst_x=${st_k%/*}.${st_k#*/}\n"
	"\tif [ -s \"$sl_ends/$st_x\" ] || [ -s \"$sl_a/exit\" ]; then echo \"ok $sl_id\"; else sl_settled; fi\n"
	"}\n"
	/* st_void ATTEMPT: it starts nowhere any more; who was first is in sl_r. */
	"st_void() {\n"
	"\t(umask 077; mkdir -p \"$1\") 2>/dev/null\n"
	"\tsl_link void \"$1/started\"\n"
	"}\n"
	/* Was the session's directory taken away? Then nothing can start in it. */
	"st_gone() { [ ! -d \"$st_h\" ] && [ -d \"${st_h%/*/*}\" ]; }\n"
	/* st_homeless ATTEMPT: what the session was that it is for is not known; so it starts nowhere. */
	"st_homeless() {\n"
	"\tst_h=/ sl_a=$1\n"
	"\tst_void \"$1\"\n"
	"\tcase $sl_r in\n"
	"\tvoid) if ! sl_settled; then echo unsure; fi ;;\n"
	"\t?*) echo \"ok $sl_r\" ;;\n"
	"\t*) sl_say unsure \"cannot write in $1\" ;;\n"
	"\tesac\n"
	"}\n"
	/* st_submit ATTEMPT ENDS TOKEN LEN MORE WORK HOLDER ID LINE: as sl_submit, with the same answers. */
	"st_submit() {\n"
	"\tsl_a=$1 sl_ends=$2 sl_token=$3 sl_len=$4 sl_more=$5 sl_work=${6:-$1/work} st_h=$7 sl_id=$8\n"
	"\tsl_t='' sl_um=$(umask) st_k=${9%% *}\n"
	"\tst_k=${st_k#*:}\n"
	"\tif st_gone; then st_void \"$sl_a\"; fi\n"
	"\tif st_settled; then return; fi\n"
	"\tumask 077\n"
	"\tif ! mkdir -p \"$sl_a\" \"$sl_ends\" 2>&1; then\n"
	"\t\tsl_fail \"cannot make the control directory $sl_a\"\n"
	"\t\treturn\n"
	"\tfi\n"
	"\tif [ ! -e \"$sl_a/intent\" ]; then\n"
	"\t\tsl_t=$(mktemp -d \"$sl_a/tmp.XXXXXXXX\") || { sl_fail \"cannot write in $sl_a\"; return; }\n"
	"\t\tif ! sl_q=$(sl_deliver 2>&1); then\n"
	"\t\t\tsl_fail \"${sl_q:-cannot write the script to $sl_a}\"\n"
	"\t\t\treturn\n"
	"\t\tfi\n"
	"\t\trm -rf \"$sl_t\"\n"
	"\tfi\n"
	"\tst_of \"${sl_ends%/ends}\" \"${8%%.*}\"\n"
	"\tst_tell queue \"$9\" || { sl_fail \"cannot write to the queue of the session in $st_h\"; return; }\n"
	"\tsl_link \"$sl_id\" \"$sl_a/claim\"\n"
	"\tif ! st_settled; then echo unsure; fi\n"
	"}\n"
	/*
	 * st_many HOLDER ENDS BASE JOB KEY:LEN:LINE...: many at once, whose scripts follow each other in "$IN", and
	 * nothing else of each. A line `run KEY` for each, and behind it the answer. A script that is there without
	 * `intent` was left by a writer that may still be at it: then it is replaced as a whole, under a name of this
	 * connection. What was written is read back, for a shell does not look at what close(2) says (a quota, by NFS).
	 */
	"st_put() {\n"
	"\t[ \"${#st_s}\" -eq \"$st_l\" ] || return 1\n"
	"\tset -C\n"
	"\t{ printf %s \"$st_s\" >\"$sl_a/script\"; } 2>/dev/null\n"
	"\tst_rc=$?\n"
	"\tset +C\n"
	"\tif [ \"$st_rc\" -ne 0 ]; then\n"
	"\t\tst_t=$sl_a/script.${SR_T##*.}\n"
	"\t\tprintf %s \"$st_s\" >\"$st_t\" && mv -f \"$st_t\" \"$sl_a/script\" || return 1\n"
	"\tfi\n"
	"\tst_whole && printf '' >\"$sl_a/intent\"\n"
	"}\n"
	"if [ -n \"${BASH_VERSION-}\" ]; then\n"
	"st_next() { IFS= read -r -d '' -N \"$st_l\" -u 6 st_s; }\n"
	"st_whole() { IFS= read -r -d '' -N \"$st_l\" st_b <\"$sl_a/script\" && [ \"$st_b\" = \"$st_s\" ]; }\n"
	"else\n"
	"st_whole() { [ \"$(wc -c <\"$sl_a/script\")\" -eq \"$st_l\" ]; }\n"
	"st_next() {\n"
	"\tst_s=$(tail -c \"+$((st_at + 1))\" \"$IN\" | head -c \"$st_l\"; echo .)\n"
	"\tst_s=${st_s%.} st_at=$((st_at + st_l))\n"
	"}\n"
	"fi\n"
	"st_many() {\n"
	"\tst_h=$1 st_ends=$2 st_base=$3/runs st_job=$4 st_at=0 st_dirs='' st_q='' st_ok=''\n"
	"\tst_of \"$3\" \"$4\"\n"
	"\tst_nl='\n'\n"
	"\tshift 4\n"
	"\tumask 077\n"
	"\tfor st_x in \"$@\"; do\n"
	"\t\tst_dirs=\"$st_dirs ${st_x%%:*}/work ${st_x%%:*}/results\"\n"
	"\tdone\n"
	"\t{ [ -d \"$st_base\" ] && [ -d \"$st_ends\" ]; } || mkdir -p \"$st_base\" \"$st_ends\" || return 75\n"
	"\tcd \"$st_base\" || return 75\n"
	"\tmkdir -p $st_dirs || : # the others go on\n"
	"\tif st_gone; then for st_x in \"$@\"; do st_void \"${st_x%%:*}\"; done; fi\n"
	"\texec 6<\"$IN\"\n"
	"\tfor st_x in \"$@\"; do\n"
	"\t\tst_k=${st_x%%:*} st_w=${st_x#*:}\n"
	"\t\tst_l=${st_w%%:*} st_w=${st_w#*:} sl_a=$st_base/$st_k st_id=$st_job.s${st_k%%/*}$st_suffix\n"
	"\t\tst_next\n"
	"\t\tif [ -L \"$sl_a/started\" ] || [ -L \"$sl_a/claim\" ]; then\n"
	"\t\t\tsl_id=$st_id sl_ends=$st_ends\n"
	"\t\t\tst_a=$(st_settled) || st_a=\"ok $st_id\"\n"
	"\t\telif [ -e \"$sl_a/intent\" ] || st_put; then\n"
	"\t\t\tst_q=\"$st_q$st_prefix$st_k $st_w .$st_nl\" st_a=\"ok $st_id\"\n"
	"\t\telse\n"
	"\t\t\tst_a=\"unsure${st_nl}cannot write the script to $sl_a\"\n"
	"\t\tfi\n"
	"\t\tst_ok=\"${st_ok}run $st_k$st_nl$st_a$st_nl\"\n"
	"\tdone\n"
	"\texec 6<&-\n"
	"\tif [ -n \"$st_q\" ]; then\n"
	"\t\tprintf '\\n%s' \"$st_q\" | cat >>\"$st_h/queue\" || return 75 # it looks at close(2)\n"
	"\t\tst_ring\n"
	"\tfi\n"
	"\tprintf %s \"$st_ok\"\n"
	"}\n"
	/* st_share DIRECTORY UUID/NUM/aATTEMPT/PRINT NAME ATTACH: true when it has answered; else the session is ours
	   to begin. st_alive: 1: it has ended; 2: nobody knows. */
	"st_alive() {\n"
	"\tst_h=$1/${2%%/*}/runs/${2#*/}\n"
	"\t[ \"$(readlink \"$st_h/started\")\" != void ] || return 1\n"
	"\tst_j=$(readlink \"$st_h/claim\") || return 2\n"
	"\tsl_job \"$st_j\" \"slurmray:$2\" \"$st_h\"\n"
	"\tcase $sl_jrc in known) ;; unreachable) return 2 ;; *) return 1 ;; esac\n"
	"\tcase $(sl_state) in\n"
	"\tCOMPLETED|CANCELLED|FAILED|TIMEOUT|NODE_FAIL|PREEMPTED|BOOT_FAIL|DEADLINE|OUT_OF_MEMORY) return 1 ;;\n"
	"\tesac\n"
	"}\n"
	"st_found() {\n"
	"\tst_alive \"$1\" \"${st_t%/*}\"\n"
	"\tcase $? in\n"
	"\t1) return 1 ;;\n"
	"\t2) sl_say unsure \"the session $3 is being begun by another mount ($st_x), or the scheduler does not answer\" ;;\n"
	"\t*) if [ \"$4\" = 1 ] || [ \"${st_t##*/}\" = \"${2##*/}\" ]; then sl_say \"ok $st_j\" \"shared ${st_t%/*}\"\n"
	"\t\telse sl_say refused \"the session $3 of another mount was begun with another spec (job $st_j)\"; fi ;;\n"
	"\tesac\n"
	"}\n"
	"st_share() {\n"
	"\tst_n=0\n"
	"\tfor st_x in \"$1/shared/$3\".*; do\n"
	"\t\tst_k=${st_x#\"$1/shared/$3.\"}\n"
	"\t\tcase $st_k in ''|*[!0-9]*) ;; *) [ \"$st_k\" -le \"$st_n\" ] || st_n=$st_k ;; esac\n"
	"\tdone\n"
	"\twhile :; do\n"
	"\t\tst_x=$1/shared/$3.$st_n\n"
	"\t\tif st_t=$(readlink \"$st_x\"); then\n"
	"\t\t\t[ \"$st_t\" != \"$2\" ] || return 1\n"
	"\t\t\tif st_found \"$@\"; then return 0; fi\n"
	"\t\telif [ \"$st_n\" -gt 0 ]; then\n"
	"\t\t\tsl_say unsure \"cannot make $st_x\"\n"
	"\t\t\treturn 0\n"
	"\t\tfi\n"
	"\t\tif [ \"$4\" = 1 ]; then\n"
	"\t\t\tsl_say refused \"no mount of yours has a session $3 that is shared and has not ended\"\n"
	"\t\t\treturn 0\n"
	"\t\tfi\n"
	"\t\tst_n=$((st_n + 1))\n"
	"\t\t(umask 077; mkdir -p \"$1/shared\" && ln -s \"$2\" \"$1/shared/$3.$st_n\") 2>/dev/null || :\n"
	"\tdone\n"
	"}\n"
	/* st_of BASE JOB: is the holder in $st_h another state directory's? Then the poll finds its steps by a link of
	   ours. */
	"st_of() {\n"
	"\tst_prefix='' st_suffix=''\n"
	"\tcase $st_h in */\"${1##*/}\"/runs/*) return ;; esac\n"
	"\tst_prefix=${1##*/}:\n"
	"\tst_suffix=.${st_prefix%%[-:]*}\n"
	"\t[ -L \"$1/sessions/$2\" ] || { mkdir -p \"$1/sessions\" && ln -s \"$st_h\" \"$1/sessions/$2\"; } 2>/dev/null || :\n"
	"}\n"
	/* The empty line in front ends one that an earlier writer could not finish. A reader of its own keeps the bell
	   from blocking where nobody listens (fifo(7)). */
	"st_tell() {\n"
	"\tprintf '\\n%s .\\n' \"$2\" >>\"$st_h/$1\" || return 1\n"
	"\tst_ring\n"
	"}\n"
	"st_ring() { [ ! -p \"$st_h/bell\" ] || { echo >&5; } 5<>\"$st_h/bell\" || :; }\n"
	/* Rows as squeue would have them, of the sessions whose job is running; and what their runners say, each
	   behind "@JOB|TOKEN|NOW|" in one line. */
	"st_runner() {\n"
	"\tst_r=$(cd -P \"$st_x\" && pwd) st_v=''\n"
	"\tst_u=${st_r%/runs/*}\n"
	"\twhile read -r st_k; do st_v=\"$st_v$st_k;\"; done <\"$st_x/session\"\n"
	"\techo \"@$st_j|slurmray:${st_u##*/}/${st_r##*/runs/}|$(date +%s)|$st_v\"\n"
	"}\n"
	"st_rows() {\n"
	"\tst_base=${SR_DIR%/ends}\n"
	"\tfor st_x in \"$st_base\"/sessions/*; do\n"
	"\t\tst_j=${st_x##*/}\n"
	"\t\tcase \"|$(sl_say \"$1\" | tr '\\n' '|')\" in *\"|$st_j|RUNNING|\"*) ;; *)\n"
	"\t\t\t[ -d \"$st_x/\" ] || rm -f \"$st_x\" # another's, that is no more\n"
	"\t\t\tcontinue ;;\n"
	"\t\tesac\n"
	"\t\tst_h=$(readlink \"$st_x\")\n"
	"\t\tst_of \"$st_base\" \"$st_j\"\n"
	"\t\twhile read -r st_k st_s st_t; do\n"
	"\t\t\tcase $st_k in\n"
	"\t\t\t*:*) [ -n \"$st_prefix\" ] && [ \"${st_k%%:*}:\" = \"$st_prefix\" ] || continue ;;\n"
	"\t\t\t*) [ -z \"$st_prefix\" ] || continue ;;\n"
	"\t\t\tesac\n"
	"\t\t\tst_k=${st_k#*:}\n"
	"\t\t\tst_n=''\n"
	"\t\t\t[ \"$st_s\" = RUNNING ] || st_n=Session\n"
	"\t\t\techo \"$st_j.s${st_k%/*}$st_suffix|$st_s|$st_n||$st_t 0 0|slurmray:${st_base##*/}/$st_k|\"\n"
	"\t\tdone <\"$st_x/steps\"\n"
	"\t\tst_runner\n"
	"\tdone 2>/dev/null\n"
	"\treturn 0\n"
	"}\n"
	"st_queue() {\n"
	"\tset -- \"${SR_DIR%/ends}\"/sessions/*\n"
	"\tif [ ! -L \"$1\" ]; then\n"
	"\t\tsl_queue\n"
	"\t\treturn\n"
	"\tfi\n"
	"\tsl_q=$(sl_queue) || return\n"
	"\tsl_say \"$sl_q\"\n"
	"\tst_rows \"$sl_q\"\n"
	"}\n"
	/* st_holder HOLDER TOKEN ID: sl_jrc and sl_s of the session's job; true while steps may run in it. */
	"st_holder() {\n"
	"\tst_h=$1\n"
	"\tsl_job \"$3\" \"$2\" \"$1\"\n"
	"\tsl_s=$(sl_state)\n"
	"\tcase $sl_jrc:$sl_s in\n"
	"\tknown:COMPLETED|known:CANCELLED|known:FAILED|known:TIMEOUT|known:NODE_FAIL) return 1 ;;\n"
	"\tknown:PREEMPTED|known:BOOT_FAIL|known:DEADLINE|known:OUT_OF_MEMORY) return 1 ;;\n"
	"\tknown:*) return 0 ;;\n"
	"\tesac\n"
	"\treturn 1\n"
	"}\n"
	"st_state() {\n"
	"\tcase $sl_s in RUNNING|SUSPENDED|COMPLETING) ;; *) echo 'PENDING Reason=Session'; return ;; esac\n"
	"\tcase $(grep \"^$1 \" \"$st_h/steps\") in\n"
	"\t*\\ RUNNING\\ *) echo RUNNING ;;\n"
	"\t*\\ PENDING\\ *) echo 'PENDING Reason=Session' ;;\n"
	"\t*) if [ -s \"$sl_a/gone\" ] && [ -n \"$(cat \"$sl_a/gone\")\" ]; then echo NODE_FAIL\n"
	"\t\telif [ -e \"$sl_a/gone\" ] && { [ -e \"$sl_a/cancelled\" ] || [ -e \"$sl_a/stopped\" ]; }; then echo CANCELLED\n"
	"\t\telif [ -e \"$sl_a/gone\" ]; then echo FAILED\n"
	"\t\telif [ -L \"$sl_a/started\" ]; then echo RUNNING\n"
	"\t\telse echo 'PENDING Reason=Session'; fi ;;\n"
	"\tesac\n"
	"}\n"
	/* st_verify ATTEMPT RECORD KEY HOLDER HOLDERTOKEN HOLDERID LINE. A step that its session does not know is
	   queued again: its line was lost, or the disk was full when it was to start. */
	"st_verify() {\n"
	"\tsl_a=$1 sl_e=$2 st_k=$3 sl_rec=''\n"
	"\techo 'witness 1'\n"
	"\tif st_holder \"$4\" \"$5\" \"$6\"; then st_x=$(st_state \"$st_k\" 2>/dev/null); else st_x=''; fi\n"
	"\tif [ \"$sl_jrc\" = unreachable ]; then\n"
	"\t\techo 'queue-rc 1'\n"
	"\t\tsl_tag queue-error \"$sl_c\"\n"
	"\telse\n"
	"\t\techo 'queue-rc 0'\n"
	"\tfi\n"
	"\tcase $sl_s:$st_x in RUNNING:PENDING*)\n"
	"\t\t[ -L \"$sl_a/started\" ] || [ ! -s \"$sl_a/script\" ] || [ ! -e \"$4/session\" ] || grep -q \"^$3 \" \"$4/steps\" ||\n"
	"\t\t\tst_tell queue \"$3 $7\" ;;\n"
	"\tesac 2>/dev/null\n"
	"\tsl_files_seen 2>/dev/null\n"
	"\tif [ -n \"$sl_rec\" ] || [ \"$(readlink \"$sl_a/started\")\" = void ]; then\n"
	"\t\tst_x=COMPLETED\n"
	"\telif [ \"$sl_jrc\" != unreachable ] && [ -z \"$st_x\" ]; then\n"
	"\t\tsl_link void \"$sl_a/started\"\n"
	"\t\t[ -n \"$sl_r\" ] || return # a full disk: it is asked again\n"
	"\t\techo \"started $sl_r\"\n"
	"\t\tcase $sl_r:$sl_s in\n"
	"\t\tvoid:*) st_x=COMPLETED ;;\n"
	"\t\t*:CANCELLED|*:TIMEOUT|*:NODE_FAIL|*:PREEMPTED|*:OUT_OF_MEMORY) st_x=\"$sl_s Reason=Session\" ;;\n"
	"\t\t*) st_x='FAILED Reason=SessionEnded' ;;\n"
	"\t\tesac\n"
	"\tfi\n"
	"\t[ -z \"$st_x\" ] || echo \"job    JobState=$st_x\"\n"
	"\techo end\n"
	"}\n"
	/* st_verb VERB ATTEMPT KEY HOLDER HOLDERTOKEN HOLDERID ID ARG */
	"st_verb() {\n"
	"\tsl_a=$2 sl_id=$7\n"
	"\tif [ \"$1\" = cancel ]; then\n"
	"\t\tumask 077\n"
	"\t\tmkdir -p \"$sl_a\" || { sl_say failed \"cannot make $sl_a\"; return; }\n"
	"\t\t: >\"$sl_a/cancelled\"\n"
	"\t\tsl_link void \"$sl_a/started\"\n"
	"\t\t[ -n \"$sl_r\" ] || { sl_say failed \"cannot write in $sl_a\"; return; }\n"
	"\t\tif [ \"$sl_r\" = void ]; then\n"
	"\t\t\tst_h=$4\n"
	"\t\t\tst_tell orders \"cancel $3 0\" 2>/dev/null\n"
	"\t\t\tsl_say ok 'cancelled before it started'\n"
	"\t\t\treturn\n"
	"\t\tfi\n"
	"\tfi\n"
	"\tif ! st_holder \"$4\" \"$5\" \"$6\"; then\n"
	"\t\tcase $sl_jrc in\n"
	"\t\tunreachable) sl_say unreachable \"$sl_c\" ;;\n"
	"\t\t*) sl_say gone 'the session has ended' ;;\n"
	"\t\tesac\n"
	"\telif [ \"$1\" = signal ] && [ ! -L \"$sl_a/started\" ]; then\n"
	"\t\tsl_say busy 'the run has not started: there is nothing to signal'\n"
	"\telif st_tell orders \"$1 $3 $8\"; then\n"
	"\t\techo ok\n"
	"\telse\n"
	"\t\tsl_say failed \"cannot write to $st_h/orders\"\n"
	"\tfi\n"
	"}\n";

/* As the scheduler's job that it is. */
static struct sched_run holder_of(const struct sched_run *r)
{
	const struct job_holder *h = &r->job->holder;

	return (struct sched_run){ .num = h->num, .attempt = h->attempt, .uuid = h->uuid ? h->uuid : r->uuid };
}

/* What of a shared session must be the same wherever it is asked for. */
static uint64_t print_of(const struct job *job)
{
	cleanup_strbuf struct strbuf all = STRBUF_INIT;

	for (size_t i = 0; job->sbatch && job->sbatch[i]; i++)
		strbuf_add(&all, job->sbatch[i], strlen(job->sbatch[i]) + 1);
	strbuf_addf(&all, "%lld %d %d %d %d", (long long)job->idle_s, job->max_steps, job->lease_scope, job->ray.on,
		    job->spark.on);
	return hash_bytes(all.buf, all.len);
}

void slurm_share(const struct sched_run *r, struct strbuf *code)
{
	strbuf_addstr(code, "st_share ");
	quote_sh_path(code, r->directory);
	strbuf_addf(code, " %s/%u/a%u/%llx ", r->uuid, r->num, r->attempt, (unsigned long long)print_of(r->job));
	slurm_arg(code, r->job->name);
	strbuf_addf(code, "%d", r->job->share == SHARE_ATTACH);
}

static void add_holder_dir(struct strbuf *code, const struct sched_run *r)
{
	const struct sched_run as = holder_of(r);

	slurm_attempt_dir(code, r->directory, &as);
}

/* The step's name for the runner. */
static void add_name(struct strbuf *code, const struct sched_run *r)
{
	if (r->job->holder.uuid)
		strbuf_addf(code, "%s:", r->uuid);
	strbuf_addf(code, "%u/a%u ", r->num, r->attempt);
}

/* Directory, token and job id of the session's job. */
static void add_holder(struct strbuf *code, const struct sched_run *r)
{
	const struct sched_run as = holder_of(r);
	cleanup_strbuf struct strbuf token = STRBUF_INIT;

	slurm_token(&token, &as);
	add_holder_dir(code, r);
	slurm_arg(code, token.buf);
	slurm_arg(code, r->job->holder.job_id);
}

static void add_id(struct strbuf *code, const struct sched_run *r)
{
	strbuf_addf(code, "%s.s%u", r->job->holder.job_id, r->num);
	if (r->job->holder.uuid)
		strbuf_addf(code, ".%.*s", (int)strcspn(r->uuid, "-"), r->uuid);
	strbuf_addch(code, ' ');
}

void slurm_step_submit(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code)
{
	const struct job *job = r->job;
	cleanup_strbuf struct strbuf ends = STRBUF_INIT, token = STRBUF_INIT;

	strbuf_addf(&ends, "%s/%s/ends", r->directory, r->uuid);
	slurm_token(&token, r);
	strbuf_addstr(code, "st_submit ");
	slurm_attempt_dir(code, r->directory, r);
	quote_sh_path(code, ends.buf);
	strbuf_addch(code, ' ');
	slurm_arg(code, token.buf);
	strbuf_addf(code, "%zu %zu ", script_len, files_len);
	slurm_work(code, r);
	add_holder_dir(code, r);
	add_id(code, r);
	strbuf_addch(code, '\'');
	add_name(code, r);
	job_step_line(job, code);
	strbuf_addstr(code, "'\n");
}

bool slurm_step_alone(const struct job *job)
{
	return !job->holder.num || (job->scratch && strcmp(job->scratch, job->directory) != 0);
}

void slurm_step_submit_many(const struct sched_run *runs, const size_t *lens, size_t n, struct strbuf *code)
{
	cleanup_strbuf struct strbuf base = STRBUF_INIT, ends = STRBUF_INIT;
	const struct job_holder *h = &runs->job->holder;

	strbuf_addf(&base, "%s/%s", runs->directory, runs->uuid);
	strbuf_addf(&ends, "%s/ends", base.buf);
	strbuf_addstr(code, "st_many ");
	add_holder_dir(code, runs);
	quote_sh_path(code, ends.buf);
	strbuf_addch(code, ' ');
	quote_sh_path(code, base.buf);
	strbuf_addch(code, ' ');
	slurm_arg(code, h->job_id);
	for (size_t i = 0; i < n; i++) {
		strbuf_addf(code, " '%u/a%u:%zu:", runs[i].num, runs[i].attempt, lens[i]);
		job_step_line(runs[i].job, code);
		strbuf_addch(code, '\'');
	}
	strbuf_addch(code, '\n');
}

size_t slurm_step_answer(const char *out, const struct sched_run *r, const char **answer)
{
	cleanup_strbuf struct strbuf head = STRBUF_INIT;
	const char *p, *end;

	strbuf_addf(&head, "run %u/a%u\n", r->num, r->attempt);
	for (p = out; p && strncmp(p, head.buf, head.len) != 0;) {
		p = strchr(p, '\n');
		if (p)
			p++;
	}
	*answer = p ? p + head.len : "";
	end = strstr(*answer, "\nrun ");
	if (!end && **answer && (*answer)[strlen(*answer) - 1] != '\n') /* cut: an id may be, too */
		*answer = "";
	return end ? (size_t)(end - *answer) : strlen(*answer);
}

void slurm_step_verify(const struct sched_run *r, struct strbuf *code)
{
	cleanup_strbuf struct strbuf record = STRBUF_INIT;

	strbuf_addf(&record, "%s/%s/ends/%u.a%u", r->directory, r->uuid, r->num, r->attempt);
	strbuf_addstr(code, "st_verify ");
	slurm_attempt_dir(code, r->directory, r);
	quote_sh_path(code, record.buf);
	strbuf_addch(code, ' ');
	add_name(code, r);
	add_holder(code, r);
	strbuf_addstr(code, "'");
	job_step_line(r->job, code);
	strbuf_addstr(code, "'\n");
}

int slurm_step_verb(const struct sched_run *r, const char *verb, const char *word, struct strbuf *code, struct err *e)
{
	if (strcmp(verb, "cancel") != 0 && strcmp(verb, "signal") != 0)
		return err_set(e, -EINVAL, "%s: a run in a session cannot do that", verb);
	strbuf_addf(code, "st_verb %s ", verb);
	slurm_attempt_dir(code, r->directory, r);
	add_name(code, r);
	add_holder(code, r);
	add_id(code, r);
	if (strcmp(verb, "cancel") == 0)
		strbuf_addf(code, "%d\n", r->job->grace_said ? r->job->grace_s : 30);
	else
		strbuf_addf(code, "%s\n", word);
	return 0;
}
