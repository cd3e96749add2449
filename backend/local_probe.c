/*
 * What the local cluster says of itself: the documents of clusters/NAME (CREQ_PROBE). Steps of sessions are in no
 * queue: what they have is their session's.
 */
#include "backend/local.h"

#include "backend/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static json_t *queue_rows(const struct cluster *c)
{
	json_t *rows = json_array();

	for (struct hmap_node *n = hmap_walk(&c->jobs, NULL); n; n = hmap_walk(&c->jobs, n)) {
		const struct local_job *j = container_of(n, struct local_job, by_run);

		if (j->state != LOCAL_ENDED && !local_is_step(j))
			(void)json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:i}", "id", j->job_id, "name",
								    j->job->name ? j->job->name : "-", "state",
								    j->state == LOCAL_RUNNING ? "RUNNING" : "PENDING",
								    "cores", local_cores(j)));
	}
	return rows;
}

void local_probe(struct cluster *c, const struct creq *r)
{
	const char *what = r->arg ? r->arg : "";
	char host[64] = "localhost";
	json_t *doc;
	char *text;

	if (local_envs_ask(c, r))
		return;
	(void)gethostname(host, sizeof(host) - 1);
	if (strcmp(what, "info") == 0)
		doc = json_pack("{s:s, s:s, s:i, s:I, s:i, s:s}", "type", "local", "host", host, "cores", c->cores,
				"memory", (json_int_t)c->mem, "cores_used", c->used_cores, "directory", c->base);
	else if (strcmp(what, "partitions") == 0)
		doc = json_pack("[{s:s, s:s, s:i}]", "name", "local", "state", "up", "nodes", 1);
	else if (strcmp(what, "nodes") == 0)
		doc = json_pack("[{s:s, s:s, s:i, s:I}]", "name", host, "state", c->used_cores ? "allocated" : "idle",
				"cores", c->cores, "memory", (json_int_t)c->mem);
	else if (strcmp(what, "queue") == 0)
		doc = queue_rows(c);
	else
		doc = json_array();
	text = json_dumps(doc, JSON_INDENT(1));
	local_reply(c, r, 0, NULL, text, strlen(text));
	free(text);
	json_decref(doc);
}
