/*
 * The link of a cluster of type ray: where the head is, the login on the way to it, and whether it answers. The head is
 * asked who it is (/api/version) every few seconds; an answer is what makes the link `up`.
 *
 * Invariants: nothing is sent while the login is not there; one request in vain makes the link doubtful, not down; runs
 * are `unknown` only after a while of silence. A refusal (key, host key, token) is not tried again but slowly, or when
 * the user says so.
 */
#include "backend/ray.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SEC ((int64_t)USEC_PER_SEC)
#define VERSION_LIVE (2 * SEC) /* how often the head is asked who it is, with runs and without */
#define VERSION_IDLE (15 * SEC)
#define RETRY_MAX (8 * SEC)
#define REFUSED_AGAIN (30 * SEC) /* the token may be replaced */
#define UNKNOWN_AFTER (30 * SEC)

static void say_link(struct cluster *c, bool up, bool asking, const char *text)
{
	struct crep *rep;

	if (c->said && c->up == up && c->asking == asking && strcmp(c->link_text, text) == 0)
		return;
	if (up && !c->up)
		c->up_since = c->now;
	c->said = true;
	c->up = up;
	c->asking = asking;
	(void)snprintf(c->link_text, sizeof(c->link_text), "%s", text);
	rep = crep_new(CREP_LINK, c);
	rep->up = up;
	rep->asking = asking;
	rep->text = xstrdup(text);
	inbox_post(c->ctx.replies, &rep->m);
}

bool ray_reachable(const struct cluster *c)
{
	return c->http && (!c->tunnel || tunnel_state(c->tunnel) == TUNNEL_UP);
}

bool ray_waited(const struct cluster *c, int64_t since, int64_t limit)
{
	if (c->up_since > since)
		since = c->up_since;
	return c->up && c->now - since > limit;
}

/* --- runs --- */

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
	r->status_at = r->act_at = r->record_at = 0;
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].next_at = 0;
}

static void silence(struct cluster *c)
{
	if (!c->failing_since)
		c->failing_since = c->now;
	if (c->now - c->failing_since > UNKNOWN_AFTER)
		each_run(c, say_unknown);
}

/* --- answers --- */

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
	c->version_at = c->now + (wait > RETRY_MAX ? RETRY_MAX : wait);
	if (c->failures > 1 || !c->said) /* one alone may be a connection that was cut */
		say_link(c, false, true, text);
	silence(c);
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

/* What the login's server says of the port says more than what HTTP says of the connection. */
static char *trouble_text(const struct cluster *c, const struct http_answer *a, const struct err *e)
{
	cleanup_free char *host = NULL;
	const char *port_text = NULL;
	int port;

	if (a->code && c->tunnel && http_place(c->base, &host, &port))
		port_text = tunnel_trouble(c->tunnel, host, port);
	if (port_text)
		return xasprintf("%s, as %s sees it: %s", c->base, c->ctx.conf->hosts[0], port_text);
	if (a->code)
		return xasprintf("%s: %s", c->base, a->text);
	return xasprintf("%s: %s (HTTP status %d)", c->base, *e->text ? e->text : "no answer of a Ray head", a->status);
}

static void head_is(struct cluster *c, const char *session, const char *version)
{
	cleanup_free char *text = c->tunnel ? xasprintf("Ray %s at %s by %s", version, c->base, tunnel_text(c->tunnel))
					    : xasprintf("Ray %s at %s", version, c->base);

	if (c->session && strcmp(c->session, session) != 0)
		log_info("cluster %s: the Ray head was restarted: %s, before it %s", c->ctx.conf->name, session,
			 c->session);
	str_set(&c->session, session);
	str_set(&c->version, version);
	c->refused = false;
	c->failing_since = 0;
	c->failures = 0;
	c->version_at = c->now + (c->runs.count ? VERSION_LIVE : VERSION_IDLE);
	if (!c->up)
		each_run(c, say_known);
	say_link(c, true, true, text);
}

static void on_version(void *arg, const struct http_answer *a)
{
	cleanup_free char *session = NULL, *version = NULL, *text = NULL;
	struct cluster *c = arg;
	struct err e = ERR_INIT;

	c->version_busy = false;
	c->now = clock_mono(c->ctx.clock);
	if (c->stopping || !ray_reachable(c)) /* the login went meanwhile, and says so itself */
		return;
	if (a->status == 401 || a->status == 403) {
		link_refused(c, a->status);
	} else if (a->code || a->status != 200 || ray_version_parse(a->body, a->len, &session, &version, &e) < 0) {
		text = trouble_text(c, a, &e);
		link_trouble(c, text);
	} else if (c->here && (!c->up || !c->session) && ray_local_booting(c->here) && !ray_local_ready(c->here)) {
		link_trouble(c, "");
	} else {
		head_is(c, session, version);
	}
}

