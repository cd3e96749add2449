/*
 * Listings and bytes of runs on Ray clusters, from the agent of the node that they were on. A listing is the agent's
 * index and a question for each name in it; the list of an ended run's results is a file that its wrapper left.
 */
#include "backend/ray.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define READ_MAX ((uint64_t)4 << 20)
#define LIST_MAX 2000
#define DEADLINE_MS 30000

struct op {
	struct cluster *c;
	struct creq *q; /* NULL: held again */
	uint64_t offset, length;
	char *url;           /* of the file or directory */
	struct strbuf names; /* LIST: each ended by NUL */
	struct strbuf rows;
	unsigned waiting;
	bool lost; /* LIST: a name could not be asked for */
};

struct head { /* one name of a listing */
	struct op *op;
	char *name;
};

static void op_free(struct op *op)
{
	if (op->q)
		msg_release(&op->q->m);
	free(op->url);
	strbuf_release(&op->names);
	strbuf_release(&op->rows);
	free(op);
}

static struct op *op_new(struct cluster *c, struct creq *q, char *url)
{
	struct op *op = xcalloc(1, sizeof(*op));

	op->c = c;
	op->q = q;
	op->offset = q->offset;
	op->length = q->length < READ_MAX ? q->length : READ_MAX;
	op->url = url;
	strbuf_init(&op->names);
	strbuf_init(&op->rows);
	return op;
}

static int time_left(const struct op *op)
{
	int64_t ms = (op->q->deadline - op->c->now) / USEC_PER_MSEC;

	return ms < 1 ? 1 : ms > DEADLINE_MS ? DEADLINE_MS : (int)ms;
}

static char *area_url(const struct cluster *c, const struct creq *q, const char *agent)
{
	const char *area = q->area == AREA_RESULTS ? "results" : "work";
	cleanup_free char *path = *q->path ? xasprintf("%s/%s", area, q->path) : xstrdup(area);

	return ray_attempt_url(c, agent, q->run, q->attempt, path);
}

/* True: there are no bytes in it, and that is answered, or the question is held. */
static bool trouble(struct op *op, const struct http_answer *a)
{
	op->c->now = clock_mono(op->c->ctx.clock);
	if (a->code) {
		ray_hold(op->c, op->q, a->text);
		op->q = NULL;
		return true;
	}
	if (a->status == 200 || a->status == 206 || a->status == 416)
		return false;
	if (a->status == 404)
		ray_reply(op->c, op->q->ticket, -ENOENT, "it is not there", NULL, 0);
	else
		ray_reply(op->c, op->q->ticket, -EHOSTUNREACH, "the node's agent refused it", NULL, 0);
	return true;
}

static void on_read(void *arg, const struct http_answer *a)
{
	struct op *op = arg;
	const char *data = a->body;
	size_t len = a->status == 416 ? 0 : a->len;

	if (!trouble(op, a)) {
		if (a->status == 200) { /* all of it */
			uint64_t skip = op->offset < len ? op->offset : len;

			data += skip;
			len -= (size_t)skip;
		}
		ray_reply(op->c, op->q->ticket, 0, NULL, data, len < op->length ? len : (size_t)op->length);
	}
	op_free(op);
}

static void ask_bytes(struct cluster *c, struct creq *q, const char *agent)
{
	struct op *op = op_new(c, q, area_url(c, q, agent));

	if (!op->length) {
		ray_reply(c, q->ticket, 0, NULL, "", 0);
		op_free(op);
		return;
	}
	http_send(c->http,
		  &(struct http_request){ .method = "GET",
					  .url = op->url,
					  .range = true,
					  .offset = op->offset,
					  .length = op->length,
					  .deadline_ms = time_left(op) },
		  on_read, op);
}

static void on_manifest(void *arg, const struct http_answer *a)
{
	struct op *op = arg;

	if (!trouble(op, a))
		ray_reply(op->c, op->q->ticket, 0, NULL, a->body, a->len);
	op_free(op);
}

static void ask_manifest(struct cluster *c, struct creq *q, const char *agent)
{
	struct op *op = op_new(c, q, ray_attempt_url(c, agent, q->run, q->attempt, "manifest"));
	http_send(
		c->http,
		&(struct http_request){
			.method = "GET", .url = op->url, .body_max = (size_t)256 << 20, .deadline_ms = time_left(op) },
		on_manifest, op);
}

/* --- listings --- */

static void list_step(struct op *op)
{
	if (op->waiting)
		return;
	if (op->lost) {
		ray_hold(op->c, op->q, "the connection was cut in the middle of a listing");
		op->q = NULL;
		op_free(op);
		return;
	}
	ray_reply(op->c, op->q->ticket, 0, NULL, op->rows.buf, op->rows.len);
	op_free(op);
}

static void add_row(struct strbuf *rows, char type, const char *name, int64_t size, int64_t mtime)
{
	strbuf_addf(rows, "%c%c%lld%c%lld%c%s%c%s%c%c", type, 0, (long long)size, 0, (long long)mtime, 0,
		    type == 'd' ? "700" : "600", 0, name, 0, 0);
}

static void on_head(void *arg, const struct http_answer *a)
{
	struct head *h = arg;
	struct op *op = h->op;

	if (a->status == 200 && a->total >= 0) /* links that lead out are 404 */
		add_row(&op->rows, 'f', h->name, a->total, a->modified < 0 ? 0 : a->modified);
	op->lost |= a->code != 0;
	free(h->name);
	free(h);
	op->waiting--;
	list_step(op);
}

static void on_index(void *arg, const struct http_answer *a)
{
	struct op *op = arg;
	unsigned n = 0;

	if (trouble(op, a)) {
		op_free(op);
		return;
	}
	ray_index_names(a->body, a->len, &op->names);
	op->waiting = 1;
	for (const char *s = op->names.buf; s < op->names.buf + op->names.len && n < LIST_MAX;
	     s += strlen(s) + 1, n++) {
		size_t len = strlen(s);
		cleanup_free char *name = xstrndup(s, s[len - 1] == '/' ? len - 1 : len);
		cleanup_strbuf struct strbuf url = STRBUF_INIT;
		struct head *h;

		if (s[len - 1] == '/') {
			add_row(&op->rows, 'd', name, 0, 0);
			continue;
		}
		strbuf_addf(&url, "%s/", op->url);
		http_add_path(&url, name);
		h = xcalloc(1, sizeof(*h));
		h->op = op;
		h->name = xstrdup(name);
		op->waiting++;
		http_send(op->c->http,
			  &(struct http_request){ .method = "HEAD", .url = url.buf, .deadline_ms = time_left(op) },
			  on_head, h);
	}
	op->waiting--;
	list_step(op);
}

static void ask_index(struct cluster *c, struct creq *q, const char *agent)
{
	struct op *op = op_new(c, q, area_url(c, q, agent));

	http_send(c->http, &(struct http_request){ .method = "GET", .url = op->url, .deadline_ms = time_left(op) },
		  on_index, op);
}

void ray_files_ask(struct cluster *c, struct creq *q, const char *agent)
{
	if (q->m.type == CREQ_READ)
		ask_bytes(c, q, agent);
	else if (q->m.type == CREQ_LIST)
		ask_index(c, q, agent);
	else
		ask_manifest(c, q, agent);
}
