/*
 * Submissions. They wait in `submit_queue` in order and at most IN_FLIGHT are on their way. Files of a draft travel
 * with the script when they are small, else they are uploaded first and unpacked by the request that submits.
 *
 * Invariants: what is sent is idempotent (sched.h), so a lost answer means "send it again"; `maybe_sent` is set before
 * anything that could create a job leaves, and from then on a cancellation has to win `started` (facts: the claim
 * procedure) before the run may be called cancelled. Files are never unpacked once `intent` is there: the job may be
 * running on them.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/base/quote.h"
#include "launchers/launcher.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define IN_FLIGHT 8
#define INLINE_MAX ((size_t)512 * 1024)
#define SFTP_PIECE 32768
#define SFTP_OPEN_PIECES 64
#define SHELL_PIECE ((size_t)256 * 1024)
#define SHELL_OPEN_PIECES 4
#define RC_UNPACKED 46
#define RC_NO_INPUT 47
#define PART_MAX 48
#define RESUME_BACK ((uint64_t)SFTP_PIECE * SFTP_OPEN_PIECES) /* pieces at the end may be missing in between */
#define SAID_EVERY (250 * (int64_t)USEC_PER_MSEC)

struct upload {
	uint64_t serial;
	struct tar *tar;
	uint64_t size, sent;
	struct strbuf handle; /* sftp */
	bool by_shell, ended;
	char part[PART_MAX]; /* named after what is in it, so that only the same archive goes on with it */
	int64_t said_at;     /* progress */
	unsigned open;       /* pieces on their way */
};

/* Names a run in what is on its way; upload 0 for the submission itself. */
struct sub_op {
	struct cluster *c;
	uint32_t num, attempt;
	uint64_t upload;
};

void rupload_free(struct upload *u)
{
	if (!u)
		return;
	tar_close(u->tar);
	strbuf_release(&u->handle);
	free(u);
}

static struct sub_op *new_op(struct cluster *c, const struct rrun *r)
{
	struct sub_op *op = xcalloc(1, sizeof(*op));

	op->c = c;
	op->num = r->num;
	op->attempt = r->attempt;
	op->upload = r->upload ? r->upload->serial : 0;
	return op;
}

/* The run that is still waiting in this phase for this operation, or NULL. Frees the operation. */
static struct rrun *op_run(struct cluster *c, struct sub_op *op, enum rrun_phase phase)
{
	struct rrun *r = rrun_find(c, op->num, op->attempt);
	uint64_t upload = op->upload;

	free(op);
	if (!r || r->phase != phase || (r->upload ? r->upload->serial : 0) != upload)
		return NULL;
	return r;
}

/* --- the queue --- */

/* Steps that a session's start lets go at once come in no order, and a session takes them as they come. */
static void queue_in_turn(struct cluster *c, struct rrun *r)
{
	struct list *before = &c->submit_queue;

	while (r->job && r->job->holder.num && before->prev != &c->submit_queue &&
	       container_of(before->prev, struct rrun, queue)->num > r->num)
		before = before->prev;
	list_add_tail(before, &r->queue);
}

static void requeue(struct cluster *c, struct rrun *r, int64_t at)
{
	rupload_free(r->upload);
	r->upload = NULL;
	rrun_phase(c, r, RR_QUEUED);
	r->retry_at = at;
	queue_in_turn(c, r);
}

void rsubmit_enqueue(struct cluster *c, struct rrun *r)
{
	requeue(c, r, c->now);
}

static void again_later(struct cluster *c, struct rrun *r, const char *why)
{
	unsigned i = r->tries < ARRAY_SIZE(c->pace.retry) ? r->tries : (unsigned)ARRAY_SIZE(c->pace.retry) - 1;

	log_warn("cluster %s: run %u is not submitted yet: %s", c->ctx.conf->name, r->num, why);
	if (r->tries++ == 0)
		rrun_event(c, r, EV_FACTS, "sbatch", json_pack("{s:s?}", "submit_trouble", why));
	/* one that is called off meanwhile need not wait for the next try */
	requeue(c, r, r->cancel != CANCEL_NO && r->tries == 1 ? c->now : c->now + c->pace.retry[i]);
}

