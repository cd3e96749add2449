/*
 * From a journaled run back to its job, its dependencies, and the requests that go to its cluster.
 *
 * Invariant: a job is rebuilt from the effective spec as it was accepted, and lives in the directory that its first
 * attempt was given, so that a changed configuration does not change a run.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- what a job is --- */

/* The effective spec as it was journaled, so that a changed configuration does not change a run. */
static int parse_effective(struct engine *en, const struct run *r, struct effective *eff, struct strbuf *errors)
{
	struct ecluster *ec = engine_cluster(en, r->cluster);
	bool alone = run_fact(r, "session_as") != NULL;
	const char *key;
	json_t *row, *doc;

	if (!ec) {
		strbuf_addf(errors, "cluster %s is no longer in the configuration: put its section back", r->cluster);
		return -ENOENT;
	}
	doc = r->effective ? json_loads(r->effective, 0, NULL) : NULL;
	if (!json_is_object(doc)) {
		json_decref(doc);
		strbuf_addstr(errors, "the journaled effective spec is damaged");
		return -EINVAL;
	}
	eff->cluster = ec->conf;
	eff->values = json_object();
	eff->sources = json_object();
	eff->ignored = json_object();
	json_object_foreach (doc, key, row) {
		const char *ignored = json_string_value(json_object_get(row, "ignored"));

		/* What its session had said, and says no more, is its own. */
		if (alone ? strcmp(key, "session") == 0 || (ignored && strcmp(ignored, CONFIG_SESSIONS_OWN) != 0)
			  : ignored != NULL)
			continue;
		(void)json_object_set(eff->values, key, json_object_get(row, "value"));
		(void)json_object_set(eff->sources, key, json_object_get(row, "source"));
	}
	json_decref(doc);
	return 0;
}

/* UUID/NUM/aATTEMPT when this attempt of a session is one that another state directory has begun; else NULL. */
static const char *shared_as(const struct run *r)
{
	const char *fact = run_fact(r, "shared");
	char *end;

	if (!fact || strtoul(fact, &end, 10) != r->attempt || *end != ' ')
		return NULL;
	return end + 1;
}

/* Where the session's own job is, once it has one. */
static void fill_holder(const struct engine *en, const struct run *r, struct job *job)
{
	const struct run *s = job->session ? engine_session_of(en, r) : NULL;

	if (!s || !s->job_id)
		return;
	job->holder.num = s->num;
	job->holder.attempt = s->attempt;
	job->holder.job_id = xstrdup(s->job_id);
	if (shared_as(s))
		(void)job_shared_parse(shared_as(s), &job->holder.uuid, &job->holder.num, &job->holder.attempt);
}

int engine_job(struct engine *en, struct erun *er, struct job *job, struct strbuf *errors)
{
	struct effective eff;
	int rc;

	memset(job, 0, sizeof(*job));
	memset(&eff, 0, sizeof(eff));
	rc = parse_effective(en, er->r, &eff, errors);
	if (rc < 0)
		return rc;
	rc = job_from_effective(&eff, job, errors);
	effective_release(&eff);
	if (rc < 0)
		return rc;
	engine_job_place(en, job, er->directory, er->scratch);
	fill_holder(en, er->r, job);
	job->shared_as = xstrdup(shared_as(er->r));
	job->hold = er->r->hold_wanted; /* began as the spec's */
	engine_pipes_flags(en, er->r, job);
	return 0;
}

void engine_job_place(struct engine *en, struct job *job, const char *directory, const char *scratch)
{
	if (directory)
		str_set(&job->directory, directory);
	if (!job->directory || !*job->directory) {
		free(job->directory);
		job->directory = xasprintf("%s/local", en->state_dir);
	}
	if (scratch)
		str_set(&job->scratch, scratch);
	if (!job->scratch || !*job->scratch)
		str_set(&job->scratch, job->directory);
}

int engine_render(struct engine *en, const struct run *r, uint32_t attempt, const struct job *job, struct strbuf *out,
		  struct err *e)
{
	const struct launcher *l = launcher_find(job->launcher);
	const struct launch_ctx ctx = { r->id, r->num, attempt, en->uuid };

	if (!l)
		return err_set(e, -EINVAL, "there is no launcher '%s'", job->launcher);
	return l->render(job, &ctx, out, e);
}

/* --- dependencies --- */

/* 1: satisfied, 0: not yet, -1: never (then `why` says so). */
static int dependency(struct engine *en, const char *dep, struct strbuf *why)
{
	const char *colon = strchr(dep, ':');
	const struct run *other = colon ? engine_run_by_id(en, colon + 1) : NULL;
	size_t type = colon ? (size_t)(colon - dep) : 0;
	bool ended, ok;

	if (!other) {
		strbuf_addf(why, "it depends on run %s, which is not there (any more)", colon ? colon + 1 : dep);
		return -1;
	}
	ended = !run_is_live(other);
	ok = other->status == RUN_SUCCEEDED;
	if (!ended && !(type == 5 && other->t_started)) {
		strbuf_addf(why, "waiting for run %s (%.*s), which is %s", other->id, (int)type, dep,
			    run_status_name(other->status));
		return 0;
	}
	if ((type == 7 && strncmp(dep, "afterok", 7) == 0 && !ok) || (type == 10 && ok)) {
		strbuf_addf(why, "it depends on run %s (%.*s), which ended as %s", other->id, (int)type, dep,
			    run_status_name(other->status));
		return -1;
	}
	return 1;
}

