/*
 * The cluster kind "ray": a Ray cluster that is there, or one that is booted here on demand, spoken to by its Jobs REST
 * API. This file owns the thread, the link, the table of runs and requests with a ticket.
 *
 * Invariants: the thread waits in http_wait only; nothing is said of a run that a request which came in vain could have
 * said: that makes the link doubtful, and after a while runs `unknown`.
 */
#include "backend/ray.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SEC ((int64_t)USEC_PER_SEC)
#define VERSION_LIVE (2 * SEC) /* how often the head is asked who it is, with runs and without */
#define VERSION_IDLE (15 * SEC)
#define RETRY_MAX (8 * SEC)
#define REFUSED_AGAIN (30 * SEC) /* the token may be replaced */
#define UNKNOWN_AFTER (30 * SEC)

/* --- reporting --- */

void ray_event(struct cluster *c, const struct ray_run *r, enum event_type type, const char *source, json_t *data)
{
	struct crep *rep = crep_new(CREP_EVENT, c);

	if (!data)
		data = json_object();
	(void)json_object_set_new(data, "attempt", json_integer((json_int_t)r->attempt));
	(void)json_object_set_new(data, "source", json_string(source));
	rep->run = r->run;
	rep->ev = event_new(type, clock_real(c->ctx.clock), data);
	inbox_post(c->ctx.replies, &rep->m);
}

void ray_reply(struct cluster *c, uint64_t ticket, int code, const char *text, const char *data, size_t len)
{
	struct crep *rep;

	if (!ticket)
		return;
	rep = crep_new(CREP_REPLY, c);
	rep->ticket = ticket;
	rep->code = code;
	rep->text = xstrdup(text ? text : "");
	if (data) {
		rep->data = xmalloc(len + 1);
		memcpy(rep->data, data, len);
		rep->data[len] = '\0';
		rep->len = len;
	}
	inbox_post(c->ctx.replies, &rep->m);
}

static void say_link(struct cluster *c, bool up, bool asking, const char *text)
{
	struct crep *rep;

	if (c->said && c->up == up && strcmp(c->link_text, text) == 0)
		return;
	c->said = true;
	c->up = up;
	(void)snprintf(c->link_text, sizeof(c->link_text), "%s", text);
	rep = crep_new(CREP_LINK, c);
	rep->up = up;
	rep->asking = asking;
	rep->text = xstrdup(text);
	inbox_post(c->ctx.replies, &rep->m);
}

/* --- addresses --- */

char *ray_url(const struct cluster *c, const char *path)
{
	return xasprintf("%s%s", c->base ? c->base : "", path);
}

char *ray_attempt_url(const struct cluster *c, const char *agent, uint32_t run, uint32_t attempt, const char *name)
{
	struct strbuf url = STRBUF_INIT;

	strbuf_addf(&url, "%s/logs/slurmray/%s/", agent, c->ctx.uuid);
	if (run)
		strbuf_addf(&url, "runs/%u/a%u/", run, attempt);
	http_add_path(&url, name);
	return strbuf_detach(&url, NULL);
}

int64_t ray_pace(const struct cluster *c, int64_t us)
{
	return us + us * (int64_t)(c->runs.count / 4);
}

static char *note_path(const struct cluster *c, uint32_t run, uint32_t attempt)
{
	return xasprintf("%s/%u/ray.a%u", c->spool_dir, run, attempt);
}

void ray_note(const struct cluster *c, const struct ray_run *r)
{
	cleanup_free char *path = note_path(c, r->run, r->attempt), *tmp = xasprintf("%s.tmp", path);
	cleanup_free char *dir = xasprintf("%s/%u", c->spool_dir, r->run);
	cleanup_free char *text = xasprintf("%s\n%s\n", r->session ? r->session : "", r->agent ? r->agent : "");
	cleanup_close int fd = -1;

	(void)mkdir(dir, 0700);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd) < 0 || rename(tmp, path) < 0)
		log_warn("run %u: where it is cannot be noted: %s", r->run, strerror(errno));
}

bool ray_noted(const struct cluster *c, uint32_t run, uint32_t attempt, char **session, char **agent)
{
	cleanup_free char *path = note_path(c, run, attempt);
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	size_t first, second;

	*session = *agent = NULL;
	if (strbuf_read_file(&sb, path, 4096) < 0)
		return false;
	first = strcspn(sb.buf, "\n");
	second = strcspn(sb.buf + first + (sb.buf[first] != '\0'), "\n");
	*session = first ? xstrndup(sb.buf, first) : NULL;
	*agent = second ? xstrndup(sb.buf + first + 1, second) : NULL;
	return true;
}

