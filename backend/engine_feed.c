/*
 * The feed, the root's `events`: a line for every change of a run's status and for every message of its job, in the
 * order in which they are journaled, for ever.
 *
 * Invariants: a change and its line are one transaction. A run's messages and how far they were taken are one
 * transaction, too, and there is at most one on its way; so each is in the feed once, whatever is killed. An end waits
 * until the messages before it are in the feed.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define BATCH ((size_t)256 * 1024)            /* bytes of messages in a transaction, unless one is longer */
#define PARAMS_MAX ((size_t)64 * 1024 * 1024) /* longer parameters stay in the run's own files */

/* --- lines --- */

static void set_str(json_t *o, const char *key, const char *value)
{
	json_t *s = value ? json_string(value) : NULL;

	(void)json_object_set_new(o, key, s ? s : json_null());
}

/* What every line begins with. */
static json_t *line_head(const struct run *r, int64_t time, const char *type)
{
	char when[CLOCK_TEXT];
	json_t *o = json_object(), *tags = json_array();

	set_str(o, "time", clock_text(time, when));
	set_str(o, "run", r->id);
	(void)json_object_set_new(o, "num", json_integer(r->num));
	set_str(o, "name", r->name);
	set_str(o, "cluster", r->cluster);
	for (char **t = r->tags; t && *t; t++)
		(void)json_array_append_new(tags, json_string(*t));
	(void)json_object_set_new(o, "tags", tags);
	(void)json_object_set_new(o, "attempt", json_integer(r->attempt));
	set_str(o, "type", type);
	return o;
}

/* The object's text and, in place of its last brace, `end`. */
static void add_object(struct strbuf *out, json_t *o, const char *end)
{
	char *text = json_dumps(o, JSON_COMPACT);

	strbuf_add(out, text, strlen(text) - 1);
	strbuf_addstr(out, end);
	free(text);
	json_decref(o);
}

static json_t *code_of(const struct run *r)
{
	if (run_is_live(r) || (r->exit_code < 0 && !r->signal))
		return json_null();
	return json_integer(r->exit_code >= 0 ? r->exit_code : 128 + r->signal);
}

void engine_feed_status(struct store_txn *t, const struct run *now, size_t before)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;

	for (size_t i = before; i < now->n_history; i++) {
		const struct run_step *h = &now->history[i];
		json_t *o = line_head(now, h->time, "status");

		set_str(o, "from", h->from == h->to ? NULL : run_status_name(h->from));
		set_str(o, "to", run_status_name(h->to));
		(void)json_object_set_new(o, "code", code_of(now));
		set_str(o, "why", now->why);
		set_str(o, "source", h->source);
		add_object(&line, o, "}\n");
	}
	if (line.len)
		store_txn_feed(t, line.buf, line.len);
}

struct batch {
	const struct run *r;
	int64_t time;
	struct strbuf text;
};

static void add_message(void *arg, const char *line, size_t len)
{
	struct batch *b = arg;
	struct pipes_parts parts;

	if (!pipes_parts(line, len, &parts))
		return;
	add_object(&b->text, line_head(b->r, b->time, "report"), ",\"method\":\"");
	strbuf_add(&b->text, parts.method, parts.method_len);
	if (parts.params_len > PARAMS_MAX) {
		strbuf_addf(&b->text, "\",\"params\":null,\"params_bytes\":%zu}\n", parts.params_len);
		return;
	}
	strbuf_addstr(&b->text, "\",\"params\":");
	strbuf_add(&b->text, parts.params, parts.params_len);
	strbuf_addstr(&b->text, "}\n");
}

/* --- messages --- */

void engine_feed(struct engine *en, struct erun *er)
{
	struct batch b = { er->r, clock_real(en->clock), STRBUF_INIT };
	struct events_at at = er->fed;
	struct store_txn *t;
	uint64_t ticket;

	if (er->feeding || er->purging || !er->visible || !engine_has_pipes(er->r))
		return;
	if (events_after(en->spool_dir, er->r->num, &at, BATCH, add_message, &b) > 0) {
		(void)engine_pending(en, PENDING_FEED, er->r->num, &ticket);
		t = store_txn_new(ticket, false);
		store_txn_feed(t, b.text.buf, b.text.len);
		store_txn_fed(t, er->r->num, at.index, at.bytes);
		er->fed = at;
		er->feeding = true;
		store_post(en->store, t);
		point(POINT_FEED_POSTED);
	}
	strbuf_release(&b.text);
}

void engine_fed(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);

	pending_free(p);
	if (!er)
		return;
	if (code < 0)
		log_error("run %s: its messages cannot be in the feed: %s", er->r->id, strerror(-code));
	er->feeding = false;
	engine_feed(en, er);
	engine_end_ready(en, er);
}

void engine_feed_all(struct engine *en)
{
	for (size_t i = 0; i < en->n_order; i++)
		if (run_is_live(en->order[i]->r))
			engine_feed(en, en->order[i]);
}

/* --- reading --- */

void engine_feed_grew(struct engine *en, uint64_t len)
{
	if (len <= en->feed_len)
		return;
	en->feed_len = len;
	if (en->hook)
		hook_grew(en->hook, len);
}

uint64_t engine_feed_len(const struct engine *en)
{
	return en->feed_len;
}

ssize_t engine_feed_read(const struct engine *en, void *buf, size_t size, uint64_t off)
{
	ssize_t n;

	if (off >= en->feed_len)
		return 0;
	if (size > en->feed_len - off)
		size = (size_t)(en->feed_len - off);
	n = pread(en->feed_fd, buf, size, (off_t)off);
	return n < 0 ? -errno : n;
}

int64_t engine_feed_time(const struct engine *en)
{
	struct stat st;

	if (!en->feed_len || fstat(en->feed_fd, &st) < 0)
		return 0;
	return (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

int engine_feed_open(struct engine *en, struct err *e)
{
	cleanup_free char *path = store_feed_path(en->state_dir);

	en->feed_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	en->feed_len = store_feed_len(en->store);
	return en->feed_fd < 0 ? err_sys(e, -errno, "cannot read %s", path) : 0;
}
