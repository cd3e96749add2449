/*
 * What doctor asks of a cluster of type ray: the login where there is one, then the head and a node's agent, by the
 * same ways that a mount uses. One thread, one deadline for each way there.
 *
 * Invariant: nothing is submitted and nothing is changed; whatever the other side does, `fetch` returns at the
 * deadline, and what it says goes to the user with control characters taken out (doctor_ok and its kin).
 */
#include "backend/doctor.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/http.h"
#include "backend/ray.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define OLDEST_MAJOR 2 /* Ray that is supported: 2.9 */
#define OLDEST_MINOR 9
#define JOBS_API "4"     /* version of the dashboard's API that this program was made for */
#define AGENT_PORT 52365 /* of a node's agent, where nobody chose another */
#define REQUEST_MS 8000
#define ROUND_MS 50

struct way {
	struct doctor *d;
	const struct cluster_conf *conf;
	const char *name; /* in findings */
	struct tunnel *tunnel;
	struct http *http;
	char *base;
	int64_t deadline;
	/* the last answer */
	bool answered;
	int code, status;
	int64_t date;
	char *text;
	struct strbuf body;
};

static void on_answer(void *arg, const struct http_answer *a)
{
	struct way *w = arg;

	w->answered = true;
	w->code = a->code;
	w->status = a->status;
	w->date = a->date;
	str_set(&w->text, a->text);
	strbuf_reset(&w->body);
	strbuf_add(&w->body, a->body, a->len);
}

static void turn(struct way *w)
{
	struct pollfd p[TUNNEL_FDS];
	bool more = w->tunnel && tunnel_step(w->tunnel);
	unsigned n = w->tunnel ? tunnel_fds(w->tunnel, p) : 0;

	if (w->http)
		http_step(w->http);
	if (w->http)
		http_wait_fds(w->http, p, n, more ? 0 : ROUND_MS);
	else
		(void)poll(p, n, more ? 0 : ROUND_MS);
}

/* 0: there is an answer; else -errno, and `text` says why not. */
static int fetch(struct way *w, const char *url)
{
	const struct http_request rq = { .method = "GET", .url = url, .deadline_ms = REQUEST_MS };

	w->answered = false;
	http_send(w->http, &rq, on_answer, w);
	while (!w->answered)
		turn(w);
	return w->code;
}

static int fetch_head(struct way *w, const char *path)
{
	cleanup_free char *url = xasprintf("%s%s", w->base, path);

	return fetch(w, url);
}

/* What the server of the login says of the port, or what HTTP says. */
static const char *trouble(const struct way *w, const char *url)
{
	cleanup_free char *host = NULL;
	const char *text = NULL;
	int port;

	if (w->tunnel && http_place(url, &host, &port))
		text = tunnel_trouble(w->tunnel, host, port);
	return text ? text : w->text;
}

/* --- the head --- */

static void no_head(struct way *w)
{
	const char *text = trouble(w, w->base), *name = w->name;

	if (w->code == -EKEYREJECTED)
		doctor_bad(w->d,
			   "%s: the certificate of %s cannot be trusted: %s. Write ca_file = FILE with what signs it "
			   "into [cluster %s]; it has to be made for the name in `address`",
			   name, w->base, text, w->conf->name);
	else if (w->tunnel)
		doctor_bad(w->d,
			   "%s: %s: `address` is the dashboard as that host sees it (http://127.0.0.1:8265 on the head "
			   "itself, else http://HEAD:8265)",
			   name, text);
	else
		doctor_bad(w->d,
			   "%s: the dashboard %s cannot be reached: %s. Is Ray running there, with "
			   "--dashboard-host=0.0.0.0? Where only SSH leads there write host = NAME into [cluster %s]",
			   name, w->base, text, w->conf->name);
}

/* False: no token, or not the right one. */
static bool check_token(struct way *w)
{
	bool given = w->conf->token || w->conf->token_file;

	if (w->status != 401 && w->status != 403)
		return true;
	if (given)
		doctor_bad(
			w->d,
			"%s: the head refuses the token (HTTP status %d): mend token or token_file in [cluster %s]; the "
			"cluster's own is in ~/.ray/auth_token of who started it, or where RAY_AUTH_TOKEN_PATH says",
			w->name, w->status, w->conf->name);
	else
		doctor_bad(
			w->d,
			"%s: the head wants a token (HTTP status %d): write token_file = FILE into [cluster %s]; the "
			"cluster's own is in ~/.ray/auth_token of who started it, or where RAY_AUTH_TOKEN_PATH says",
			w->name, w->status, w->conf->name);
	return false;
}

static bool too_old(const char *version)
{
	char *end;
	long major = strtol(version, &end, 10), minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;

	return major < OLDEST_MAJOR || (major == OLDEST_MAJOR && minor < OLDEST_MINOR);
}

