/*
 * Submission to Ray. The claim is the submission id: the head takes each id once, for as long as its session lives
 * (a key of its store that is not overwritten). So a submission whose fate is not known is asked for by its id, and
 * sent again under the same id; it runs once. What a head forgot when it was restarted is never sent again, because the
 * first may have started: session_name says that it is another.
 */
#include "backend/ray.h"

#include "backend/base/mem.h"
#include "backend/ray_package.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <string.h>

#define RETRY_MIN ((int64_t)200 * USEC_PER_MSEC)
#define RETRY_MAX (10LL * USEC_PER_SEC)
#define REFUSED_TRIES 20 /* answers that are no refusal and no success, and each time the job is not there */

enum { ASK_JOB, ASK_PACKAGE, PUT_PACKAGE, POST_JOB };

static void on_answer(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a);

static void later(struct cluster *c, struct ray_run *r)
{
	int64_t wait = RETRY_MIN << (r->tries < 6 ? r->tries : 6);

	r->tries++;
	r->act_at = c->now + (wait > RETRY_MAX ? RETRY_MAX : wait);
}

/* --- what is sent --- */

static int add_named(struct ray_package *p, const char *path, const char *name, struct err *e)
{
	cleanup_free char *copy = xstrdup(path);
	size_t len = strlen(copy);

	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	if (!name)
		name = strrchr(copy, '/') ? strrchr(copy, '/') + 1 : copy;
	return ray_package_tree(p, copy, name, NULL, e);
}

/* Into the working directory, in the order in which later ones win. */
static int add_files(struct ray_package *p, const struct ray_run *r, const struct ray_spec *spec, struct err *e)
{
	const struct job *job = r->job;
	int rc = 0;

	if (spec->working_dir)
		rc = ray_package_tree(p, spec->working_dir, "", json_object_get(spec->runtime_env, "excludes"), e);
	for (char **f = job->files; rc == 0 && f && *f; f++)
		rc = add_named(p, *f, NULL, e);
	for (size_t i = 0; rc == 0 && i < job->n_inputs; i++) {
		const struct job_input *in = &job->inputs[i];

		rc = in->missing ? err_set(e, -EINVAL, "%s", in->missing)
				 : add_named(p, job_input_local(in), in->name, e);
	}
	if (rc == 0 && r->files_dir && access(r->files_dir, F_OK) == 0)
		rc = ray_package_tree(p, r->files_dir, "", NULL, e);
	if (rc == 0 && job->form == JOB_PAYLOAD)
		rc = add_named(p, job->command, LAUNCH_PAYLOAD, e);
	return rc;
}

static int prepare(struct ray_run *r, const struct ray_spec *spec, struct err *e)
{
	cleanup_strbuf struct strbuf context = STRBUF_INIT, entry = STRBUF_INIT;
	const struct ray_ids ids = { r->token, r->sid, NULL, r->run, r->attempt };
	bool own_script, own_context = false;
	struct ray_package p;
	int rc;

	ray_package_init(&p, RAY_PACKAGE_MAX);
	rc = add_files(&p, r, spec, e);
	own_script = strlen(r->script) > RAY_INLINE_MAX / 2;
	if (rc == 0 && own_script)
		rc = ray_package_add(&p, RAY_SCRIPT, 0600, r->script, strlen(r->script), e);
	if (rc == 0 && r->context && strbuf_read_file(&context, r->context, RAY_PACKAGE_MAX) < 0)
		rc = err_set(e, -EIO, "the context of the run cannot be read");
	if (r->context)
		own_context = context.len > RAY_INLINE_MAX / 4;
	if (rc == 0 && own_context)
		rc = ray_package_add(&p, LAUNCH_CONTEXT, 0600, context.buf, context.len, e);
	if (rc == 0) {
		char *uuid = xstrndup(r->token + 9, strcspn(r->token + 9, "/")); /* slurmray:UUID/ */
		struct ray_ids all = ids;

		all.uuid = uuid;
		if (p.n)
			r->package = ray_package_end(&p);
		ray_entrypoint(&entry, &all, r->job, own_script ? NULL : r->script,
			       r->context && !own_context ? context.buf : NULL,
			       p.n || spec->working_uri || json_object_get(spec->runtime_env, "working_dir"));
		r->entrypoint = strbuf_detach(&entry, NULL);
		strbuf_release(&r->zip);
		r->zip = p.zip;
		strbuf_init(&p.zip);
		free(uuid);
	}
	ray_package_release(&p);
	r->prepared = rc == 0;
	return rc;
}

/* --- answers --- */

static void taken(struct cluster *c, struct ray_run *r, const char *source)
{
	strbuf_release(&r->zip);
	ray_run_live(c, r, source);
}

/* The id is there; is it ours? */
static void on_job(struct cluster *c, struct ray_run *r, const struct http_answer *a)
{
	struct ray_job j;
	struct err e = ERR_INIT;
	bool ours;

	if (a->status == 404) {
		r->maybe_sent = false; /* of this session, which is the one it was sent to */
		later(c, r);
		return;
	}
	if (a->status != 200 || ray_job_parse(a->body, a->len, &j, &e) < 0) {
		later(c, r);
		return;
	}
	ours = j.token && strcmp(j.token, r->token) == 0;
	ray_job_release(&j);
	if (ours) {
		taken(c, r, "ray");
		ray_run_job(c, r, a);
	} else {
		ray_run_refuse(c, r, "there is another job with its submission id on this Ray cluster");
	}
}

