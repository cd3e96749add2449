/*
 * Documents from the journal, and bytes and listings from clusters: asked here, answered by callback.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define HOT_EVERY_US                                                                                                   \
	(5 * (int64_t)USEC_PER_SEC) /* every read of a live log asks; a cluster stays quick for half a minute */

void engine_ask_doc(struct engine *en, uint32_t num, const char *name, engine_doc_cb cb, void (*drop)(void *arg),
		    void *arg)
{
	struct erun *er = engine_find(en, num);
	const char *text = NULL;
	size_t len = 0;
	struct pending *p;
	uint64_t ticket;

	if (!er || !er->visible) {
		cb(arg, -ENOENT, "", 0);
		return;
	}
	if (strcmp(name, "spec") == 0) {
		text = er->r->spec;
		len = er->r->spec_len;
	} else if (strcmp(name, "effective") == 0) {
		text = er->r->effective;
		len = er->r->effective_len;
	} else if (strcmp(name, "script") == 0) {
		text = er->r->script;
		len = er->r->script_len;
	}
	if (text) {
		cb(arg, 0, text, len);
		return;
	}
	p = engine_pending(en, PENDING_DOC, num, &ticket);
	p->doc = cb;
	p->drop = drop;
	p->arg = arg;
	store_ask_doc(en->store, ticket, num, name);
}

void engine_doc(struct engine *en, uint32_t num, const char *name, engine_doc_cb cb, void *arg)
{
	engine_ask_doc(en, num, name, cb, NULL, arg);
}

void engine_hot(struct engine *en, uint32_t num)
{
	struct erun *er = engine_find(en, num);
	int64_t now = clock_mono(en->clock);

	if (!er || !er->sent_attempt || !run_is_live(er->r) || (er->hot_at && now - er->hot_at < HOT_EVERY_US))
		return;
	er->hot_at = now;
	engine_send(en, er, engine_creq(en, er, CREQ_HOT, 0));
}

void engine_look(struct engine *en, uint32_t num, unsigned look)
{
	struct erun *er = engine_find(en, num);
	int64_t now = clock_mono(en->clock);
	struct creq *rq;

	if (!er || !er->sent_attempt || !er->r->job_id || !run_is_live(er->r))
		return;
	if (er->look_at && now - er->look_at < HOT_EVERY_US && !(look & ~er->look))
		return;
	er->look = er->look_at && now - er->look_at < HOT_EVERY_US ? er->look | look : look;
	er->look_at = now;
	rq = engine_creq(en, er, CREQ_LOOK, 0);
	rq->look = er->look;
	engine_send(en, er, rq);
}

static struct creq *data_request(struct engine *en, struct erun *er, enum creq_type type, engine_data_cb cb,
				 void (*drop)(void *arg), void *arg)
{
	struct pending *p;
	uint64_t ticket;

	p = engine_pending(en, PENDING_DATA, er->r->num, &ticket);
	p->data = cb;
	p->drop = drop;
	p->arg = arg;
	return engine_creq_placed(en, er, type, ticket);
}

static struct erun *with_attempt(struct engine *en, uint32_t num, engine_data_cb cb, void *arg)
{
	struct erun *er = engine_find(en, num);

	if (!er || !er->visible) {
		cb(arg, -ENOENT, "the run was purged", "", 0);
		return NULL;
	}
	if (!er->r->attempt) {
		cb(arg, -ENOENT, "the run was never submitted", "", 0);
		return NULL;
	}
	return er;
}

void engine_fetch(struct engine *en, uint32_t num, int area, const char *path, uint64_t off, uint64_t len,
		  engine_data_cb cb, void *arg)
{
	engine_fetch_own(en, num, area, path, off, len, cb, NULL, arg);
}

void engine_fetch_own(struct engine *en, uint32_t num, int area, const char *path, uint64_t off, uint64_t len,
		      engine_data_cb cb, void (*drop)(void *arg), void *arg)
{
	struct erun *er = with_attempt(en, num, cb, arg);
	struct creq *rq;

	if (!er)
		return;
	rq = data_request(en, er, CREQ_READ, cb, drop, arg);
	rq->area = (enum cluster_area)area;
	rq->path = xstrdup(path);
	rq->offset = off;
	rq->length = len;
	engine_send(en, er, rq);
}

void engine_list(struct engine *en, uint32_t num, int area, const char *path, engine_data_cb cb, void *arg)
{
	struct erun *er = with_attempt(en, num, cb, arg);
	struct creq *rq;

	if (!er)
		return;
	rq = data_request(en, er, CREQ_LIST, cb, NULL, arg);
	rq->area = (enum cluster_area)area;
	rq->path = xstrdup(path);
	engine_send(en, er, rq);
}

