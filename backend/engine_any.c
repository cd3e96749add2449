/*
 * session=any: a run that names what it wants of a session and not which. What it wants is a session's spec; one that
 * is there and fits is taken, else one is made, and the run is submitted into it when its creation is in the journal.
 */
#include "backend/engine_submit.h"

#include "backend/base/mem.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A run that goes on when the session that was made for it is in the journal. */
struct any_call {
	struct engine *en;
	struct engine_submit s;
	uint32_t retry_of;
	char *text, *hint;
	engine_done cb;
	void *arg;
	void (*drop)(void *arg);
};

static void any_free(struct any_call *c)
{
	explicit_bzero(c->text, c->s.len); /* it may hold secrets */
	free(c->text);
	free(c->hint);
	free(c);
}

static void any_drop(void *arg)
{
	struct any_call *c = arg;

	if (c->drop)
		c->drop(c->arg);
	any_free(c);
}

static void any_made(void *arg, int code, const char *text)
{
	struct any_call *c = arg;
	const struct run *session = code == 0 ? engine_run_by_id(c->en, text) : NULL;
	const struct submission sub = { &c->s, c->retry_of ? engine_run(c->en, c->retry_of) : NULL, c->cb, c->arg,
					c->drop };

	if (session) {
		c->s.into = session->num;
		engine_submit_one(c->en, &sub);
	} else {
		c->cb(c->arg, code < 0 ? code : -ENOENT, code < 0 ? text : "the session was purged");
	}
	any_free(c);
}

/* What the run wants of a session, as a session's spec; what is the run's own stays with it. */
static json_t *session_part(json_t *spec)
{
	static const char *const steps[] = { "dependency", "ntasks", "cpus_per_task" };
	static const char *const shared[] = { "cluster", "profile", "setup", "environment", "idle", "max_steps" };
	json_t *out = json_object();

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		json_t *v = json_object_get(spec, k->name);
		bool own = !(k->flags & (SPEC_SBATCH | SPEC_PLACEMENT)) || (k->flags & SPEC_RUN_IDS), both = false;

		for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
			both |= strcmp(steps[i], k->name) == 0;
		for (size_t i = 0; i < ARRAY_SIZE(shared); i++)
			if (strcmp(shared[i], k->name) == 0)
				own = false, both = true;
		if (!v || own || strcmp(k->name, "name") == 0 || strcmp(k->name, "dependency") == 0)
			continue;
		(void)json_object_set(out, k->name, v);
		if (!both)
			(void)json_object_del(spec, k->name);
	}
	(void)json_object_del(spec, "idle");
	(void)json_object_del(spec, "max_steps");
	(void)json_object_set_new(out, "launcher", json_string("session"));
	return out;
}

static int tolerance_of(const json_t *spec, double *out, struct strbuf *errors)
{
	const char *text = json_string_value(json_object_get(spec, "reuse_tolerance"));
	char *end = NULL;

	*out = text ? strtod(text, &end) : 0;
	if (text && (!*text || *end || !(*out >= 0 && *out <= 1000)))
		return strbuf_complain(errors, "reuse_tolerance: a number such as 0.15, not '%s'", text);
	return 0;
}

static bool is_any(const struct prepared *p)
{
	const char *said = json_string_value(json_object_get(p->spec, "session"));

	return !p->session && !p->holder && said && strcmp(said, "any") == 0;
}

/* Takes the session's part out of the run's spec and looks for one that fits: p->holder. `want` is what it should be.
 */
static int choose(struct engine *en, const char *hint, uint32_t into, struct prepared *p, json_t **part,
		  struct effective *want)
{
	double tolerance;
	int rc;

	*part = session_part(p->spec);
	rc = tolerance_of(p->spec, &tolerance, &p->errors);
	if (rc == 0)
		rc = config_resolve(en->conf.config, *part, hint, want, &p->errors);
	if (rc < 0)
		return rc;
	p->holder = into ? engine_run(en, into) : engine_session_fitting(en, want, tolerance);
	(void)json_object_del(*part, "launcher"); /* that goes without saying */
	(void)json_object_del(p->spec, "reuse_tolerance");
	if (p->holder)
		(void)json_object_set_new(p->spec, "session",
					  json_string(engine_session_current(en, p->holder)
							      ? engine_session_name(p->holder)
							      : p->holder->id));
	return 0;
}

/* Beside what the session would be, what of the spec is the run's. */
static void show_own(json_t *spec, json_t *tolerance, struct effective *want)
{
	const char *name;
	json_t *v;

	if (tolerance)
		(void)json_object_set(spec, "reuse_tolerance", tolerance);
	json_object_foreach (spec, name, v) {
		if (json_object_get(want->values, name) && strcmp(name, "session") != 0)
			continue;
		(void)json_object_set(want->values, name, v);
		(void)json_object_set_new(want->sources, name, json_string("spec"));
	}
}

int engine_any_check(struct engine *en, const char *hint, struct prepared *p, struct strbuf *out)
{
	json_t *part = NULL, *tolerance = json_incref(json_object_get(p->spec, "reuse_tolerance"));
	struct effective want = { 0 };
	int rc = 1;

	if (is_any(p)) {
		rc = choose(en, hint, 0, p, &part, &want);
		if (rc == 0 && p->holder)
			rc = 1;
		if (rc == 0) {
			show_own(p->spec, tolerance, &want);
			effective_text(&want, out);
			strbuf_addstr(out, "\n# no session that is there fits: this one would be made, and the run "
					   "would start in it\n");
		}
		if (want.values)
			effective_release(&want);
	}
	json_decref(part);
	json_decref(tolerance);
	return rc;
}

/* A session is made first, and the run goes on when it is in the journal. */
static void make(struct engine *en, const struct submission *whole, const struct submission *sub, const json_t *part)
{
	struct any_call *c = xcalloc(1, sizeof(*c));
	const struct own_call call_of = { any_made, any_drop, c };
	cleanup_free char *doc = json_dumps(part, 0);
	struct engine_submit s = { .text = doc, .len = strlen(doc), .session = true, .uid = sub->s->uid };
	const struct submission made = { &s, NULL, call_of.done, call_of.arg, call_of.drop };

	c->en = en;
	c->s = *whole->s;
	c->text = xmalloc(whole->s->len);
	memcpy(c->text, whole->s->text, whole->s->len);
	c->retry_of = sub->retry_of ? sub->retry_of->num : 0;
	c->cb = sub->cb;
	c->arg = sub->arg;
	c->drop = sub->drop;
	c->hint = sub->s->cluster_hint ? xstrdup(sub->s->cluster_hint) : NULL;
	c->s.text = c->text;
	c->s.cluster_hint = c->hint;
	s.cluster_hint = c->hint;
	engine_submit_one(en, &made);
}

int engine_any(struct engine *en, const struct submission *whole, const struct submission *sub, struct prepared *p)
{
	struct effective want = { 0 };
	json_t *part = NULL;
	int rc;

	if (!is_any(p))
		return 1;
	rc = choose(en, sub->s->cluster_hint, sub->s->into, p, &part, &want);
	if (rc < 0)
		engine_refuse(en, sub->s->uid, sub->s->text, sub->s->len, p->errors.buf, rc, sub->cb, sub->arg);
	else if (!p->holder)
		make(en, whole, sub, part);
	if (want.values)
		effective_release(&want);
	json_decref(part);
	return rc == 0 && p->holder;
}