/* --- runs --- */

static struct ray_run *find(const struct cluster *c, uint32_t run, uint64_t serial)
{
	struct hmap_node *n = hmap_first(&c->runs, hash_u64(run));

	for (; n; n = hmap_next(n)) {
		struct ray_run *r = container_of(n, struct ray_run, node);

		if (r->run == run && (!serial || r->serial == serial))
			return r;
	}
	return NULL;
}

static void forget(struct cluster *c, struct ray_run *r)
{
	hmap_remove(&c->runs, &r->node);
	ray_run_free(r);
}

struct asked {
	struct cluster *c;
	uint32_t run;
	uint64_t serial;
	int what;
	ray_cb cb;
};

static void on_answer(void *arg, const struct http_answer *a)
{
	struct asked *q = arg;
	struct ray_run *r = q->c->stopping ? NULL : find(q->c, q->run, q->serial);

	q->c->now = clock_mono(q->c->ctx.clock);
	if (r)
		q->cb(q->c, r, q->what, a);
	free(q);
}

void ray_send(struct cluster *c, struct ray_run *r, const struct http_request *rq, ray_cb cb, int what)
{
	struct asked *q = xmalloc(sizeof(*q));

	*q = (struct asked){ c, r->run, r->serial, what, cb };
	http_send(c->http, rq, on_answer, q);
}

/* --- the link --- */

static void each_run(struct cluster *c, void (*f)(struct cluster *, struct ray_run *))
{
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n; n = hmap_walk(&c->runs, n))
		f(c, container_of(n, struct ray_run, node));
}

static void say_unknown(struct cluster *c, struct ray_run *r)
{
	if (r->phase != RAYRUN_LIVE || r->said_unknown)
		return;
	r->said_unknown = true;
	ray_event(c, r, EV_UNKNOWN, "ray", json_pack("{s:s}", "why", c->link_text));
}

static void say_known(struct cluster *c, struct ray_run *r)
{
	if (r->said_unknown)
		ray_event(c, r, EV_KNOWN, "ray", NULL);
	r->said_unknown = false;
	r->status_at = r->act_at = 0;
}

static void link_trouble(struct cluster *c, const char *text)
{
	int64_t wait = (SEC / 4) << (c->failures < 5 ? c->failures : 5);

	if (c->here && ray_local_booting(c->here)) {
		c->version_at = c->now + SEC / 4;
		say_link(c, false, true, "the Ray cluster of this machine is starting");
		return;
	}
	c->failures++;
	if (c->here && c->failures > 2) { /* it may have ended, or have another place */
		c->reopen = true;
		wait = SEC;
	}
	if (!c->failing_since)
		c->failing_since = c->now;
	c->version_at = c->now + (wait > RETRY_MAX ? RETRY_MAX : wait);
	if (c->failures > 1 || !c->said) /* one alone may be a connection that was cut */
		say_link(c, false, true, text);
	if (c->now - c->failing_since > UNKNOWN_AFTER)
		each_run(c, say_unknown);
}

static void link_refused(struct cluster *c, int status)
{
	const struct cluster_conf *k = c->ctx.conf;
	char text[400];

	c->refused = true;
	c->version_at = c->now + REFUSED_AGAIN;
	(void)snprintf(text, sizeof(text), "the Ray head %s (HTTP status %d): %s",
		       status == 401 ? "wants a token" : "refuses the token", status,
		       k->token || k->token_file
			       ? "mend token or token_file, then write `reconnect` into clusters/NAME/ctl"
			       : "give token_file = FILE in the cluster's section (the cluster's "
				 "~/.ray/auth_token)");
	say_link(c, false, false, text);
}

bool ray_link_answer(struct cluster *c, const struct http_answer *a)
{
	if (a->code) {
		if (c->version_at > c->now && !c->failing_since)
			c->version_at = 0; /* is it the link? */
		return true;
	}
	if (a->status == 401 || a->status == 403) {
		link_refused(c, a->status);
		return true;
	}
	return false;
}

