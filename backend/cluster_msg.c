/*
 * Requests to clusters and their reports: making and releasing them. A message owns every string, the job and the event
 * that it points to; `from` of a report is borrowed.
 */
#include "backend/cluster.h"

#include "backend/base/mem.h"

#include <stdlib.h>

static void creq_release(struct msg *m)
{
	struct creq *r = container_of(m, struct creq, m);

	free(r->run_id);
	free(r->job_id);
	free(r->token);
	if (r->job) {
		job_release(r->job);
		free(r->job);
	}
	free(r->script);
	free(r->files_dir);
	free(r->context);
	free(r->secrets_dir);
	free(r->verb);
	free(r->arg);
	free(r->path);
	free(r);
}

const char *cluster_area_path(enum cluster_area area)
{
	static const char *const paths[] = { "results", "work", "ray", "ray/logs", "spark", "spark/logs" };

	return paths[area];
}

struct creq *creq_new(enum creq_type type, uint32_t run, uint32_t attempt, uint64_t ticket)
{
	struct creq *r = xcalloc(1, sizeof(*r));

	list_init(&r->m.node);
	r->m.type = (int)type;
	r->m.release = creq_release;
	r->run = run;
	r->attempt = attempt;
	r->ticket = ticket;
	r->out_len = -1;
	r->err_len = -1;
	return r;
}

static void crep_release(struct msg *m)
{
	struct crep *r = container_of(m, struct crep, m);

	if (r->ev)
		event_free(r->ev);
	free(r->text);
	free(r->data);
	free(r);
}

struct crep *crep_new(enum crep_type type, struct cluster *from)
{
	struct crep *r = xcalloc(1, sizeof(*r));

	list_init(&r->m.node);
	r->m.type = (int)type;
	r->m.release = crep_release;
	r->from = from;
	return r;
}