static void reject(struct cluster *c, struct rrun *r, const char *why)
{
	rrun_event(c, r, EV_REJECTED, "sbatch",
		   json_pack("{s:s}", "why", *why ? why : "the scheduler refused the job"));
	rrun_phase(c, r, RR_GONE);
	rreq_done_cancel(c, r->num, -ESRCH, "the scheduler has refused the job");
}

static void voided(struct cluster *c, struct rrun *r, const char *why)
{
	if (r->cancel != CANCEL_NO) {
		rjobs_end_cancelled(c, r, "cancelled before it started");
		return;
	}
	rrun_event(c, r, EV_LOST, "sbatch",
		   json_pack("{s:s}", "why", *why ? why : "this attempt was given up earlier"));
	rrun_phase(c, r, RR_GONE);
}

/* --- the submission itself --- */

/* In the answer: it was not submitted, for the session of this name is there, begun by another state directory. */
static void said_shared(struct cluster *c, struct rrun *r, const char *out)
{
	const char *line = r->job && r->job->share ? strstr(out, "\nshared ") : NULL;
	cleanup_free char *as = NULL;

	if (!line)
		return;
	line += strlen("\nshared ");
	as = xstrndup(line, strcspn(line, "\n"));
	rrun_shared(c, r, as);
	if (r->as_uuid)
		rrun_event(c, r, EV_FACTS, "cluster",
			   json_pack("{s:o}", "shared", json_sprintf("%u %s", r->attempt, as)));
}

void rsubmit_answered(struct cluster *c, struct rrun *r, int rc, const char *out, const char *err)
{
	struct strbuf why = STRBUF_INIT;
	char job_id[64] = "";

	point(POINT_REMOTE_ANSWERED);
	if (renvs_gone(c, r, rc)) {
		requeue(c, r, c->now);
		return;
	}
	if (rc == RC_NO_INPUT) { /* before anything that could create a job */
		reject(c, r, *err ? err : "an input is no longer there");
		return;
	}
	switch (c->sched->submit_result(rc, out, err, job_id, sizeof(job_id), &why)) {
	case SCHED_OK:
		said_shared(c, r, out);
		rjobs_submitted(c, r, job_id, "sbatch");
		break;
	case SCHED_REFUSED:
		reject(c, r, why.buf);
		break;
	case SCHED_UNSURE:
		again_later(c, r, why.len ? why.buf : "the scheduler did not answer");
		break;
	case SCHED_VOID:
		voided(c, r, why.buf);
		break;
	}
	strbuf_release(&why);
}

static void on_submitted(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg, RR_SENT);

	if (!r)
		return;
	rupload_free(r->upload);
	r->upload = NULL;
	r->asked = r->asking && f && f->rc == ENVS_RC_GONE;
	r->asking = false;
	if (!f || r->asked) {
		requeue(c, r, c->now);
		return;
	}
	rsubmit_answered(c, r, f->rc, f->out, f->err);
}

static void quoted_dir(const struct cluster *c, const struct rrun *r, struct strbuf *out)
{
	struct strbuf dir = STRBUF_INIT;

	remote_dir(c, r->num, r->attempt, NULL, &dir);
	quote_sh_path(out, dir.buf);
	strbuf_release(&dir);
}

/* Sets $w to the run's own working directory, made as the drivers and the wrapper make it: a link where scratch is
 * elsewhere. */
static void add_workdir(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	const struct cluster_conf *conf = c->ctx.conf;
	const char *base = r->job && r->job->scratch ? r->job->scratch : conf->scratch;
	struct strbuf scratch = STRBUF_INIT;

	if (!base || strcmp(base, conf->directory) == 0) {
		strbuf_addstr(code, "w=$d/work\nmkdir -p \"$w\" || exit 75\n");
		return;
	}
	strbuf_addf(&scratch, "%s/%s/runs/%u/a%u/work", base, c->uuid, r->num, r->attempt);
	strbuf_addstr(code, "w=");
	quote_sh_path(code, scratch.buf);
	strbuf_addstr(code, "\nmkdir -p \"$w\" || exit 75\n"
			    "[ -d \"$d/work\" ] || ln -s \"$w\" \"$d/work\" || exit 75\n");
	strbuf_release(&scratch);
}

