/*
 * Making runs: complete documents, drafts, and taking runs away again. A run exists in memory before its creation
 * is committed, but nobody sees it until then; when the commit fails it never was.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/spec.h"
#include "backend/spool.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>

/* --- rejected documents --- */

#define REJECTED_KEEP (256 * 1024)	/* bytes of `errors` in memory; the journal has the rest */
#define REJECTED_TEXT 2000		/* of the document, in a row */

/* Text that is valid UTF-8, for JSON: other bytes become '?'. */
static json_t *json_text(const char *text, size_t len)
{
	json_t *j = json_stringn(text, len);
	char *copy;

	if (j)
		return j;
	copy = xmalloc(len + 1);
	for (size_t i = 0; i < len; i++)
		copy[i] = (char)((unsigned char)text[i] < 0x80 && text[i] ? text[i] : '?');
	j = json_stringn(copy, len);
	free(copy);
	return j;
}

void engine_rejected_add(struct engine *en, int64_t time, uint32_t uid, const char *text, size_t len, const char *why)
{
	char when[CLOCK_TEXT];
	json_t *row = json_object();
	char *line;

	(void)json_object_set_new(row, "time", json_string(clock_text(time, when)));
	(void)json_object_set_new(row, "uid", json_integer(uid));
	(void)json_object_set_new(row, "text", json_text(text, len < REJECTED_TEXT ? len : REJECTED_TEXT));
	(void)json_object_set_new(row, "why", json_text(why, strlen(why)));
	line = json_dumps(row, JSON_COMPACT);
	json_decref(row);
	strbuf_addf(&en->rejected, "%s\n", line);
	free(line);
	if (en->rejected.len > REJECTED_KEEP) {
		const char *nl = strchr(en->rejected.buf + en->rejected.len - REJECTED_KEEP / 2, '\n');

		if (nl)
			strbuf_remove(&en->rejected, 0, (size_t)(nl - en->rejected.buf) + 1);
	}
}

void engine_refuse(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why, int code, engine_done cb,
		   void *arg)
{
	int64_t now = clock_real(en->clock);
	uint64_t ticket;
	struct pending *p = engine_pending(en, PENDING_REFUSAL, 0, &ticket);
	struct store_txn *t = store_txn_new(ticket, true);

	p->code = code;
	p->result = xstrdup(why);
	p->done = cb;
	p->arg = arg;
	engine_rejected_add(en, now, uid, text, len, why);
	store_txn_rejected(t, now, uid, text, len < REJECTED_TEXT ? len : REJECTED_TEXT, why);
	store_post(en->store, t);
}

void engine_note_rejected(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why)
{
	engine_refuse(en, uid, text, len, why, -EINVAL, NULL, NULL);
}

const struct strbuf *engine_rejected(const struct engine *en)
{
	return &en->rejected;
}

/* --- idempotency --- */

void engine_key_add(struct engine *en, const char *key, const char *value)
{
	struct key_row *k = xcalloc(1, sizeof(*k));

	k->key = xstrdup(key);
	k->value = xstrdup(value);
	hmap_insert(&en->keys, &k->node, hash_str(key));
}

static const char *key_find(const struct engine *en, const char *key)
{
	struct hmap_node *n = hmap_first(&en->keys, hash_str(key));

	for (; n; n = hmap_next(n)) {
		struct key_row *k = container_of(n, struct key_row, node);

		if (strcmp(k->key, key) == 0)
			return k->value;
	}
	return NULL;
}

/* What two specs are compared by: everything but the Dagster bootstrap variables, which change with every try of a step. */
static void fingerprint(const json_t *spec, char out[17])
{
	json_t *copy = json_deep_copy(spec);
	json_t *env = json_object_get(copy, "env");
	const char *name;
	void *tmp;
	json_t *v;
	char *text;

	json_object_foreach_safe(env, tmp, name, v) {
		if (strncmp(name, "DAGSTER_PIPES_", 14) == 0)
			(void)json_object_del(env, name);
	}
	if (env && json_object_size(env) == 0)
		(void)json_object_del(copy, "env");
	text = json_dumps(copy, JSON_SORT_KEYS | JSON_COMPACT);
	(void)snprintf(out, 17, "%016llx", (unsigned long long)hash_str(text));
	free(text);
	json_decref(copy);
}

