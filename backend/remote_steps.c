/*
 * Submissions of a session's steps that have nothing but a script: all that wait go in one request, for each of its own
 * costs more than the step itself.
 *
 * Invariants: one such request is on its way at a time, and what comes meanwhile goes with the next one, so that a
 * single step waits for nobody; its code only writes files (sched.h, submit_many), so it is run in the loop of the
 * remote shell, or beside it when they are many; each run in it is submitted, answered and tried again by itself, as if
 * it had been sent alone.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <stdio.h>
#include <string.h>

#define BATCH 64
#define QUICK 8 /* more of them may take their time on a slow file system, where everything else would wait */
#define BATCH_BYTES ((size_t)512 * 1024)

struct steps {
	uint32_t holder;
	char job_id[64]; /* its job's: a holder of another state directory may have the same number */
	size_t n;
	struct strbuf payload;
	struct {
		uint32_t num, attempt;
	} run[BATCH];
	size_t len[BATCH];
};

/* What is brought to the cluster before the run (envs_needs.c). */
static bool has_environment(const struct environment *env)
{
	return env->kind == ENV_ARCHIVE || env->kind == ENV_BUILD || (env->wheels && *env->wheels) || env->pipes;
}

bool rsteps_is_one(const struct cluster *c, const struct rrun *r)
{
	return c->sched->submit_many && r->job && r->cancel == CANCEL_NO && !r->upload && !rsubmit_has_files(r) &&
	       !has_environment(&r->job->environment) && !c->sched->alone(r->job);
}

bool rsteps_add(struct cluster *c, struct steps **all, struct rrun *r)
{
	struct steps *s = *all;

	if (c->steps_busy ||
	    (s && (s->n == BATCH || s->holder != r->job->holder.num || strcmp(s->job_id, r->job->holder.job_id) != 0 ||
		   s->payload.len + r->script_len > BATCH_BYTES)))
		return false;
	if (!s) {
		s = *all = xcalloc(1, sizeof(*s));
		strbuf_init(&s->payload);
		s->holder = r->job->holder.num;
		(void)snprintf(s->job_id, sizeof(s->job_id), "%s", r->job->holder.job_id);
	}
	s->run[s->n].num = r->num;
	s->run[s->n].attempt = r->attempt;
	s->len[s->n++] = r->script_len;
	strbuf_add(&s->payload, r->script, r->script_len);
	return true;
}

static void on_answer(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct steps *s = arg;

	c->steps_busy = 0;
	for (size_t i = 0; i < s->n; i++) {
		struct rrun *r = rrun_find(c, s->run[i].num, s->run[i].attempt);
		cleanup_free char *text = NULL;
		const char *answer = "";
		struct sched_run as;
		size_t len;

		if (!r || r->phase != RR_SENT)
			continue;
		if (!f) {
			rsubmit_enqueue(c, r);
			continue;
		}
		rrun_sched(c, r, &as);
		len = c->sched->submit_answer(f->out, &as, &answer);
		text = xstrndup(answer, len);
		rsubmit_answered(c, r, f->rc, text, f->err);
	}
	strbuf_release(&s->payload);
	free(s);
}

void rsteps_send(struct cluster *c, struct steps *s)
{
	struct strbuf code = STRBUF_INIT;
	struct sched_run as[BATCH];

	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++) {
		struct rrun *r = rrun_find(c, s->run[i].num, s->run[i].attempt);

		rrun_sched(c, r, &as[i]);
		r->maybe_sent = true;
		r->asked = false;
		rrun_phase(c, r, RR_SENT);
	}
	c->steps_busy = (unsigned)s->n;
	point(POINT_REMOTE_SENDING);
	c->sched->submit_many(as, s->len, s->n, &code);
	rlink_request(c, s->n > QUICK ? AGENT_BESIDE : AGENT_QUICK, code.buf, s->payload.buf, s->payload.len,
		      s->n > QUICK ? SUBMIT_LIMIT_S : 0, on_answer, s);
	strbuf_release(&code);
}