static void on_version(void *arg, const struct http_answer *a)
{
	cleanup_free char *session = NULL, *version = NULL, *text = NULL;
	struct cluster *c = arg;
	struct err e = ERR_INIT;

	c->version_busy = false;
	c->now = clock_mono(c->ctx.clock);
	if (c->stopping)
		return;
	if (a->status == 401 || a->status == 403) {
		link_refused(c, a->status);
		return;
	}
	if (a->code || a->status != 200 || ray_version_parse(a->body, a->len, &session, &version, &e) < 0) {
		text = a->code ? xasprintf("%s: %s", c->base, a->text)
			       : xasprintf("%s: %s (HTTP status %d)", c->base,
					   *e.text ? e.text : "no answer of a Ray head", a->status);
		link_trouble(c, text);
		return;
	}
	if (c->here && (!c->up || !c->session) && ray_local_booting(c->here) && !ray_local_ready(c->here)) {
		link_trouble(c, "");
		return;
	}
	if (c->session && strcmp(c->session, session) != 0)
		log_info("cluster %s: the Ray head was restarted: %s, before it %s", c->ctx.conf->name, session,
			 c->session);
	str_set(&c->session, session);
	str_set(&c->version, version);
	c->refused = false;
	c->failing_since = 0;
	c->failures = 0;
	c->version_at = c->now + (c->runs.count ? VERSION_LIVE : VERSION_IDLE);
	text = xasprintf("Ray %s at %s", version, c->base);
	if (!c->up)
		each_run(c, say_known);
	say_link(c, true, true, text);
}

/* The cluster of this machine: there, booted, or waiting for the first run. */
static bool open_here(struct cluster *c)
{
	cleanup_free char *address = NULL, *token = NULL;
	struct err e = ERR_INIT;
	int rc = ray_local_place(c->here, c->ctx.conf->start, c->runs.count > 0, &address, &token, &e);
	const struct http_conf conf = { .token = token };

	if (rc == 0)
		rc = http_new(&conf, &c->http, &e);
	if (rc == 0) {
		free(c->base);
		c->base = address;
		address = NULL;
		return true;
	}
	c->version_at = c->now + SEC;
	if (rc == -EAGAIN)
		say_link(c, true, true, "no Ray cluster is here; the first run starts one");
	else
		say_link(c, false, true, e.text);
	return false;
}

/* Anew each time that a token was refused, so that a replaced file counts. */
static bool open_http(struct cluster *c)
{
	const struct cluster_conf *k = c->ctx.conf;
	cleanup_strbuf struct strbuf token = STRBUF_INIT;
	struct http_conf conf = { .token = k->token, .headers = k->headers, .ca_file = k->ca_file };
	struct err e = ERR_INIT;
	char *base;

	if (k->token_file && strncmp(k->token_file, "~/", 2) == 0) {
		cleanup_free char *path = xasprintf("%s%s", getenv("HOME") ? getenv("HOME") : "", k->token_file + 1);

		(void)strbuf_read_file(&token, path, 65536);
	} else if (k->token_file) {
		(void)strbuf_read_file(&token, k->token_file, 65536);
	}
	if (k->token_file) {
		strbuf_setlen(&token, strcspn(token.buf, " \t\r\n"));
		if (!token.len) {
			cleanup_free char *text = xasprintf("token_file: there is no token in %s", k->token_file);

			c->version_at = c->now + REFUSED_AGAIN;
			say_link(c, false, false, text);
			return false;
		}
		conf.token = token.buf;
	}
	if (c->here)
		return open_here(c);
	base = http_base(k->address, &e);
	if (!base || http_new(&conf, &c->http, &e) < 0) {
		free(base);
		c->version_at = c->now + REFUSED_AGAIN;
		say_link(c, false, false, e.text);
		return false;
	}
	free(c->base);
	c->base = base;
	return true;
}

static void link_step(struct cluster *c)
{
	cleanup_free char *url = NULL;

	if (c->here && c->runs.count)
		ray_local_wanted(c->here, c->now);
	if (c->version_busy || c->version_at > c->now)
		return;
	if ((c->refused || c->reopen) && c->http && !http_open(c->http)) {
		c->reopen = false;
		http_free(c->http);
		c->http = NULL;
	}
	if (!c->http && !open_http(c))
		return;
	url = ray_url(c, "/api/version");
	c->version_busy = true;
	http_send(c->http, &(struct http_request){ .method = "GET", .url = url, .deadline_ms = 5000 }, on_version, c);
}

/* --- requests --- */

static void on_submit(struct cluster *c, struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (r && r->attempt == q->attempt)
		return;
	if (r)
		forget(c, r);
	r = ray_run_new(c, q);
	hmap_insert(&c->runs, &r->node, hash_u64(r->run));
	if (!c->http)
		c->version_at = 0;
}