/* In front of the driver's code: unpacks what was uploaded. 75: try again (sysexits.h, EX_TEMPFAIL). */
static void add_unpack(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	strbuf_addstr(code, "umask 077\nd=");
	quoted_dir(c, r, code);
	strbuf_addstr(code, "\nif [ ! -e \"$d/intent\" ] && [ ! -L \"$d/claim\" ] && [ ! -L \"$d/started\" ]; then\n");
	strbuf_addf(code,
		    "f=$d/%s\n[ \"$(wc -c <\"$f\")\" -eq %llu ] || {\n"
		    "echo 'the upload of the files is not whole' >&2\nexit 75\n}\n",
		    r->upload->part, (unsigned long long)r->upload->size);
	add_workdir(c, r, code);
	strbuf_addstr(code, "tar -x --no-same-owner -f \"$f\" -C \"$w\" || exit 75\nrm -f \"$f\"\n");
	if (r->job && r->job->n_secret) /* for the job alone, and not for whoever may look at its working directory */
		strbuf_addstr(code,
			      "mkdir -p \"$d/" JOB_SECRETS "\" || exit 75\n"
			      "for s in \"$w\"/" LAUNCH_SECRET "*; do\n[ ! -e \"$s\" ] || { chmod 600 \"$s\" && "
			      "mv -f \"$s\" \"$d/" JOB_SECRETS "/${s##*" LAUNCH_SECRET "}\"; } || exit 75\ndone\n");
	strbuf_addstr(code, "fi\n");
}

/*
 * Inputs that are on this cluster already are linked. A target that is gone refuses the submission, unless an earlier
 * try of it was begun, which may be a job.
 */
static void add_links(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	bool any = false;

	for (size_t i = 0; r->job && i < r->job->n_inputs; i++) {
		const struct job_input *in = &r->job->inputs[i];

		if (!in->link)
			continue;
		if (!any) {
			strbuf_addstr(code, "umask 077\nd=");
			quoted_dir(c, r, code);
			strbuf_addstr(
				code,
				"\nif [ ! -e \"$d/intent\" ] && [ ! -L \"$d/claim\" ] && [ ! -L \"$d/started\" ]; "
				"then\nmkdir -p \"$d\" || exit 75\n");
			add_workdir(c, r, code);
		}
		any = true;
		strbuf_addstr(code, "t=");
		quote_sh_path(code, in->link);
		strbuf_addstr(code, "\nn=");
		quote_sh(code, in->name);
		strbuf_addf(code, "\nif [ ! -r \"$t\" ]; then\nprintf '%%s\\n' ");
		strbuf_addstr(code, "\"inputs.$n: \"");
		quote_sh(code, in->source);
		strbuf_addf(code, "' is no longer there' >&2\nexit %d\nfi\n", RC_NO_INPUT);
		strbuf_addstr(code, "[ -L \"$w/$n\" ] || ln -s \"$t\" \"$w/$n\" || exit 75\n");
	}
	if (any)
		strbuf_addstr(code, "fi\n");
}

/* Large files that are on the cluster by their content. */
static void add_copies(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	if (!renvs_copies(r))
		return;
	strbuf_addstr(code, "umask 077\nd=");
	quoted_dir(c, r, code);
	strbuf_addstr(code, "\nif [ ! -e \"$d/intent\" ] && [ ! -L \"$d/claim\" ] && [ ! -L \"$d/started\" ]; then\n"
			    "mkdir -p \"$d\" || exit 75\n");
	add_workdir(c, r, code);
	renvs_copy(c, r, code);
	strbuf_addstr(code, "fi\n");
}

