/*
 * Making runs: complete documents, drafts, and the same again. A run exists in memory before its creation
 * is committed, but nobody sees it until then; when the commit fails it never was.
 */
#include "backend/engine_submit.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/inner_state.h"
#include "backend/job_paths.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

static void key_drop(struct engine *en, const char *key)
{
	struct hmap_node *n = key ? hmap_first(&en->keys, hash_str(key)) : NULL;

	for (; n; n = hmap_next(n)) {
		struct key_row *k = container_of(n, struct key_row, node);

		if (strcmp(k->key, key) != 0)
			continue;
		hmap_remove(&en->keys, n);
		free(k->key);
		free(k->value);
		free(k);
		return;
	}
}

/* What two specs are compared by: everything but the Dagster bootstrap variables, which change with every try of a
 * step. */
static void fingerprint(const json_t *spec, char out[PRINT_SIZE])
{
	json_t *copy = json_deep_copy(spec);
	json_t *env = json_object_get(copy, "env");
	const char *name;
	void *tmp;
	json_t *v;
	char *text;

	json_object_foreach_safe (env, tmp, name, v) {
		if (strncmp(name, "DAGSTER_PIPES_", 14) == 0)
			(void)json_object_del(env, name);
	}
	if (env && json_object_size(env) == 0)
		(void)json_object_del(copy, "env");
	text = json_dumps(copy, JSON_SORT_KEYS | JSON_COMPACT);
	(void)snprintf(out, PRINT_SIZE, "%016llx", (unsigned long long)hash_str(text));
	free(text);
	json_decref(copy);
}

/* --- submitting --- */

static void prepared_release(struct prepared *p)
{
	json_decref(p->spec);
	free(p->name);
	json_decref(p->secrets);
	effective_release(&p->eff);
	job_release(&p->job);
	strbuf_release(&p->effective);
	strbuf_release(&p->script);
	strbuf_release(&p->context);
	strbuf_release(&p->errors);
}

static int check_dependencies(struct engine *en, const struct run *as, struct prepared *p)
{
	struct erun *draft = as->status == RUN_DRAFT ? engine_find(en, as->num) : NULL;
	int rc = 0;

	for (char **d = p->job.after; d && *d; d++) {
		const char *colon = strchr(*d, ':');
		const struct run *other = colon ? engine_run_by_id(en, colon + 1) : NULL;

		if (other && other != as)
			continue;
		strbuf_addf(&p->errors, other ? "%s%.*s: run %s cannot wait for itself" : "%s%.*s: there is no run %s",
			    p->errors.len ? "\n" : "", (int)(colon ? colon - *d : 0), *d, colon ? colon + 1 : *d);
		rc = -EINVAL;
	}
	if (rc == 0 && draft && p->job.after && *p->job.after && engine_circle(en, draft, p->job.after, &p->errors))
		rc = -EINVAL;
	return rc;
}

/* The session that the run is to start in; NULL: none. */
static int check_session(const struct engine *en, struct prepared *p)
{
	const char *id = p->job.session;
	const struct run *s = p->holder, *other = id && !s ? engine_run_by_id(en, id) : NULL;

	if (!id)
		return 0;
	if (!s)
		return strbuf_complain(&p->errors,
				       other ? "session: run %s is no session (launcher=session)"
					     : "session: there is no session %s",
				       id);
	if (s->status == RUN_DRAFT)
		return strbuf_complain(&p->errors, "session: %s has no spec yet: write sessions/%s/spec first", id, id);
	if (!run_is_live(s))
		return strbuf_complain(&p->errors, "session: %s has ended (%s): begin a new one", id,
				       run_status_name(s->status));
	if (s->cancel_wanted || json_is_true(json_object_get(s->facts, "session_stop")))
		return strbuf_complain(&p->errors, "session: %s is about to end: begin a new one", id);
	if (strcmp(s->cluster, p->eff.cluster->name) != 0)
		return strbuf_complain(&p->errors, "session: %s is on cluster %s, and the run is to be on %s", id,
				       s->cluster, p->eff.cluster->name);
	return 0;
}