/* --- the way there --- */

/* Of the run that is waiting longest: what boots it says how large it is. One that ended with runs in it is booted as
 * those want it. */
static const struct job_ray *size_wanted(const struct cluster *c)
{
	const struct ray_run *first = NULL;

	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n; n = hmap_walk(&c->runs, n)) {
		const struct ray_run *r = container_of(n, struct ray_run, node);
		bool waits = r->phase == RAYRUN_QUEUED, first_waits = first && first->phase == RAYRUN_QUEUED;

		if (!first || (waits && !first_waits) || (waits == first_waits && r->serial < first->serial))
			first = r;
	}
	return first ? &first->job->ray : NULL;
}

/* The cluster of this machine: there, booted, or waiting for the first run. */
static bool open_here(struct cluster *c)
{
	const struct ray_local_wish wish = {
		.start = c->ctx.conf->start, .wanted = c->runs.count > 0, .size = size_wanted(c), .now = c->now
	};
	cleanup_free char *address = NULL, *token = NULL;
	struct err e = ERR_INIT;
	struct http_conf conf = { 0 };
	int rc = ray_local_place(c->here, &wish, &address, &token, &e);

	conf.token = token;
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
	struct http_conf conf = { 0 };
	struct err e = ERR_INIT;
	char *base;
	int rc;

	if (c->here)
		return open_here(c);
	if (c->tunnel) {
		conf.dial = tunnel_dial;
		conf.dial_arg = c->tunnel;
	}
	base = http_base(c->ctx.conf->address, &e);
	rc = base ? ray_http_new(c->ctx.conf, &conf, &c->http, &e) : -EINVAL;
	if (rc < 0) {
		free(base);
		c->version_at = c->now + REFUSED_AGAIN;
		say_link(c, false, false, e.text);
		return false;
	}
	free(c->base);
	c->base = base;
	return true;
}

int ray_http_new(const struct cluster_conf *k, struct http_conf *conf, struct http **out, struct err *e)
{
	cleanup_strbuf struct strbuf token = STRBUF_INIT;

	conf->token = k->token;
	conf->headers = k->headers;
	conf->ca_file = k->ca_file;
	if (k->token_file && strncmp(k->token_file, "~/", 2) == 0) {
		cleanup_free char *path = xasprintf("%s%s", getenv("HOME") ? getenv("HOME") : "", k->token_file + 1);

		(void)strbuf_read_file(&token, path, 65536);
	} else if (k->token_file) {
		(void)strbuf_read_file(&token, k->token_file, 65536);
	}
	if (k->token_file) {
		strbuf_setlen(&token, strcspn(token.buf, " \t\r\n"));
		if (!token.len)
			return err_set(e, -ENOENT, "token_file: there is no token in %s", k->token_file);
		conf->token = token.buf;
	}
	return http_new(conf, out, e);
}

/* The login. True: there, or none is needed. */
static bool tunnel_there(struct cluster *c)
{
	enum tunnel_state s;

	if (!c->tunnel)
		return true;
	s = tunnel_state(c->tunnel);
	if (s == TUNNEL_UP) {
		if (!c->tunnel_was_up)
			c->version_at = 0;
		c->tunnel_was_up = true;
		return true;
	}
	c->tunnel_was_up = false;
	if (s != TUNNEL_CONNECTING || c->up)
		say_link(c, false, s != TUNNEL_REFUSED, tunnel_text(c->tunnel));
	silence(c);
	return false;
}

void ray_link_step(struct cluster *c)
{
	cleanup_free char *url = NULL;

	if (c->here && c->runs.count)
		ray_local_wanted(c->here, c->now);
	if (!tunnel_there(c) || c->version_busy || c->version_at > c->now)
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

int64_t ray_link_deadline(const struct cluster *c)
{
	int64_t at = c->version_busy || (c->tunnel && !c->tunnel_was_up) ? INT64_MAX : c->version_at, more;

	if (!c->tunnel)
		return at;
	more = tunnel_deadline(c->tunnel);
	return more < at ? more : at;
}

void ray_link_reconnect(struct cluster *c)
{
	c->version_at = 0;
	c->failures = 0;
	if (c->tunnel)
		tunnel_reconnect(c->tunnel);
}