void engine_manifest(struct engine *en, uint32_t num, engine_data_cb cb, void *arg)
{
	struct erun *er = with_attempt(en, num, cb, arg);

	if (er)
		engine_send(en, er, data_request(en, er, CREQ_MANIFEST, cb, NULL, arg));
}

void engine_probe(struct engine *en, const char *cluster, const char *what, engine_data_cb cb, void *arg)
{
	struct ecluster *ec = engine_cluster(en, cluster);
	struct pending *p;
	struct creq *rq;
	uint64_t ticket;

	if (!ec) {
		cb(arg, -ENOENT, "there is no such cluster", "", 0);
		return;
	}
	p = engine_pending(en, PENDING_DATA, 0, &ticket);
	p->data = cb;
	p->arg = arg;
	rq = creq_new(CREQ_PROBE, 0, 0, ticket);
	rq->arg = xstrdup(what);
	ec->ops->post(ec->c, rq);
}

/* --- the list of results, fetched before the end is told --- */

struct manifest_wait {
	struct engine *en;
	uint32_t run;
};

/* Kept beside the spool under our own name; a list that cannot be written is fetched again by who needs it. */
static void save_manifest(const struct engine *en, uint32_t num, const char *data, size_t len)
{
	cleanup_free char *dir = xasprintf("%s/%u", en->spool_dir, num);
	cleanup_free char *tmp = xasprintf("%s/manifest.tmp", dir);
	cleanup_free char *path = xasprintf("%s/manifest", dir);
	ssize_t n;
	int fd;

	(void)mkdir(dir, 0700);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	n = write(fd, data, len);
	(void)close(fd);
	if (n >= 0 && (size_t)n == len)
		(void)rename(tmp, path);
	else
		(void)unlink(tmp);
}

static void have_manifest(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct manifest_wait *w = arg;
	struct erun *er = engine_find(w->en, w->run);

	(void)text;
	if (er && er->held_end) {
		if (code == 0)
			save_manifest(w->en, w->run, data, len);
		er->manifest_wanted = false;
		point(POINT_ENGINE_END_HELD);
		engine_end_ready(w->en, er);
	}
	free(w);
}

/* Messages that may still come. */
static bool events_wanted(const struct erun *er, const struct event *ev)
{
	return engine_has_pipes(er->r) && !er->events_last && event_int(ev, "events_len", -1) != 0;
}

void engine_end_ready(struct engine *en, struct erun *er)
{
	struct event *ev = er->held_end;

	if (!ev || er->manifest_wanted || events_wanted(er, ev))
		return;
	engine_feed(en, er);
	if (er->feeding)
		return;
	er->held_end = NULL;
	engine_pipes_end(en, er->r, ev);
	engine_post(en, er, ev, 0, NULL);
}

static void ask_manifest(struct engine *en, struct erun *er)
{
	struct manifest_wait *w = xmalloc(sizeof(*w));

	w->en = en;
	w->run = er->r->num;
	er->manifest_wanted = true;
	engine_send(en, er, data_request(en, er, CREQ_MANIFEST, have_manifest, free, w));
}

/* Readers may have seen more than the record counted (a job that cut its own output): a log never shrinks. */
static void raise_length(const struct event *ev, const char *key, uint64_t spooled)
{
	long long len = event_int(ev, key, -1);

	if (len >= 0 && (uint64_t)len < spooled)
		(void)json_object_set_new(ev->data, key, json_integer((json_int_t)spooled));
}

void engine_report(struct engine *en, struct erun *er, struct event *ev)
{
	bool left = json_is_true(json_object_get(ev->data, "manifest"));
	bool ours = event_int(ev, "attempt", er->r->attempt) == er->r->attempt;

	if (ev->type == EV_END)
		point(POINT_ENGINE_END_RECEIVED);
	if (ev->type == EV_END && ours) {
		raise_length(ev, "out_len", er->spooled_out);
		raise_length(ev, "err_len", er->spooled_err);
		if (er->logs_last || (event_int(ev, "out_len", -1) == 0 && event_int(ev, "err_len", -1) == 0))
			(void)json_object_set_new(ev->data, "logs", json_string("complete"));
	}
	if (ev->type != EV_END || !ours || !er->r->attempt || !run_is_live(er->r)) {
		engine_post(en, er, ev, 0, NULL);
		return;
	}
	if (er->held_end) { /* reported twice */
		event_free(ev);
		return;
	}
	er->held_end = ev;
	er->manifest_wanted = false;
	if (left)
		ask_manifest(en, er);
	engine_end_ready(en, er);
}