/* `tar` bytes may follow the script in the payload. */
static void send_submission(struct cluster *c, struct rrun *r, const struct strbuf *tar)
{
	struct strbuf code = STRBUF_INIT, payload = STRBUF_INIT;
	struct sched_run s;

	rrun_sched(c, r, &s);
	strbuf_add(&payload, r->script, r->script_len);
	if (tar)
		strbuf_add(&payload, tar->buf, tar->len);
	renvs_link(c, r, &code);
	add_links(c, r, &code);
	if (r->upload)
		add_unpack(c, r, &code);
	add_copies(c, r, &code);
	c->sched->submit(&s, r->script_len, tar ? tar->len : 0, &code);
	r->maybe_sent = true;
	r->asked = false;
	rrun_phase(c, r, RR_SENT);
	point(POINT_REMOTE_SENDING);
	rlink_request(c, AGENT_BESIDE, code.buf, payload.buf, payload.len, SUBMIT_LIMIT_S, on_submitted, new_op(c, r));
	strbuf_release(&code);
	strbuf_release(&payload);
}

/* --- upload --- */

static void upload_more(struct cluster *c, struct rrun *r);

/*
 * An earlier try may have been the one: then it is submitted with what is there, and nothing local is needed any more.
 * If there is nothing of it, the answer is ENVS_RC_GONE.
 */
static void send_question(struct cluster *c, struct rrun *r)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT;
	struct sched_run s;

	rupload_free(r->upload);
	r->upload = NULL;
	rrun_sched(c, r, &s);
	strbuf_addstr(&code, "d=");
	quoted_dir(c, r, &code);
	strbuf_addf(&code, "\n[ -e \"$d/intent\" ] || [ -L \"$d/claim\" ] || [ -L \"$d/started\" ] || exit %d\n",
		    ENVS_RC_GONE);
	c->sched->submit(&s, r->script_len, 0, &code);
	r->asking = true;
	rrun_phase(c, r, RR_SENT);
	rlink_request(c, AGENT_BESIDE, code.buf, r->script, r->script_len, SUBMIT_LIMIT_S, on_submitted, new_op(c, r));
}

static void send_void(struct cluster *c, struct rrun *r);

/*
 * What it needs cannot be read here. Nothing was submitted unless an earlier try was: that is asked, and then taken
 * back, for a try whose answer was lost may still be under way.
 */
static void upload_broken(struct cluster *c, struct rrun *r, const struct err *e)
{
	if (!r->maybe_sent) {
		reject(c, r, e->text);
	} else if (!r->asked) {
		send_question(c, r);
	} else {
		rupload_free(r->upload);
		r->upload = NULL;
		free(r->broken);
		r->broken = xstrdup(e->text);
		send_void(c, r);
	}
}

static void piece_done(struct cluster *c, struct rrun *r, int code, const char *text)
{
	struct upload *u = r->upload;

	u->open--;
	if (code == -ECONNRESET) {
		requeue(c, r, c->now);
		return;
	}
	if (code) {
		struct strbuf why = STRBUF_INIT;

		strbuf_addf(&why, "cannot write the files: %s", *text ? text : strerror(-code));
		again_later(c, r, why.buf);
		strbuf_release(&why);
		return;
	}
	upload_more(c, r);
}

static void on_sftp_written(void *arg, const struct sftp_reply *rep)
{
	struct sub_op *op = arg;
	struct cluster *c = op->c;
	struct rrun *r = op_run(c, op, RR_PREPARING);

	if (r)
		piece_done(c, r, rep->code, rep->text);
}

static void on_shell_written(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg, RR_PREPARING);

	if (r)
		piece_done(c, r, !f ? -ECONNRESET : f->rc ? -EIO : 0, f ? f->err : "");
}

static void send_piece(struct cluster *c, struct rrun *r, const char *data, size_t len)
{
	struct upload *u = r->upload;

	if (u->by_shell) {
		struct strbuf code = STRBUF_INIT;

		strbuf_addstr(&code, "umask 077; d=");
		quoted_dir(c, r, &code);
		strbuf_addf(&code, "; cat <\"$IN\" >%s\"$d/%s\"", u->sent ? ">" : "", u->part);
		rlink_request(c, AGENT_QUICK, code.buf, data, len, 0, on_shell_written, new_op(c, r));
		strbuf_release(&code);
	} else {
		sftp_write(c->link.sftp, u->handle.buf, u->handle.len, u->sent, data, len, on_sftp_written,
			   new_op(c, r));
	}
	u->sent += len;
	u->open++;
}