/* --- submitting --- */

struct prepared {
	json_t *spec;
	struct effective eff;
	struct job job;
	struct strbuf effective, script, errors;
	char print[17];
};

static void prepared_release(struct prepared *p)
{
	json_decref(p->spec);
	effective_release(&p->eff);
	job_release(&p->job);
	strbuf_release(&p->effective);
	strbuf_release(&p->script);
	strbuf_release(&p->errors);
}

static int check_dependencies(struct engine *en, struct prepared *p)
{
	int rc = 0;

	for (char **d = p->job.after; d && *d; d++) {
		const char *colon = strchr(*d, ':');

		if (colon && engine_run_by_id(en, colon + 1))
			continue;
		strbuf_addf(&p->errors, "%s%.*s: there is no run %s", p->errors.len ? "\n" : "",
			    (int)(colon ? colon - *d : 0), *d, colon ? colon + 1 : *d);
		rc = -EINVAL;
	}
	return rc;
}

/* Everything that can be said without submitting; 0 or -EINVAL with the sentences in p->errors. */
static int prepare(struct engine *en, const char *text, size_t len, const char *hint, const struct run *as,
		   struct prepared *p)
{
	struct err e = ERR_INIT;
	int rc;

	memset(p, 0, sizeof(*p));
	strbuf_init(&p->effective);
	strbuf_init(&p->script);
	strbuf_init(&p->errors);
	rc = spec_parse(text, len, &p->spec, &p->errors);
	if (rc == 0)
		rc = config_resolve(en->conf.config, p->spec, hint, &p->eff, &p->errors);
	if (rc == 0)
		rc = job_from_effective(&p->eff, &p->job, &p->errors);
	if (rc == 0)
		rc = check_dependencies(en, p);
	if (rc < 0)
		return rc;
	engine_job_place(en, &p->job, NULL, NULL);
	effective_text(&p->eff, &p->effective);
	fingerprint(p->spec, p->print);
	rc = engine_render(en, as, 1, &p->job, &p->script, &e);
	if (rc < 0)
		strbuf_addstr(&p->errors, e.text);
	return rc;
}

void engine_check(struct engine *en, const char *text, size_t len, const char *cluster_hint, struct strbuf *out, int *code)
{
	struct run *as = run_new(en->next_num);
	struct prepared p;

	as->id = xasprintf("%u", as->num);
	*code = prepare(en, text, len, cluster_hint, as, &p);
	if (*code == 0) {
		strbuf_addbuf(out, &p.effective);
		strbuf_addch(out, '\n');
		strbuf_addbuf(out, &p.script);
	} else {
		strbuf_addbuf(out, &p.errors);
		strbuf_addch(out, '\n');
	}
	prepared_release(&p);
	run_free(as);
}

static char *dup_text(const struct strbuf *sb)
{
	return xstrndup(sb->buf, sb->len);
}