void doctor_ray_version(struct doctor *d, const char *name, const char *base, const char *text, size_t len)
{
	cleanup_free char *session = NULL, *version = NULL;
	struct err e = ERR_INIT;
	json_t *o;
	const char *api;

	if (ray_version_parse(text, len, &session, &version, &e) < 0) {
		doctor_bad(
			d,
			"%s: %s: %s: `address` is the dashboard's (port 8265), not the client's (10001) nor GCS's (6379)",
			name, base, e.text);
		return;
	}
	if (too_old(version))
		doctor_bad(d, "%s: Ray %s is older than %d.%d, the oldest that is supported", name, version,
			   OLDEST_MAJOR, OLDEST_MINOR);
	else
		doctor_ok(d, "%s: Ray %s at %s%s%s", name, version, base, *session ? ", " : "", session);
	o = json_loadb(text, len, 0, NULL);
	api = json_string_value(json_object_get(o, "version"));
	if (!api || strcmp(api, JOBS_API) != 0)
		doctor_note(d, "%s: version %s of the Jobs API; %s is what this program was tested with", name,
			    api ? api : "?", JOBS_API);
	json_decref(o);
	if (!*session)
		doctor_note(d,
			    "%s: it names no session, so a restart of the head is noticed by its forgotten jobs alone",
			    name);
}

static bool check_head(struct way *w)
{
	if (fetch_head(w, "/api/version") < 0) {
		no_head(w);
		return false;
	}
	if (!check_token(w))
		return false;
	if (w->status != 200) {
		doctor_bad(
			w->d,
			"%s: %s answers HTTP status %d to /api/version: `address` is no Ray dashboard, or what is in "
			"front of it wants `headers`",
			w->name, w->base, w->status);
		return false;
	}
	doctor_ray_version(w->d, w->name, w->base, w->body.buf, w->body.len);
	if (w->date > 0)
		doctor_clock(w->d, w->name, w->date, clock_real(&clock_system) / USEC_PER_SEC);
	return true;
}

/* The agent that a job of before was on, or NULL. */
static char *known_agent(const char *text, size_t len)
{
	json_t *all = json_loadb(text, len, 0, NULL), *o;
	char *found = NULL;
	size_t i;

	json_array_foreach (all, i, o) {
		const char *agent = json_string_value(json_object_get(o, "driver_agent_http_address"));

		if (agent && *agent)
			str_set(&found, agent);
	}
	json_decref(all);
	return found;
}

static bool check_jobs(struct way *w, char **agent)
{
	bool given = w->conf->token || w->conf->token_file;

	if (fetch_head(w, "/api/jobs/") < 0) {
		doctor_bad(w->d, "%s: the head does not list its jobs: %s", w->name, w->text);
		return false;
	}
	if (!check_token(w))
		return false;
	if (w->status != 200) {
		doctor_bad(
			w->d,
			"%s: the head answers HTTP status %d to the list of jobs: is Ray installed there as ray[default]?",
			w->name, w->status);
		return false;
	}
	doctor_ok(w->d, "%s: the Jobs API answers%s", w->name, given ? ", and takes the token" : "");
	if (!given && !w->tunnel)
		doctor_note(
			w->d,
			"%s: no token is wanted, so whoever reaches %s runs programs there; RAY_AUTH_MODE=token when "
			"Ray is started changes that",
			w->name, w->base);
	if (given && !w->tunnel && strncmp(w->base, "https:", 6) != 0 && !strstr(w->base, "//127.") &&
	    !strstr(w->base, "//localhost"))
		doctor_note(w->d, "%s: the token travels in plain text: https://, or host = NAME for SSH, hides it",
			    w->name);
	*agent = known_agent(w->body.buf, w->body.len);
	return true;
}

/* --- the nodes' agents, which have output and results --- */

static char *first_node(struct way *w)
{
	json_t *rows = NULL, *row;
	char *url = NULL;
	size_t i;

	if (fetch_head(w, "/api/v0/nodes?limit=1000&detail=1") == 0 && w->status == 200)
		rows = ray_nodes_rows(w->body.buf, w->body.len);
	json_array_foreach (rows, i, row) {
		const char *ip = json_string_value(json_object_get(row, "name"));

		if (!url && ip && strcmp(json_string_value(json_object_get(row, "state")), "ALIVE") == 0)
			url = xasprintf("http://%s:%d", ip, AGENT_PORT);
	}
	json_decref(rows);
	return url;
}