/* How far it is, now and then: bytes that may not have been answered do not count. */
static void say_sent(struct cluster *c, const struct rrun *r)
{
	struct upload *u = r->upload;
	uint64_t open = (uint64_t)u->open * (u->by_shell ? SHELL_PIECE : SFTP_PIECE);
	bool last = u->sent == u->size && !u->open;
	struct crep *p;

	if (!last && u->said_at && c->now - u->said_at < SAID_EVERY)
		return;
	u->said_at = c->now;
	p = crep_new(CREP_SENT, c);
	p->run = r->num;
	p->attempt = r->attempt;
	p->bytes = u->sent > open ? u->sent - open : 0;
	p->all = u->size;
	inbox_post(c->ctx.replies, &p->m);
}

static void upload_more(struct cluster *c, struct rrun *r)
{
	struct upload *u = r->upload;
	size_t piece = u->by_shell ? SHELL_PIECE : SFTP_PIECE;
	cleanup_free char *buf = xmalloc(piece);
	struct err e = ERR_INIT;

	say_sent(c, r);
	while (!u->ended && u->open < (u->by_shell ? SHELL_OPEN_PIECES : SFTP_OPEN_PIECES)) {
		ssize_t n = tar_read(u->tar, buf, piece, &e);

		if (n < 0) {
			upload_broken(c, r, &e);
			return;
		}
		u->ended = n == 0;
		if (n > 0)
			send_piece(c, r, buf, (size_t)n);
	}
	if (!u->ended || u->open)
		return;
	if (!u->by_shell)
		sftp_close(c->link.sftp, u->handle.buf, u->handle.len);
	send_submission(c, r, NULL);
}

static void on_sftp_opened(void *arg, const struct sftp_reply *rep)
{
	struct sub_op *op = arg;
	struct cluster *c = op->c;
	struct rrun *r = op_run(c, op, RR_PREPARING);

	if (!r)
		return;
	if (rep->code) {
		r->upload->open = 1;
		piece_done(c, r, rep->code, rep->text);
		return;
	}
	strbuf_add(&r->upload->handle, rep->data, rep->len);
	upload_more(c, r);
}

/*
 * An earlier connection was cut in the middle: what came before is not sent again. Servers do what they are asked in
 * turn, and what was not yet answered is sent again in any case.
 */
static void go_on(struct cluster *c, struct rrun *r, const struct agent_frame *f)
{
	struct upload *u = r->upload;
	struct err e = ERR_INIT;
	unsigned long long have = 0;
	char *end;

	if (f->out_len && *f->out >= '0' && *f->out <= '9') {
		have = strtoull(f->out, &end, 10);
		if (end == f->out || have > u->size)
			have = 0;
	}
	if (have <= RESUME_BACK)
		return;
	if (tar_skip(u->tar, have - RESUME_BACK, &e) < 0)
		upload_broken(c, r, &e);
	else
		u->sent = have - RESUME_BACK;
}

/* The attempt's directory is there. */
static void on_made_dir(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg, RR_PREPARING);
	struct strbuf path = STRBUF_INIT;

	if (!r)
		return;
	if (!f) {
		requeue(c, r, c->now);
	} else if (f->rc == RC_UNPACKED) {
		send_submission(c, r, NULL);
	} else if (f->rc != 0) {
		again_later(c, r, *f->err ? f->err : "cannot make the run's remote directory");
	} else if (!rlink_files_ready(c)) {
		requeue(c, r, c->now);
	} else if (c->link.sftp_state == SFTP_DENIED) {
		r->upload->by_shell = true;
		upload_more(c, r);
	} else {
		go_on(c, r, f);
		if (r->phase != RR_PREPARING)
			return;
		remote_path(c, r->num, r->attempt, r->upload->part, &path);
		sftp_open_write(c->link.sftp, path.buf, 0600, r->upload->sent == 0, on_sftp_opened, new_op(c, r));
	}
	strbuf_release(&path);
}