static int check_paths(const struct engine *en, struct prepared *p)
{
	const struct job_paths_where where = { p->eff.cluster->type == CLUSTER_LOCAL, en->conf.mount_dir };

	return job_paths_check(&p->job, &where, &p->errors);
}

static bool is_session_spec(const json_t *spec)
{
	const char *launcher = json_string_value(json_object_get(spec, "launcher"));

	return launcher && strcmp(launcher, "session") == 0;
}

/* A session has the name of its directory, or the one that its spec gives it. */
static int take_name(const struct engine_submit *s, struct prepared *p)
{
	const char *said = json_string_value(json_object_get(p->spec, "name"));
	struct err e = ERR_INIT;

	if (s->session_name && said && strcmp(said, s->session_name) != 0)
		return strbuf_complain(&p->errors, "name: this session's is %s", s->session_name);
	if (!s->session_name && said && s->session && !spec_name_ok(said, &e))
		return strbuf_complain(&p->errors, "name: %s", e.text);
	if (s->session_name)
		(void)json_object_set_new(p->spec, "name", json_string(s->session_name));
	said = s->session_name ? s->session_name : said;
	p->name = said && spec_name_ok(said, &e) ? xstrdup(said) : NULL;
	return 0;
}

/* What goes without saying where the document was written. */
static int take_place(const struct engine *en, const struct engine_submit *s, struct prepared *p)
{
	const char *said = json_string_value(json_object_get(p->spec, "session"));
	const struct run *into = s->into ? engine_run(en, s->into) : NULL;

	p->session = is_session_spec(p->spec);
	if (p->session && s->into)
		return strbuf_complain(&p->errors, "launcher: a session cannot start in another");
	if (p->session)
		return take_name(s, p);
	if (s->into && !into)
		return strbuf_complain(&p->errors, "this session was purged");
	if (said && strcmp(said, "any") == 0)
		return 0; /* see any() */
	if (into && said && engine_session(en, said) != into)
		return strbuf_complain(&p->errors, "session: what is written here runs in %s",
				       engine_session_name(into));
	if (into && !said)
		(void)json_object_set_new(
			p->spec, "session",
			json_string(engine_session_current(en, into) ? engine_session_name(into) : into->id));
	said = json_string_value(json_object_get(p->spec, "session"));
	p->holder = into ? into : said ? engine_session(en, said) : NULL;
	return 0;
}

/* The document alone: what it says and its fingerprint. A spec that is submitted again leaves its key to the first. */
static int parse(const struct engine *en, const struct engine_submit *s, bool again, struct prepared *p)
{
	int rc;

	memset(p, 0, sizeof(*p));
	strbuf_init(&p->effective);
	strbuf_init(&p->script);
	strbuf_init(&p->context);
	strbuf_init(&p->errors);
	rc = s->session ? spec_parse_session(s->text, s->len, &p->spec, &p->errors)
			: spec_parse(s->text, s->len, &p->spec, &p->errors);
	if (rc == 0)
		rc = take_place(en, s, p);
	if (rc < 0)
		return rc;
	if (again)
		(void)json_object_del(p->spec, "key");
	p->secrets = json_object();
	(void)spec_take_secrets(p->spec, p->secrets);
	fingerprint(p->spec, p->print);
	return 0;
}

/* Everything else that can be said without submitting; 0 or -EINVAL with the sentences in p->errors. */
static int prepare(struct engine *en, const char *hint, const struct run *as, const struct run *from,
		   struct prepared *p)
{
	struct err e = ERR_INIT;
	int rc;