static void on_verb(struct cluster *c, const struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (!r || r->phase == RAYRUN_ENDED || r->phase == RAYRUN_DONE || r->phase == RAYRUN_DRAIN) {
		ray_reply(c, q->ticket, -ESRCH, "the job has ended", NULL, 0);
	} else if (strcmp(q->verb, "cancel") == 0) {
		r->cancel_wanted = true;
		r->stop_at = 0;
		r->act_at = 0;
		ray_reply(c, q->ticket, 0, "Ray is told to stop it", NULL, 0);
	} else if (strcmp(q->verb, "refresh") == 0) {
		r->status_at = r->record_at = r->act_at = 0;
		ray_reply(c, q->ticket, 0, "", NULL, 0);
	} else {
		ray_reply(c, q->ticket, -EINVAL,
			  "Ray's Jobs API cannot do this: on a cluster of type ray there are cancel and refresh", NULL,
			  0);
	}
}

struct probe {
	struct cluster *c;
	uint64_t ticket;
	bool queue;
};

static void on_probe_answer(void *arg, const struct http_answer *a)
{
	struct probe *p = arg;
	json_t *rows = a->status != 200 ? NULL
		       : p->queue       ? ray_jobs_rows(a->body, a->len)
					: ray_nodes_rows(a->body, a->len);
	char *text = rows ? json_dumps(rows, JSON_INDENT(1)) : NULL;

	if (text)
		ray_reply(p->c, p->ticket, 0, NULL, text, strlen(text));
	else
		ray_reply(p->c, p->ticket, -EHOSTUNREACH, a->code ? a->text : "the Ray head does not say", NULL, 0);
	free(text);
	json_decref(rows);
	free(p);
}

static void on_probe(struct cluster *c, const struct creq *q)
{
	const char *what = q->arg ? q->arg : "";
	bool queue = strcmp(what, "queue") == 0;
	json_t *doc = NULL;
	char *text;

	if (strcmp(what, "info") == 0)
		doc = json_pack("{s:s, s:s, s:s, s:s}", "type", "ray", "address", c->base ? c->base : "-",
				"ray_version", c->version ? c->version : "-", "session_name",
				c->session ? c->session : "-");
	else if (!queue && strcmp(what, "nodes") != 0)
		doc = json_array();
	if (doc) {
		text = json_dumps(doc, JSON_INDENT(1));
		ray_reply(c, q->ticket, 0, NULL, text, strlen(text));
		free(text);
		json_decref(doc);
	} else if (!c->http || !c->up) {
		ray_reply(c, q->ticket, -EHOSTUNREACH, c->link_text, NULL, 0);
	} else {
		cleanup_free char *url = ray_url(c, queue ? "/api/jobs/" : "/api/v0/nodes?limit=10000&detail=1");
		struct probe *p = xmalloc(sizeof(*p));

		*p = (struct probe){ c, q->ticket, queue };
		http_send(c->http, &(struct http_request){ .method = "GET", .url = url, .deadline_ms = 20000 },
			  on_probe_answer, p);
	}
}

static void nothing(void *arg, const struct http_answer *a)
{
	(void)arg;
	(void)a;
}

/* Ray's record of it; the files go with its session. */
static void on_forget(struct cluster *c, const struct creq *q)
{
	cleanup_free char *sid = q->token ? ray_submission_id(q->token) : NULL;
	cleanup_free char *path = sid ? xasprintf("/api/jobs/%s", sid) : NULL, *url = path ? ray_url(c, path) : NULL;
	struct ray_run *r = find(c, q->run, 0);

	if (r)
		forget(c, r);
	if (url && c->http && c->up)
		http_send(c->http, &(struct http_request){ .method = "DELETE", .url = url, .deadline_ms = 10000 },
			  nothing, NULL);
	if (q->ticket)
		ray_reply(c, q->ticket, url && !c->up ? -EHOSTUNREACH : 0, "", NULL, 0);
}

static void on_hot(struct cluster *c, const struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (!r)
		return;
	r->hot_until = c->now + 30 * SEC;
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].next_at = 0;
}

static void handle(struct cluster *c, struct creq *q)
{
	switch (q->m.type) {
	case CREQ_SUBMIT:
	case CREQ_WATCH:
		on_submit(c, q);
		break;
	case CREQ_FORGET:
		on_forget(c, q);
		break;
	case CREQ_VERB:
		on_verb(c, q);
		break;
	case CREQ_HOT:
		on_hot(c, q);
		break;
	case CREQ_LIST:
		ray_files_list(c, q);
		break;
	case CREQ_READ:
		ray_files_read(c, q);
		break;
	case CREQ_MANIFEST:
		ray_files_manifest(c, q);
		break;
	case CREQ_PROBE:
		on_probe(c, q);
		break;
	case CREQ_RECONNECT:
		c->version_at = 0;
		c->failures = 0;
		break;
	default:
		if (q->ticket)
			ray_reply(c, q->ticket, -EINVAL, "a cluster of type ray cannot do this", NULL, 0);
		break;
	}
}