static void on_post(struct cluster *c, struct ray_run *r, const struct http_answer *a)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;

	switch (ray_submit_answer(a->status, a->body, a->len, &why)) {
	case RAY_TAKEN:
		taken(c, r, "ray");
		break;
	case RAY_DUPLICATE:
		r->maybe_sent = true;
		r->act_at = 0;
		break;
	case RAY_REFUSED:
	case RAY_TOO_LONG:
		strbuf_addstr(&why, " (said by Ray)");
		ray_run_refuse(c, r, why.buf);
		break;
	case RAY_TOKEN:
		later(c, r);
		break;
	case RAY_LATER:
		r->maybe_sent = true;
		later(c, r);
		if (r->tries > REFUSED_TRIES)
			ray_run_refuse(c, r, why.buf);
		break;
	}
}

static void on_package(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;

	if (a->status == 200) {
		r->package_there = true;
		r->act_at = 0;
	} else if (what == ASK_PACKAGE && a->status == 404) {
		cleanup_free char *path = xasprintf("/api/packages/gcs/%s", r->package), *url = ray_url(c, path);
		const struct http_request rq = {
			.method = "PUT", .url = url, .body = r->zip.buf, .body_len = r->zip.len, .deadline_ms = 300000
		};

		r->busy = true;
		ray_send(c, r, &rq, on_answer, PUT_PACKAGE);
	} else if (a->status == 413) {
		ray_trouble(a->status, a->body, a->len, &why);
		ray_run_refuse(c, r, why.buf);
	} else {
		later(c, r);
	}
}

static void on_answer(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a)
{
	r->busy = false;
	if (what == POST_JOB && a->code)
		r->maybe_sent = true;
	if (ray_link_answer(c, a)) {
		later(c, r);
		return;
	}
	if (what == ASK_JOB)
		on_job(c, r, a);
	else if (what == POST_JOB)
		on_post(c, r, a);
	else
		on_package(c, r, what, a);
}

/* --- the next step --- */

static void send_question(struct cluster *c, struct ray_run *r)
{
	cleanup_free char *path = xasprintf("/api/jobs/%s", r->sid), *url = ray_url(c, path);
	const struct http_request rq = { .method = "GET", .url = url, .deadline_ms = 10000 };

	r->busy = true;
	ray_send(c, r, &rq, on_answer, ASK_JOB);
}

static void send_package(struct cluster *c, struct ray_run *r)
{
	cleanup_free char *path = xasprintf("/api/packages/gcs/%s", r->package), *url = ray_url(c, path);
	const struct http_request rq = { .method = "GET", .url = url, .deadline_ms = 30000 };

	r->busy = true;
	ray_send(c, r, &rq, on_answer, ASK_PACKAGE);
}

/* Journal first: to which session it may have gone. */
static void send_job(struct cluster *c, struct ray_run *r, const struct ray_spec *spec)
{
	const struct ray_ids ids = { r->token, r->sid, NULL, r->run, r->attempt };
	cleanup_free char *uri = r->package ? xasprintf("gcs://%s", r->package) : NULL;
	cleanup_free char *body = ray_submit_body(&ids, r->job, spec, r->entrypoint, uri),
			  *url = ray_url(c, "/api/jobs/");
	const struct http_request rq = { .method = "POST",
					 .url = url,
					 .type = "application/json",
					 .body = body,
					 .body_len = body ? strlen(body) : 0,
					 .deadline_ms = 20000 };

	if (!body) {
		ray_run_refuse(c, r, "the job holds bytes that are not UTF-8, which Ray does not take");
		return;
	}
	str_set(&r->session, c->session);
	ray_note(c, r);
	r->busy = true;
	ray_send(c, r, &rq, on_answer, POST_JOB);
}

static void act(struct cluster *c, struct ray_run *r)
{
	json_t *ray = r->job->ray.text ? json_loads(r->job->ray.text, 0, NULL) : NULL;
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct ray_spec spec;

	if (ray_spec_read(ray, &spec, &errors) < 0)
		ray_run_refuse(c, r, errors.buf);
	else if (!r->script)
		ray_run_refuse(c, r, "it had not started, and its script cannot be made again");
	else if (!r->prepared && prepare(r, &spec, &e) < 0)
		ray_run_refuse(c, r, e.text);
	else if (r->package && !r->package_there)
		send_package(c, r);
	else
		send_job(c, r, &spec);
	json_decref(ray);
}

int64_t ray_submit_step(struct cluster *c, struct ray_run *r)
{
	if (r->phase != RAYRUN_QUEUED || r->busy)
		return INT64_MAX;
	if (r->cancel_wanted && !r->maybe_sent) { /* nobody needs to be asked */
		ray_run_end_now(c, r, "cancelled", "cancelled before it was submitted", NULL);
		return c->now;
	}
	if (!c->up || !c->session || !ray_reachable(c))
		return INT64_MAX;
	if (r->act_at > c->now)
		return r->act_at;
	if (r->maybe_sent && r->session && strcmp(r->session, c->session) != 0) {
		ray_run_live(c, r, "ray"); /* and is then found to be gone with its session */
		return 0;
	}
	if (r->maybe_sent)
		send_question(c, r);
	else
		act(c, r);
	return c->now;
}