	rc = config_resolve(en->conf.config, p->spec, hint, &p->eff, &p->errors);
	if (rc == 0)
		rc = engine_secrets_take(&p->eff, p->secrets, &p->errors);
	if (rc == 0)
		rc = job_from_effective(&p->eff, &p->job, &p->errors);
	if (rc == 0)
		rc = check_dependencies(en, as, p);
	if (rc == 0)
		rc = check_session(en, p);
	if (rc == 0)
		rc = engine_inputs_check(en, &p->job, &p->errors);
	if (rc == 0)
		rc = check_paths(en, p);
	if (rc == 0)
		rc = engine_context(en, as, from, &p->job, &p->context, &p->errors);
	if (rc < 0)
		return rc;
	engine_job_place(en, &p->job, NULL, NULL);
	effective_text(&p->eff, &p->effective);
	rc = engine_render(en, as, 1, &p->job, &p->script, &e);
	if (rc < 0)
		strbuf_addstr(&p->errors, e.text);
	return rc;
}

/* A run is where its session is. */
static const char *hint_of(const struct engine_submit *s, const struct prepared *p)
{
	return s->cluster_hint                                     ? s->cluster_hint
	       : p->holder && !json_object_get(p->spec, "cluster") ? p->holder->cluster
								   : NULL;
}