static int load_after(struct engine *en, struct erun *er, struct strbuf *errors)
{
	struct job job;

	if (er->looked)
		return 0;
	if (engine_job(en, er, &job, errors) < 0)
		return -EINVAL;
	for (char **d = er->after; d && *d; d++)
		free(*d);
	free(er->after);
	er->looked = true;
	er->after = job.after;
	er->inputs = job.inputs;
	er->n_inputs = job.n_inputs;
	job.after = NULL;
	job.inputs = NULL;
	job.n_inputs = 0;
	job_release(&job);
	return 0;
}

void engine_inputs_recall(struct engine *en, struct erun *er)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;

	if (run_is_live(er->r) && er->r->effective && strstr(er->r->effective, "/results/"))
		(void)load_after(en, er, &errors);
}

char *const *engine_after(struct engine *en, struct erun *er)
{
	struct strbuf errors = STRBUF_INIT;

	if (er->r->status == RUN_QUEUED)
		(void)load_after(en, er, &errors);
	strbuf_release(&errors);
	return er->after;
}

int engine_gate_open(struct engine *en, struct erun *er, struct strbuf *errors)
{
	struct strbuf why = STRBUF_INIT;
	int rc = 1;

	if (load_after(en, er, errors) < 0)
		return -EINVAL;
	for (char **d = er->after; *d && rc == 1; d++)
		rc = dependency(en, *d, &why);
	if (rc == 1 && run_fact(er->r, "session"))
		rc = engine_session_gate(en, er, &why);
	if (rc == 1) {
		rc = engine_inputs_open(en, er, &why);
		if (rc < 0)
			strbuf_addbuf(errors, &why);
	}
	str_set(&er->gate, rc == 1 ? NULL : why.buf);
	strbuf_release(&why);
	return rc;
}

/* --- requests --- */

struct creq *engine_creq(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket)
{
	const struct run *r = er->r;
	struct creq *rq = creq_new(type, r->num, r->attempt, ticket);
	struct launch_ctx ctx = { r->id, r->num, r->attempt, en->uuid };
	struct strbuf token = STRBUF_INIT;

	launch_token(&token, &ctx);
	rq->token = strbuf_detach(&token, NULL);
	rq->run_id = xstrdup(r->id);
	rq->job_id = xstrdup(r->job_id);
	rq->cancel_wanted = r->cancel_wanted;
	rq->out_len = r->out_len;
	rq->err_len = r->err_len;
	return rq;
}

struct creq *engine_creq_placed(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket)
{
	struct creq *rq = engine_creq(en, er, type, ticket);

	rq->job = xcalloc(1, sizeof(*rq->job));
	rq->job->merged = er->r->merged;
	rq->job->pipes_messages = engine_has_pipes(er->r);
	engine_job_place(en, rq->job, er->directory ? er->directory : run_fact(er->r, "directory"),
			 er->scratch ? er->scratch : run_fact(er->r, "scratch"));
	return rq;
}

struct creq *engine_creq_job(struct engine *en, struct erun *er, enum creq_type type, struct strbuf *why)
{
	struct strbuf text = STRBUF_INIT, files = STRBUF_INIT, context = STRBUF_INIT, secrets = STRBUF_INIT;
	struct creq *rq = NULL;
	struct err e = ERR_INIT;
	struct job job;

	if (engine_job(en, er, &job, why) < 0)
		return NULL;
	engine_inputs_fill(en, er->r, &job);
	if (engine_render(en, er->r, er->r->attempt, &job, &text, &e) == 0) {
		rq = engine_creq(en, er, type, 0);
		rq->job = xmalloc(sizeof(job));
		*rq->job = job;
		rq->script = strbuf_detach(&text, &rq->script_len);
		engine_files_dir(en, er->r->num, &files);
		rq->files_dir = strbuf_detach(&files, NULL);
		engine_context_path(en, er->r->num, &context);
		if (job.pipes_context)
			rq->context = strbuf_detach(&context, NULL);
		strbuf_release(&context);
		if (job.n_secret)
			engine_secrets_dir(en, er->r->num, &secrets);
		rq->secrets_dir = job.n_secret ? strbuf_detach(&secrets, NULL) : NULL;
	} else {
		strbuf_addstr(why, e.text);
		job_release(&job);
	}
	strbuf_release(&text);
	return rq;
}

void engine_send(struct engine *en, struct erun *er, struct creq *rq)
{
	struct ecluster *ec = engine_cluster(en, er->r->cluster);
	uint64_t ticket = rq->ticket;
	char text[300];

	if (ec) {
		ec->ops->post(ec->c, rq);
		return;
	}
	msg_release(&rq->m);
	(void)snprintf(text, sizeof(text), "cluster %s is no longer in the configuration: put its section back",
		       er->r->cluster ? er->r->cluster : "");
	if (ticket)
		engine_replied(en, ticket, -EHOSTUNREACH, text, "", 0);
}