/* The event's members; the documents travel beside it, as rows of their own. */
static json_t *create_data(const struct run *r, const struct prepared *p)
{
	json_t *d = json_object();
	const char *name = json_string_value(json_object_get(p->spec, "name"));
	const char *key = json_string_value(json_object_get(p->spec, "key"));
	json_t *tags = json_object_get(p->eff.values, "tags");

	(void)json_object_set_new(d, "id", json_string(r->id));
	(void)json_object_set_new(d, "cluster", json_string(p->eff.cluster->name));
	if (name)
		(void)json_object_set_new(d, "name", json_string(name));
	if (key)
		(void)json_object_set_new(d, "key", json_string(key));
	if (tags)
		(void)json_object_set(d, "tags", tags);
	(void)json_object_set_new(d, "merged", json_boolean(p->job.merged));
	(void)json_object_set_new(d, "hold", json_boolean(p->job.hold));
	(void)json_object_set_new(d, "spec_print", json_string(p->print));
	(void)json_object_set_new(d, "cpus", json_integer((p->job.ntasks > 0 ? p->job.ntasks : 1) *
							  (p->job.cpus_per_task > 0 ? p->job.cpus_per_task : 1)));
	(void)json_object_set_new(d, "spec_len", json_integer((json_int_t)r->spec_len));
	(void)json_object_set_new(d, "effective_len", json_integer((json_int_t)r->effective_len));
	(void)json_object_set_new(d, "script_len", json_integer((json_int_t)r->script_len));
	(void)json_object_set_new(d, "source", json_string("user"));
	return d;
}

static void add_docs(struct store_txn *t, const struct run *r, const char *text, size_t len, const struct prepared *p)
{
	store_txn_doc(t, r->num, "spec", text, len);
	store_txn_doc(t, r->num, "effective", p->effective.buf, p->effective.len);
	store_txn_doc(t, r->num, "script", p->script.buf, p->script.len);
}

static void keep_docs(struct run *r, const char *text, size_t len, const struct prepared *p)
{
	r->spec = xmalloc(len + 1);
	memcpy(r->spec, text, len);
	r->spec[len] = '\0';
	r->effective = dup_text(&p->effective);
	r->script = dup_text(&p->script);
}

/* The rows that make a run, in one transaction; the answer comes by engine_created. */
static void post_create(struct engine *en, struct erun *er, struct event *ev, const struct engine_submit *s,
			const struct prepared *p, engine_done cb, void *arg)
{
	struct run *r = er->r;
	const char *key = event_str(ev, "key");
	struct pending *pend;
	struct store_txn *t;
	uint64_t ticket;
	json_t *summary;

	pend = engine_pending(en, PENDING_CREATE, r->num, &ticket);
	pend->ev = ev;
	pend->done = cb;
	pend->arg = arg;
	pend->request = s->request;
	pend->result = xstrdup(r->id);
	en->n_creating++;
	t = store_txn_new(ticket, true);
	summary = run_summary(r);
	store_txn_summary(t, r->num, r->id, true, summary);
	json_decref(summary);
	store_txn_event(t, r->num, ev);
	if (p)
		add_docs(t, r, s->text, s->len, p);
	if (key) {
		struct strbuf value = STRBUF_INIT;

		strbuf_addf(&value, "%s %s", r->id, p->print);
		store_txn_key(t, key, r->num, value.buf);
		engine_key_add(en, key, value.buf);
		strbuf_release(&value);
	}
	if (s->request)
		store_txn_seen(t, en->conf.mount_id, s->request, r->id);
	er->in_flight = true;
	store_post(en->store, t);
}

static void key_drop(struct engine *en, const char *key)
{
	struct hmap_node *n = key ? hmap_first(&en->keys, hash_str(key)) : NULL;

	if (n) {
		struct key_row *k = container_of(n, struct key_row, node);

		hmap_remove(&en->keys, n);
		free(k->key);
		free(k->value);
		free(k);
	}
}

/* Those who brought the same key while the creation was on its way learn its fate. */
static void tell_creating(struct erun *er, int code, const char *text)
{
	struct list *n;

	while ((n = list_pop(&er->creating))) {
		struct waiter *w = container_of(n, struct waiter, node);

		w->cb(w->arg, code, text);
		free(w);
	}
}