void engine_check(struct engine *en, const char *text, size_t len, const char *cluster_hint, struct strbuf *out,
		  int *code)
{
	const struct engine_submit s = { .text = text, .len = len, .cluster_hint = cluster_hint };
	struct run *as = run_new(en->next_num);
	struct prepared p;

	as->id = xasprintf("%u", as->num);
	*code = parse(en, &s, false, &p);
	if (*code == 0)
		*code = engine_any_check(en, cluster_hint, &p, out);
	if (*code == 1)
		*code = prepare(en, hint_of(&s, &p), as, NULL, &p);
	if (*code == 0 && p.script.len) {
		strbuf_addbuf(out, &p.effective);
		strbuf_addch(out, '\n');
		strbuf_addbuf(out, &p.script);
	} else if (*code < 0) {
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
static json_t *create_data(const struct run *r, const struct prepared *p, size_t spec_len, const char *retry_of)
{
	json_t *d = json_object();
	const char *name = json_string_value(json_object_get(p->spec, "name"));
	const char *key = json_string_value(json_object_get(p->spec, "key"));
	json_t *tags = json_object_get(p->eff.values, "tags");
	json_t *rule = p->job.pipes_messages ? json_object_get(p->eff.values, "pipes_exception") : NULL;

	(void)json_object_set_new(d, "id", json_string(r->id));
	(void)json_object_set_new(d, "cluster", json_string(p->eff.cluster->name));
	if (name)
		(void)json_object_set_new(d, "name", json_string(name));
	(void)json_object_set_new(d, "job_name", json_string(p->job.name)); /* what the scheduler shows */
	if (key)
		(void)json_object_set_new(d, "key", json_string(key));
	if (strcmp(p->job.launcher, "bash") != 0)
		(void)json_object_set_new(d, "launcher", json_string(p->job.launcher));
	for (int k = 0; k < INNER_KINDS; k++)
		if (inner_own(&p->job, (enum inner_kind)k))
			(void)json_object_set_new(d, inner_kinds[k], json_true());
	if (p->job.ray.client_version && inner_own(&p->job, INNER_RAY))
		(void)json_object_set_new(d, "ray_here", json_string(p->job.ray.client_version));
	if (p->job.session)
		(void)json_object_set_new(d, "session", json_string(p->job.session));
	if (p->holder) {
		const json_t *policy = json_object_get(p->eff.values, "on_session_end");

		(void)json_object_set_new(d, "session_run", json_string(p->holder->id));
		if (policy)
			(void)json_object_set(d, "on_session_end", (json_t *)policy);
	}
	if (p->session) {
		(void)json_object_set_new(d, "session_name", json_string(p->name ? p->name : r->id));
		if (p->job.time_s > 0)
			(void)json_object_set_new(d, "session_time", json_integer(p->job.time_s));
	}
	if (tags)
		(void)json_object_set(d, "tags", tags);
	if (retry_of)
		(void)json_object_set_new(d, "retry_of", json_string(retry_of));
	(void)json_object_set_new(d, "merged", json_boolean(p->job.merged));
	if (p->job.hold)
		(void)json_object_set_new(d, "hold", json_true());
	if (p->job.n_secret)
		(void)json_object_set_new(d, "secrets", json_true());
	if (p->job.pipes_messages)
		(void)json_object_set_new(d, "pipes", json_true());
	if (rule)
		(void)json_object_set(d, "pipes_exception", rule);
	(void)json_object_set_new(d, "spec_print", json_string(p->print));
	(void)json_object_set_new(d, "cpus",
				  json_integer((p->job.ntasks > 0 ? p->job.ntasks : 1) *
					       (p->job.cpus_per_task > 0 ? p->job.cpus_per_task : 1)));
	(void)json_object_set_new(d, "spec_len", json_integer((json_int_t)spec_len));
	(void)json_object_set_new(d, "effective_len", json_integer((json_int_t)p->effective.len));
	(void)json_object_set_new(d, "script_len", json_integer((json_int_t)p->script.len));
	(void)json_object_set_new(d, "source", json_string("user"));
	return d;
}

static void add_docs(struct store_txn *t, const struct run *r, const char *text, size_t len, const struct prepared *p)
{
	store_txn_doc(t, r->num, "spec", text, len);
	store_txn_doc(t, r->num, "effective", p->effective.buf, p->effective.len);
	store_txn_doc(t, r->num, "script", p->script.buf, p->script.len);
}

/* The texts, kept apart from the run until they are committed. */
static struct run *hold_docs(const char *text, size_t len, const struct prepared *p)
{
	struct run *docs = run_new(0);

	docs->spec = xmalloc(len + 1);
	memcpy(docs->spec, text, len);
	docs->spec[len] = '\0';
	docs->spec_len = len;
	docs->effective = dup_text(&p->effective);
	docs->effective_len = p->effective.len;
	docs->script = dup_text(&p->script);
	docs->script_len = p->script.len;
	return docs;
}

static void move_docs(struct run *to, struct run *docs)
{
	if (!docs)
		return;
	to->spec = docs->spec;
	to->effective = docs->effective;
	to->script = docs->script;
	docs->spec = docs->effective = docs->script = NULL;
}

/* The run is not yet what the event makes of it. */
static void feed_creation(struct store_txn *t, const struct run *r, const struct event *ev)
{
	struct run *now = engine_foresee(r, ev);

	if (now)
		engine_feed_status(t, now, r->n_history);
	run_free(now);
}

/* The rows that make a run, in one transaction; the answer comes by engine_created. */
static void post_create(struct engine *en, struct erun *er, struct event *ev, const struct submission *sub,
			const struct prepared *p)
{
	const struct engine_submit *s = sub->s;
	struct run *r = er->r;
	const char *key = event_str(ev, "key");
	struct pending *pend;
	struct store_txn *t;
	uint64_t ticket;
	json_t *summary;

	pend = engine_pending(en, PENDING_CREATE, r->num, &ticket);
	pend->ev = ev;
	pend->done = sub->cb;
	pend->drop = sub->drop;
	pend->arg = sub->arg;
	pend->request = s->request;
	pend->uid = s->uid;
	pend->result = xstrdup(r->id);
	pend->docs = p ? hold_docs(s->text, s->len, p) : NULL;
	t = store_txn_new(ticket, true);
	summary = run_summary(r);
	store_txn_summary(t, r->num, r->id, true, summary);
	json_decref(summary);
	store_txn_event(t, r->num, ev);
	feed_creation(t, r, ev);
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
	en->n_creating++;
	er->in_flight = true;
	(void)snprintf(er->creating, sizeof(er->creating), "%s", p ? p->print : "");
	store_post(en->store, t);
}

static char **dup_after(char *const *after)
{
	size_t n = 0;
	char **copy;

	while (after && after[n])
		n++;
	copy = xcalloc(n + 1, sizeof(*copy));
	for (size_t i = 0; i < n; i++)
		copy[i] = xstrdup(after[i]);
	return copy;
}

static void drop_after(struct erun *er)
{
	for (char **d = er->after; d && *d; d++)
		free(*d);
	free(er->after);
	er->after = NULL;
	engine_inputs_release(er);
}

static void not_created(struct engine *en, struct erun *er, struct pending *p, int code)
{
	const char *why = code == -ENOSPC
				  ? "the journal's disk is full: nothing was submitted; free space and write it again"
				  : "the journal could not be written: nothing was submitted";
	struct strbuf files = STRBUF_INIT;

	if (p->docs)
		engine_note_rejected(en, p->uid, p->docs->spec, p->docs->spec_len, why);
	key_drop(en, event_str(p->ev, "key"));
	drop_after(er);
	engine_secrets_forget(en, er->r->num);
	p->done(p->arg, code, why);
	waiters_answer(en, &er->created, code, why);
	if (er->visible)
		return; /* a draft stays one */
	engine_files_dir(en, er->r->num, &files);
	engine_remove_tree(files.buf);
	strbuf_release(&files);
	(void)spool_remove(en->spool_dir, er->r->num);
	engine_remove(en, er);
	erun_free(er);
}

void engine_created(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);
	struct run *r = er->r;

	er->in_flight = false;
	en->n_creating--;
	er->creating[0] = '\0';
	if (code < 0) {
		not_created(en, er, p, code);
		pending_free(p);
		return;
	}
	if (!er->visible)
		str_set(&r->id, NULL); /* the event brings it */
	er->visible = true;
	(void)run_apply(r, p->ev);
	move_docs(r, p->docs);
	engine_remember(en, p->request, p->result);
	point(POINT_ENGINE_CREATED);
	if (r->status != RUN_DRAFT)
		en->last = r->num;
	engine_session_created(en, er);
	engine_act(en, er);
	p->done(p->arg, 0, r->id);
	waiters_answer(en, &er->created, 0, r->id);
	point(POINT_ENGINE_ACCEPTED);
	engine_changed(en, er);
	pending_free(p);
}

/* The same spec again is answered when the first is committed, and like it. */
static void follow(struct engine *en, struct erun *er, engine_done cb, void *arg)
{
	if (*er->creating)
		waiter_add(en, &er->created, cb, arg);
	else
		cb(arg, 0, er->r->id);
}

static void refuse(struct engine *en, const struct submission *sub, int code, const char *why)
{
	engine_refuse(en, sub->s->uid, sub->s->text, sub->s->len, why, code, sub->cb, sub->arg);
}

/* The same key again: the run it made when the spec is the same, else -EEXIST. Returns 1 when there is no such key. */
static int known_key(struct engine *en, const struct submission *sub, const struct erun *draft,
		     const struct prepared *p)
{
	const char *key = json_string_value(json_object_get(p->spec, "key"));
	const char *value = key ? key_find(en, key) : NULL;
	const char *blank = value ? strchr(value, ' ') : NULL;
	cleanup_free char *id = NULL;
	char text[600];
	struct erun *er;

	if (!blank)
		return 1;
	id = xstrndup(value, (size_t)(blank - value));
	er = engine_find_id(en, id);
	if (draft || strcmp(blank + 1, p->print) != 0) {
		(void)snprintf(text, sizeof(text), "key '%s' was used by run %s%s: choose another key", key, id,
			       draft ? "" : " for another spec");
		refuse(en, sub, -EEXIST, text);
	} else if (er) {
		follow(en, er, sub->cb, sub->arg);
	} else { /* purged: a key outlives its run */
		sub->cb(sub->arg, 0, id);
	}
	return 0;
}

/* Into a draft, or once more into what was a draft. Returns 1 when the caller should go on. */
static int draft_allows(struct engine *en, const struct submission *sub, struct erun *er, const struct prepared *p)
{
	const char *print = run_fact(er->r, "spec_print");

	if (er->r->status == RUN_DRAFT && !er->in_flight)
		return 1;
	if (er->r->status == RUN_DRAFT && strcmp(er->creating, p->print) != 0)
		refuse(en, sub, -EBUSY, "another spec for this draft is being written at this moment");
	else if (er->r->status == RUN_DRAFT || (print && strcmp(print, p->print) == 0))
		follow(en, er, sub->cb, sub->arg);
	else
		refuse(en, sub, -EEXIST,
		       er->session ? "the session was begun with another spec: end it first, or take another name"
				   : "this run was submitted with another spec: make a new run for this one");
	return 0;
}

/* What was neither refused nor known: a new run, or the draft `er`. Takes `fresh`. */
static void create(struct engine *en, const struct submission *sub, struct erun *er, struct run *fresh,
		   const struct prepared *p)
{
	const struct engine_submit *s = sub->s;
	struct err e = ERR_INIT;
	json_t *d;

	if (engine_secrets_write(en, er ? er->r->num : fresh->num, p->secrets, &e) < 0 ||
	    engine_context_write(en, er ? er->r : fresh, &p->job, &p->context, &e) < 0) {
		refuse(en, sub, e.code, e.text);
		run_free(fresh);
		return;
	}
	if (!er) {
		if (sub->retry_of && engine_link_files(en, sub->retry_of->num, fresh->num, &e) < 0) {
			sub->cb(sub->arg, e.code, e.text);
			run_free(fresh);
			return;
		}
		er = erun_new(fresh);
		en->next_num++;
		engine_add(en, er);
	}
	if (p->session)
		engine_session_named(er, p->name ? p->name : er->r->id);
	drop_after(er);
	er->after = dup_after(p->job.after); /* seen at once by a spec that would close a circle with it */
	d = create_data(er->r, p, s->len, sub->retry_of ? sub->retry_of->id : NULL);
	post_create(en, er, event_new(EV_CREATE, clock_real(en->clock), d), sub, p);
}

/* A session of this name is there: the same one again is that one. Returns 1 when there is none. */
static int attach(struct engine *en, const struct submission *sub, const struct erun *er, const struct prepared *p)
{
	const char *name = !p->session ? NULL : p->name ? p->name : er && !er->session ? er->r->id : NULL;
	struct erun *live = name ? engine_session_live(en, name, er) : NULL;
	const char *print = live ? run_fact(live->r, "spec_print") : NULL;
	char text[400];

	if (!live)
		return 1;
	if (!er && strcmp(*live->creating ? live->creating : print ? print : "", p->print) == 0) {
		follow(en, live, sub->cb, sub->arg);
		return 0;
	}
	(void)snprintf(
		text, sizeof(text),
		live->r->status == RUN_DRAFT
			? "the session %s is a draft: write its spec to sessions/%s/spec"
			: "the session %s is there already, with another spec: end it first, or take another name",
		name, name);
	refuse(en, sub, -EEXIST, text);
	return 0;
}

/* What has ended leaves its name to the next: its spec written again begins that. */
static bool begins_next(const struct engine_submit *s, const struct erun *er)
{
	return s->session && er && er->session && !run_is_live(er->r);
}

void engine_submit_one(struct engine *en, const struct submission *whole)
{
	cleanup_strbuf struct strbuf kept = STRBUF_INIT;
	struct engine_submit shown = *whole->s; /* as it may be kept */
	struct submission with = *whole, *sub = &with;
	const struct engine_submit *s = &shown;
	struct erun *er = s->draft ? engine_find(en, s->draft) : NULL;
	struct run *fresh = NULL;
	struct prepared p;
	int rc;

	if (s->draft && (!er || !er->visible || er->purging)) {
		sub->cb(sub->arg, -ENOENT, "this run was purged");
		return;
	}
	if (begins_next(s, er))
		er = NULL;
	if (!er) {
		fresh = run_new(en->next_num);
		fresh->id = xasprintf("%u", fresh->num);
	}
	rc = parse(en, s, sub->retry_of != NULL, &p);
	if (spec_redact(s->text, s->len, &kept) != SPEC_AS_IT_IS) {
		shown.text = kept.buf;
		shown.len = kept.len;
		spec_redact_why(&p.errors);
	}
	with.s = &shown;
	if (rc < 0) {
		refuse(en, sub, rc, p.errors.buf);
	} else if ((!er || draft_allows(en, sub, er, &p)) && known_key(en, sub, er, &p) && attach(en, sub, er, &p) &&
		   engine_any(en, whole, sub, &p)) {
		rc = prepare(en, hint_of(s, &p), er ? er->r : fresh, sub->retry_of, &p);
		if (rc < 0) {
			refuse(en, sub, rc, p.errors.buf);
		} else {
			create(en, sub, er, fresh, &p);
			fresh = NULL;
		}
	}
	run_free(fresh);
	prepared_release(&p);
}

void engine_submit(struct engine *en, const struct engine_submit *s, engine_done cb, void *arg)
{
	const struct submission sub = { s, NULL, cb, arg, NULL };
	const char *known = engine_recall(en, s->request);

	if (known)
		cb(arg, 0, known);
	else
		engine_submit_one(en, &sub);
}

void engine_submit_again(struct engine *en, const struct engine_submit *s, uint32_t retry_of,
			 const struct own_call *call)
{
	const struct run *old = engine_run(en, retry_of);
	const bool session = old && engine_is_session(old);
	const struct engine_submit as = { .text = s->text,
					  .len = s->len,
					  .draft = s->draft,
					  .cluster_hint = s->cluster_hint,
					  .request = s->request,
					  .uid = s->uid,
					  .session = session,
					  .session_name = session && strcmp(engine_session_name(old), old->id) != 0
								  ? engine_session_name(old)
								  : NULL };
	const struct submission sub = { &as, old, call->done, call->arg, call->drop };

	if (old)
		engine_submit_one(en, &sub);
	else
		call->done(call->arg, -ENOENT, "the run was purged");
}

/* --- drafts --- */

void engine_session_draft(struct engine *en, const char *name, uint64_t request, engine_done cb, void *arg)
{
	const struct engine_submit s = { .request = request };
	const struct submission sub = { &s, NULL, cb, arg, NULL };
	const char *known = engine_recall(en, request);
	struct err e = ERR_INIT;
	struct erun *er;
	struct run *r;

	if (known) {
		cb(arg, 0, known);
		return;
	}
	if (!spec_name_ok(name, &e)) {
		cb(arg, -EINVAL, e.text);
		return;
	}
	if (engine_session_live(en, name, NULL) || engine_session(en, name)) {
		cb(arg, -EEXIST, "a session of this name is there already: rmdir removes one that has ended");
		return;
	}
	r = run_new(en->next_num++);
	r->id = xasprintf("%u", r->num);
	er = erun_new(r);
	engine_session_named(er, name);
	engine_add(en, er);
	post_create(en, er,
		    event_new(EV_DRAFT, clock_real(en->clock),
			      json_pack("{s:s, s:s, s:s, s:s}", "id", r->id, "source", "user", "launcher", "session",
					"session_name", name)),
		    &sub, NULL);
}

void engine_draft(struct engine *en, const char *name, uint64_t request, engine_done cb, void *arg)
{
	const struct engine_submit s = { .request = request };
	const struct submission sub = { &s, NULL, cb, arg, NULL };
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
	post_create(en, er,
		    event_new(EV_DRAFT, clock_real(en->clock), json_pack("{s:s, s:s}", "id", name, "source", "user")),
		    &sub, NULL);
}