static void start_upload(struct cluster *c, struct rrun *r, struct tar *tar)
{
	struct strbuf code = STRBUF_INIT;

	r->upload = xcalloc(1, sizeof(*r->upload));
	r->upload->serial = ++c->next_serial;
	r->upload->tar = tar;
	r->upload->size = tar_size(tar);
	strbuf_init(&r->upload->handle);
	(void)snprintf(r->upload->part, PART_MAX, "files.%016llx.tar.part", (unsigned long long)tar_print(tar));
	rrun_phase(c, r, RR_PREPARING);
	strbuf_addstr(&code, "umask 077; d=");
	quoted_dir(c, r, &code);
	strbuf_addf(&code,
		    "\nmkdir -p \"$d\" || exit 1\n[ ! -e \"$d/intent\" ] && [ ! -L \"$d/claim\" ] || exit %d\n"
		    "for f in \"$d\"/files.*.part; do [ \"$f\" = \"$d/%s\" ] || rm -f \"$f\"; done\n"
		    "[ ! -f \"$d/%s\" ] || wc -c <\"$d/%s\"",
		    RC_UNPACKED, r->upload->part, r->upload->part, r->upload->part);
	rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_made_dir, new_op(c, r));
	strbuf_release(&code);
}

static void send_inline(struct cluster *c, struct rrun *r, struct tar *tar)
{
	cleanup_free char *buf = xmalloc(SHELL_PIECE);
	struct strbuf all = STRBUF_INIT;
	struct err e = ERR_INIT;
	ssize_t n;

	while ((n = tar_read(tar, buf, SHELL_PIECE, &e)) > 0)
		strbuf_add(&all, buf, (size_t)n);
	tar_close(tar);
	if (n < 0)
		upload_broken(c, r, &e);
	else
		send_submission(c, r, &all);
	strbuf_release(&all);
}

/* Links are made before files are unpacked; what comes with the submission is unpacked only where there is nothing yet.
 */
static bool has_links(const struct rrun *r)
{
	if (renvs_copies(r))
		return true;
	for (size_t i = 0; i < r->job->n_inputs; i++)
		if (r->job->inputs[i].link)
			return true;
	return false;
}

static void send_run(struct cluster *c, struct rrun *r)
{
	struct err e = ERR_INIT;
	struct tar *tar = NULL;
	int rc = rinputs_open(r, &tar, &e);

	if (rc == 0 && tar_count(tar) == 0) {
		tar_close(tar);
		rc = -ENOENT;
	}
	if (rc == -ENOENT)
		send_submission(c, r, NULL);
	else if (rc < 0)
		upload_broken(c, r, &e);
	else if (tar_size(tar) > INLINE_MAX || has_links(r))
		start_upload(c, r, tar);
	else
		send_inline(c, r, tar);
}

/* --- taking back --- */

static void on_voided(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg, RR_VOIDING);
	cleanup_free char *word = NULL;

	if (!r)
		return;
	if (!f) {
		requeue(c, r, c->now);
		return;
	}
	word = xstrndup(f->out, strcspn(f->out, "\n"));
	if (f->rc == 0 && strncmp(word, "claimed ", 8) == 0 && word[8])
		rjobs_submitted(c, r, word + 8, "claim");
	else if (f->rc == 0 && strcmp(word, "void") == 0 && r->cancel == CANCEL_NO && r->broken)
		reject(c, r, r->broken);
	else if (f->rc == 0 && strcmp(word, "void") == 0)
		rjobs_end_cancelled(c, r, "cancelled before it started");
	else
		again_later(c, r, *f->err ? f->err : "it could not be taken back yet");
}