static void check_agent(struct way *w, const char *known)
{
	cleanup_free char *agent = known ? xstrdup(known) : first_node(w);
	cleanup_free char *url = agent ? xasprintf("%s/logs/", agent) : NULL;
	const char *text;

	if (!agent) {
		doctor_bad(w->d, "%s: the head names no node that is alive, so no job can start", w->name);
		return;
	}
	if (fetch(w, url) < 0 && !known) {
		doctor_note(
			w->d,
			"%s: the agent of a node, %s, which has output and results of jobs, does not answer: %s. That is "
			"its usual port; which one it is here is known when a job has run",
			w->name, agent, trouble(w, url));
	} else if (w->code < 0) {
		text = trouble(w, url);
		doctor_bad(
			w->d,
			"%s: the agent of a node, %s, which has output and results of jobs, cannot be reached: %s. Open that "
			"port (ray start --dashboard-agent-listen-port) to %s%s",
			w->name, agent, text, w->tunnel ? w->conf->hosts[0] : "this machine",
			w->tunnel ? "" : ", or write host = NAME for a way through SSH");
	} else if (w->status != 200) {
		doctor_bad(
			w->d,
			"%s: the agent of a node, %s, answers HTTP status %d to its logs: no output of jobs comes here",
			w->name, agent, w->status);
	} else {
		doctor_ok(w->d, "%s: the agent of a node, %s, gives its logs", w->name, agent);
	}
}

static void check_ray(struct way *w)
{
	struct http_conf conf = { .dial = w->tunnel ? tunnel_dial : NULL, .dial_arg = w->tunnel };
	cleanup_free char *agent = NULL;
	struct err e = ERR_INIT;

	w->base = http_base(w->conf->address, &e);
	if (!w->base || ray_http_new(w->conf, &conf, &w->http, &e) < 0)
		doctor_bad(w->d, "%s: %s", w->name, e.text);
	else if (check_head(w) && check_jobs(w, &agent))
		check_agent(w, agent);
	http_free(w->http);
	w->http = NULL;
	free(w->base);
	w->base = NULL;
}

/* --- the ways there --- */

static bool log_in(struct way *w)
{
	int64_t began = clock_mono(&clock_system);

	while (tunnel_state(w->tunnel) != TUNNEL_UP && tunnel_state(w->tunnel) != TUNNEL_REFUSED &&
	       clock_mono(&clock_system) < w->deadline) {
		turn(w);
		if (tunnel_state(w->tunnel) == TUNNEL_DOWN && *tunnel_text(w->tunnel))
			break;
	}
	if (tunnel_state(w->tunnel) == TUNNEL_UP)
		doctor_ok(w->d, "%s: logged in after %" PRId64 " ms: %s", w->name,
			  (clock_mono(&clock_system) - began) / USEC_PER_MSEC, tunnel_text(w->tunnel));
	else
		doctor_bad(w->d, "%s: %s", w->name,
			   *tunnel_text(w->tunnel) ? tunnel_text(w->tunnel) : "logging in took too long");
	return tunnel_state(w->tunnel) == TUNNEL_UP;
}

static void by_host(struct way *w, size_t i)
{
	char *only[] = { w->conf->hosts[i], NULL };
	struct cluster_conf one = *w->conf;
	const struct tunnel_conf how = {
		.ops = &transport_ssh2_ops, .describe = transport_ssh2_describe, .cluster = &one, .clock = &clock_system
	};

	if (!doctor_ssh_name(w->d, w->conf, i))
		return;
	one.hosts = only;
	w->name = only[0];
	w->tunnel = tunnel_new(&how);
	if (!w->tunnel)
		doctor_bad(w->d, "%s: there are no descriptors left", w->name);
	else if (log_in(w))
		check_ray(w);
	tunnel_free(w->tunnel);
	w->tunnel = NULL;
}

static void check_start(struct doctor *d, const struct cluster_conf *conf)
{
	bool path = conf->start[0] == '/';
	cleanup_free char *ray = path ? xstrdup(conf->start) : doctor_find_program("ray");

	if (ray && access(ray, X_OK) == 0)
		doctor_ok(d, "cluster %s: the first run boots a Ray cluster on this machine, with %s", conf->name, ray);
	else
		doctor_bad(
			d,
			"cluster %s: there is no program %s: install Ray (pip install 'ray[default]'), or write start = "
			"/.../bin/ray",
			conf->name, path ? conf->start : "`ray` in PATH");
}

void doctor_ray(struct doctor *d, const struct cluster_conf *conf, int deadline_s)
{
	cleanup_free char *name = xasprintf("cluster %s", conf->name);
	struct way w = { .d = d, .conf = conf, .name = name };

	if (conf->start) {
		check_start(d, conf);
		return;
	}
	strbuf_init(&w.body);
	if (!conf->hosts)
		check_ray(&w);
	for (size_t i = 0; conf->hosts && conf->hosts[i]; i++) {
		w.deadline = clock_mono(&clock_system) + (int64_t)deadline_s * USEC_PER_SEC;
		by_host(&w, i);
	}
	strbuf_release(&w.body);
	free(w.text);
}