void engine_created(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);
	struct run *r = er->r;

	er->in_flight = false;
	en->n_creating--;
	if (code < 0) {
		const char *why = code == -ENOSPC ? "the journal's disk is full: nothing was submitted; free space and write it again"
						  : "the journal could not be written: nothing was submitted";

		key_drop(en, event_str(p->ev, "key"));
		tell_creating(er, code, why);
		if (er->visible) { /* a draft stays one */
			free(r->spec);
			free(r->effective);
			free(r->script);
			r->spec = r->effective = r->script = NULL;
		} else {
			engine_remove(en, er);
			erun_free(er);
		}
		p->done(p->arg, code, why);
		pending_free(p);
		return;
	}
	if (!er->visible)
		str_set(&r->id, NULL); /* the event brings it */
	er->visible = true;
	(void)run_apply(r, p->ev);
	engine_remember(en, p->request, p->result);
	if (r->status != RUN_DRAFT)
		en->last = r->num;
	point(POINT_ENGINE_CREATED);
	p->done(p->arg, 0, r->id);
	tell_creating(er, 0, r->id);
	point(POINT_ENGINE_ACCEPTED);
	engine_changed(en, er);
	pending_free(p);
	engine_act(en, er);
}

static void refuse(struct engine *en, const struct engine_submit *s, int code, const char *why, engine_done cb, void *arg)
{
	engine_refuse(en, s->uid, s->text, s->len, why, code, cb, arg);
}

/* The same key again: the run it made when the spec is the same, else -EEXIST. Returns 1 when there is no such key. */
static int known_key(struct engine *en, const struct engine_submit *s, const struct prepared *p, engine_done cb, void *arg)
{
	const char *key = json_string_value(json_object_get(p->spec, "key"));
	const char *value = key ? key_find(en, key) : NULL;
	const char *blank = value ? strchr(value, ' ') : NULL;
	struct erun *er;
	char id[160];

	if (!blank)
		return 1;
	if (strcmp(blank + 1, p->print) != 0) {
		char text[400];

		(void)snprintf(text, sizeof(text), "key '%s' was used by run %.*s for another spec: choose another key", key,
			       (int)(blank - value), value);
		refuse(en, s, -EEXIST, text, cb, arg);
		return 0;
	}
	(void)snprintf(id, sizeof(id), "%.*s", (int)(blank - value), value);
	er = engine_find_id(en, id);
	if (er && er->in_flight && (!er->visible || er->r->status == RUN_DRAFT)) {
		/* Nothing is acknowledged before it is in the journal. */
		struct waiter *w = xcalloc(1, sizeof(*w));

		w->cb = cb;
		w->arg = arg;
		list_add_tail(&er->creating, &w->node);
	} else {
		cb(arg, 0, id);
	}
	return 0;
}

/* Into a draft, or once more into what was a draft. Returns 1 when the caller should go on. */
static int draft_allows(struct engine *en, struct erun *er, const struct engine_submit *s, const struct prepared *p,
			engine_done cb, void *arg)
{
	const char *print;

	if (er->r->status == RUN_DRAFT && !er->in_flight)
		return 1;
	print = json_string_value(json_object_get(er->r->facts, "spec_print"));
	if (er->r->status == RUN_DRAFT)
		refuse(en, s, -EBUSY, "another spec for this draft is being written at this moment", cb, arg);
	else if (print && strcmp(print, p->print) == 0)
		cb(arg, 0, er->r->id);
	else
		refuse(en, s, -EEXIST, "this run was submitted with another spec: make a new run for this one", cb, arg);
	return 0;
}