/* Wins `started` for nobody, or finds out which job it is. */
static void send_void(struct cluster *c, struct rrun *r)
{
	struct strbuf code = STRBUF_INIT;

	strbuf_addstr(&code, "umask 077; d=");
	quoted_dir(c, r, &code);
	strbuf_addstr(&code, "\nmkdir -p \"$d\" || exit 75\n"
			     "if s=$(readlink \"$d/claim\"); then echo \"claimed $s\"; exit 0; fi\n"
			     "ln -s void \"$d/started\" 2>/dev/null\n"
			     "s=$(readlink \"$d/started\") || exit 75\n"
			     "case $s in void) echo void ;; *) echo \"claimed $s\" ;; esac\n");
	rrun_phase(c, r, RR_VOIDING);
	rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_voided, new_op(c, r));
	strbuf_release(&code);
}

void rsubmit_cancel(struct cluster *c, struct rrun *r)
{
	if (r->phase != RR_QUEUED && r->phase != RR_PREPARING)
		return; /* the answer that is on its way decides */
	if (r->maybe_sent) {
		if (r->phase == RR_PREPARING)
			requeue(c, r, c->now);
		r->retry_at = c->now;
		return;
	}
	list_del(&r->queue);
	rjobs_end_cancelled(c, r, "cancelled before it was submitted");
}

/* --- the pump --- */

bool rsubmit_has_files(const struct rrun *r)
{
	const struct job *job = r->job;

	return r->files_dir || (job && (r->context || job->n_inputs || job->n_secret || (job->files && *job->files) ||
					job->form == JOB_PAYLOAD));
}

static bool may_go(const struct cluster *c, const struct rrun *r)
{
	/* an upload needs to know by which way */
	if (r->env_waits && r->cancel == CANCEL_NO)
		return false;
	return r->retry_at <= c->now && (!rsubmit_has_files(r) || r->cancel != CANCEL_NO || rlink_files_ready(c));
}

/* What it shares may be gone here and there, and the run be submitted long since. */
static bool to_ask(struct rrun *r)
{
	return r->maybe_sent && !r->asked && renvs_any(r);
}

/* True: nothing is to be sent now. */
static bool waits_for_env(struct cluster *c, struct rrun *r)
{
	struct err e = ERR_INIT;
	int rc = renvs_wait(c, r, &e);

	if (rc < 0) {
		list_del(&r->queue);
		upload_broken(c, r, &e);
	}
	return rc != 0;
}

/* Nothing more may be sent that has a request of its own. */
static bool is_full(const struct cluster *c)
{
	return c->submitting - c->steps_busy >= IN_FLIGHT;
}

static void send_one(struct cluster *c, struct rrun *r)
{
	list_del(&r->queue);
	if (r->cancel != CANCEL_NO)
		send_void(c, r);
	else if (to_ask(r))
		send_question(c, r);
	else
		send_run(c, r);
}

void rsubmit_step(struct cluster *c)
{
	struct steps *steps = NULL;
	struct list *n, *tmp;

	if (!rlink_up(c))
		return;
	list_for_each_safe (n, tmp, &c->submit_queue) {
		struct rrun *r = container_of(n, struct rrun, queue);

		if (!may_go(c, r))
			continue;
		if (rsteps_is_one(c, r)) {
			if (rsteps_add(c, &steps, r))
				list_del(&r->queue);
			continue;
		}
		if (is_full(c))
			continue;
		if (r->cancel == CANCEL_NO && !to_ask(r) && waits_for_env(c, r))
			continue;
		send_one(c, r);
	}
	rsteps_send(c, steps);
}

int64_t rsubmit_deadline(const struct cluster *c)
{
	int64_t at = INT64_MAX;

	if (!rlink_up(c))
		return at;
	for (const struct list *n = c->submit_queue.next; n != &c->submit_queue; n = n->next) {
		const struct rrun *r = container_of(n, const struct rrun, queue);

		if (rsteps_is_one(c, r) ? c->steps_busy != 0 : is_full(c))
			continue;
		if ((r->retry_at > c->now && !r->env_waits) || may_go(c, r))
			at = earlier(at, r->retry_at);
	}
	return at;
}