static void take_requests(struct cluster *c)
{
	struct list in = LIST_INIT(in);
	struct list *n;

	inbox_take(&c->inbox, &in);
	while ((n = list_pop(&in))) {
		struct msg *m = container_of(n, struct msg, node);

		if (m->type == 0)
			c->stopping = true;
		else if (c->stopping)
			ray_reply(c, container_of(m, struct creq, m)->ticket, -ENODEV, "shutting down", NULL, 0);
		else
			handle(c, container_of(m, struct creq, m));
		msg_release(m);
	}
}

/* --- the loop --- */

static int64_t step_runs(struct cluster *c)
{
	struct hmap_node *n = hmap_walk(&c->runs, NULL), *after;
	int64_t next = c->version_busy ? INT64_MAX : c->version_at;

	for (; n; n = after) {
		struct ray_run *r = container_of(n, struct ray_run, node);
		int64_t at[3];

		after = hmap_walk(&c->runs, n);
		if (c->http) {
			at[0] = ray_submit_step(c, r);
			at[1] = ray_run_step(c, r);
			at[2] = ray_logs_step(c, r);
			for (size_t i = 0; i < ARRAY_SIZE(at); i++)
				next = at[i] < next ? at[i] : next;
		}
		if (r->phase == RAYRUN_DONE)
			forget(c, r);
	}
	return next;
}

static void *ray_thread(void *arg)
{
	struct cluster *c = arg;

	while (!c->stopping) {
		int64_t next, left;

		c->now = clock_mono(c->ctx.clock);
		take_requests(c);
		if (c->stopping)
			break;
		link_step(c);
		next = step_runs(c);
		left = (next - clock_mono(c->ctx.clock)) / USEC_PER_MSEC;
		if (c->http) {
			http_step(c->http);
			http_wait(c->http, inbox_fd(&c->inbox), left < 0 ? 0 : left > 1000 ? 1000 : (int)left);
			c->now = clock_mono(c->ctx.clock);
			http_step(c->http);
		} else {
			struct pollfd p = { .fd = inbox_fd(&c->inbox), .events = POLLIN };

			(void)poll(&p, 1, left < 0 ? 0 : left > 1000 ? 1000 : (int)left);
		}
	}
	http_free(c->http);
	c->http = NULL;
	return NULL;
}

static void cluster_free(struct cluster *c)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&c->runs, NULL)))
		forget(c, container_of(n, struct ray_run, node));
	hmap_release(&c->runs);
	if (c->inbox.fd >= 0)
		inbox_release(&c->inbox);
	ray_local_free(c->here);
	free(c->spool_dir);
	free(c->base);
	free(c->session);
	free(c->version);
	free(c);
}

static int ray_start(const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	struct cluster *c = xcalloc(1, sizeof(*c));
	sigset_t all, old;
	int rc;

	c->ctx = *ctx;
	c->spool_dir = xasprintf("%s/spool", ctx->state_dir);
	hmap_init(&c->runs);
	if (ctx->conf->start)
		c->here = ray_local_new(ctx);
	rc = inbox_init(&c->inbox);
	if (rc == 0) {
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the reactor's */
		rc = -pthread_create(&c->thread, NULL, ray_thread, c);
		(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (rc < 0) {
		cluster_free(c);
		return err_sys(e, rc, "cannot start its thread");
	}
	*out = c;
	return 0;
}

static void ray_post(struct cluster *c, struct creq *q)
{
	inbox_post(&c->inbox, &q->m);
}

static void release_stop(struct msg *m)
{
	free(m);
}

static void ray_stop(struct cluster *c, int deadline_ms)
{
	struct msg *m = xcalloc(1, sizeof(*m));

	(void)deadline_ms; /* the thread waits for its inbox and for what moves, never longer than a second */
	m->release = release_stop;
	inbox_post(&c->inbox, m);
	(void)pthread_join(c->thread, NULL);
	cluster_free(c);
}

const struct cluster_ops cluster_ray_ops = {
	.type = CLUSTER_RAY,
	.word = "ray",
	.start = ray_start,
	.post = ray_post,
	.stop = ray_stop,
};