void engine_submit(struct engine *en, const struct engine_submit *s, engine_done cb, void *arg)
{
	const char *known = engine_recall(en, s->request);
	struct erun *er = s->draft ? engine_find(en, s->draft) : NULL;
	struct run *fresh = NULL;
	struct prepared p;
	int rc;

	if (known) {
		cb(arg, 0, known);
		return;
	}
	if (s->draft && (!er || !er->visible)) {
		cb(arg, -ENOENT, "this run was purged");
		return;
	}
	if (!er) {
		fresh = run_new(en->next_num);
		fresh->id = xasprintf("%u", fresh->num);
	}
	rc = prepare(en, s->text, s->len, s->cluster_hint, er ? er->r : fresh, &p);
	if (rc < 0) {
		refuse(en, s, rc, p.errors.buf, cb, arg);
	} else if ((!er || draft_allows(en, er, s, &p, cb, arg)) && known_key(en, s, &p, cb, arg)) {
		if (!er) {
			er = erun_new(fresh);
			en->next_num++;
			engine_add(en, er);
			fresh = NULL;
		}
		keep_docs(er->r, s->text, s->len, &p);
		er->r->spec_len = s->len;
		er->r->effective_len = p.effective.len;
		er->r->script_len = p.script.len;
		post_create(en, er, event_new(EV_CREATE, clock_real(en->clock), create_data(er->r, &p)), s, &p, cb, arg);
	}
	if (fresh)
		run_free(fresh);
	prepared_release(&p);
}

/* --- drafts --- */

void engine_draft(struct engine *en, const char *name, uint64_t request, engine_done cb, void *arg)
{
	const struct engine_submit s = { .request = request };
	struct err e = ERR_INIT;
	struct erun *er;
	struct run *r;

	if (engine_recall(en, request)) {
		cb(arg, 0, name);
		return;
	}
	if (engine_find_id(en, name)) {
		cb(arg, -EEXIST, "a run of this name is there already");
		return;
	}
	if (!spec_name_ok(name, &e)) {
		cb(arg, -EINVAL, e.text);
		return;
	}
	r = run_new(en->next_num++);
	r->id = xstrdup(name);
	er = erun_new(r);
	engine_add(en, er);
	post_create(en, er, event_new(EV_DRAFT, clock_real(en->clock), json_pack("{s:s, s:s}", "id", name, "source", "user")),
		    &s, NULL, cb, arg);
}

/* --- purging --- */

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	(void)remove(path);
	return 0;
}

/* Removes a directory of ours; links in it are removed, not followed. */
static void remove_tree(const char *path)
{
	(void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void engine_purged(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);
	struct strbuf dir = STRBUF_INIT;

	if (!er) {
		pending_free(p);
		return;
	}
	er->purging = false;
	if (code < 0) {
		p->done(p->arg, code, "the journal could not be written: the run is still there");
		pending_free(p);
		return;
	}
	engine_remember(en, p->request, "purged");
	if (er->r->attempt)
		engine_send(en, er, engine_creq(en, er, CREQ_FORGET, 0));
	engine_files_dir(en, er->r->num, &dir);
	remove_tree(dir.buf);
	strbuf_release(&dir);
	(void)spool_remove(en->spool_dir, er->r->num);
	er->visible = false;
	if (en->ob.run_gone)
		en->ob.run_gone(en->ob.arg, er->r->num);
	engine_remove(en, er);
	if (en->last == er->r->num)
		en->last = en->n_order ? en->order[en->n_order - 1]->r->num : 0;
	p->done(p->arg, 0, "");
	erun_free(er);
	pending_free(p);
	engine_act_gated(en);
}

void engine_purge(struct engine *en, uint32_t num, uint64_t request, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	struct pending *p;
	struct store_txn *t;
	uint64_t ticket;

	if (engine_recall(en, request)) {
		cb(arg, 0, "");
		return;
	}
	if (!er || !er->visible || er->purging) {
		cb(arg, -ENOENT, "there is no such run");
		return;
	}
	if ((run_is_live(er->r) && er->r->status != RUN_DRAFT) || er->in_flight) {
		cb(arg, -EBUSY, "the run is live: cancel it first (echo cancel > ctl), rmdir purges ended runs and drafts");
		return;
	}
	p = engine_pending(en, PENDING_PURGE, num, &ticket);
	p->request = request;
	p->done = cb;
	p->arg = arg;
	t = store_txn_new(ticket, true);
	store_txn_purge(t, num);
	if (request)
		store_txn_seen(t, en->conf.mount_id, request, "purged");
	er->purging = true;
	store_post(en->store, t);
}
