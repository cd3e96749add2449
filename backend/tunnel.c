/*
 * The login of a tunnel: owns the transport and the set of connections through it (forward.c).
 *
 * Invariants: there is a transport while it is connecting or up, and the set knows it while it is up; a failure frees
 * it at once, so nothing of a lost connection is used again. Back-off has full jitter: many mounts that lost the same
 * host do not come back in the same moment.
 */
#include "backend/tunnel.h"

#include "backend/base/hash.h"
#include "backend/base/mem.h"
#include "backend/forward.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define SEC ((int64_t)USEC_PER_SEC)
#define BACKOFF_MIN (SEC / 2)
#define BACKOFF_MAX (60 * SEC)
#define CONNECT_LIMIT (120 * SEC)
#define OWNER 0u /* runs have numbers from 1 on */

struct tunnel {
	struct tunnel_conf conf;
	struct transport *t;
	struct forwards *set;
	enum tunnel_state state;
	size_t host;
	unsigned failures;
	int64_t retry_at, limit_at, up_at;
	uint64_t random;
	char text[512];
};

static size_t count_hosts(const struct tunnel *t)
{
	size_t n = 0;

	while (t->conf.cluster->hosts[n])
		n++;
	assert(n > 0); /* the configuration has seen to that */
	return n;
}

static void close_all(struct tunnel *t)
{
	forwards_link(t->set, NULL);
	if (t->t)
		t->conf.ops->close(t->t);
	t->t = NULL;
}

static int64_t next_wait(struct tunnel *t, size_t hosts)
{
	int64_t ceiling = t->conf.backoff_min;

	for (size_t i = 0; i < t->failures / hosts && ceiling < t->conf.backoff_max; i++)
		ceiling *= 2;
	if (ceiling > t->conf.backoff_max)
		ceiling = t->conf.backoff_max;
	t->random = hash_u64(t->random + 0x9e3779b97f4a7c15u);
	return (int64_t)(t->random % (uint64_t)(ceiling + 1));
}

static void fail(struct tunnel *t, const char *text)
{
	int64_t now = clock_mono(t->conf.clock);
	bool was_up = t->state == TUNNEL_UP;
	size_t hosts = count_hosts(t);

	close_all(t);
	if (was_up && now - t->up_at > t->conf.backoff_max)
		t->failures = 0;
	t->state = TUNNEL_DOWN;
	t->retry_at = now + next_wait(t, hosts);
	t->failures++;
	if (!was_up)
		t->host = (t->host + 1) % hosts;
	(void)snprintf(t->text, sizeof(t->text), "%s", text);
}

static void refuse(struct tunnel *t, const char *text)
{
	close_all(t);
	t->state = TUNNEL_REFUSED;
	(void)snprintf(t->text, sizeof(t->text), "%s", text);
}

static void begin(struct tunnel *t)
{
	struct err e = ERR_INIT;
	int rc = t->conf.ops->open(t->conf.cluster, t->host, t->conf.clock, &t->t, &e);

	if (rc == 0) {
		t->state = TUNNEL_CONNECTING;
		t->limit_at = clock_mono(t->conf.clock) + CONNECT_LIMIT;
		return;
	}
	t->t = NULL;
	if (rc == -EAGAIN || rc == -EHOSTUNREACH || rc == -ENETUNREACH || rc == -ECONNREFUSED || rc == -ETIMEDOUT ||
	    rc == -EMFILE || rc == -ENFILE)
		fail(t, e.text);
	else
		refuse(t, e.text);
}

static void come_up(struct tunnel *t)
{
	const char *words = t->conf.describe ? t->conf.describe(t->t) : "connected";

	t->state = TUNNEL_UP;
	t->up_at = clock_mono(t->conf.clock);
	(void)snprintf(t->text, sizeof(t->text), "%s", words ? words : "connected");
	forwards_link(t->set, t->t);
}

bool tunnel_step(struct tunnel *t)
{
	struct err e = ERR_INIT;

	if (t->state == TUNNEL_DOWN && clock_mono(t->conf.clock) >= t->retry_at)
		begin(t);
	if (t->t) {
		switch (t->conf.ops->step(t->t, &e)) {
		case TRANSPORT_CONNECTING:
			if (clock_mono(t->conf.clock) >= t->limit_at)
				fail(t, "no connection in time");
			break;
		case TRANSPORT_READY:
			if (t->state == TUNNEL_CONNECTING)
				come_up(t);
			break;
		case TRANSPORT_DOWN:
			fail(t, e.text);
			break;
		case TRANSPORT_REFUSED:
			refuse(t, e.text);
			break;
		}
	}
	return forwards_step(t->set);
}

enum tunnel_state tunnel_state(const struct tunnel *t)
{
	return t->state;
}

const char *tunnel_text(const struct tunnel *t)
{
	return t->text;
}

void tunnel_reconnect(struct tunnel *t)
{
	if (t->state == TUNNEL_UP || t->state == TUNNEL_CONNECTING)
		return;
	t->state = TUNNEL_DOWN;
	t->failures = 0;
	t->retry_at = 0;
}

unsigned tunnel_fds(struct tunnel *t, struct pollfd *p)
{
	p[0] = (struct pollfd){ .fd = forwards_fd(t->set), .events = POLLIN };
	p[1] = (struct pollfd){ .fd = -1 };
	if (t->t)
		p[1].fd = t->conf.ops->poll_fd(t->t, &p[1].events);
	return TUNNEL_FDS;
}

int64_t tunnel_deadline(const struct tunnel *t)
{
	int64_t at = forwards_deadline(t->set), more = INT64_MAX;

	if (t->state == TUNNEL_DOWN)
		more = t->retry_at;
	else if (t->t)
		more = t->conf.ops->next_deadline(t->t);
	at = more < at ? more : at;
	return t->state == TUNNEL_CONNECTING && t->limit_at < at ? t->limit_at : at;
}

/* --- connections --- */

/* "[::1]" is how a URL has it; nobody else does. */
static char *bare(const char *host)
{
	size_t len = strlen(host);

	return len > 1 && host[0] == '[' && host[len - 1] == ']' ? xstrndup(host + 1, len - 2) : xstrdup(host);
}

int tunnel_dial(void *arg, const char *host, int port, int fd)
{
	cleanup_free char *name = bare(host);
	struct tunnel *t = arg;
	struct err e = ERR_INIT;

	if (t->state == TUNNEL_UP)
		return forward_pair(t->set, OWNER, name, port, fd, &e);
	(void)close(fd);
	return -ENOTCONN;
}

const char *tunnel_trouble(const struct tunnel *t, const char *host, int port)
{
	cleanup_free char *name = bare(host);

	return forward_trouble(t->set, OWNER, name, port);
}

/* --- life --- */

struct tunnel *tunnel_new(const struct tunnel_conf *conf)
{
	struct tunnel *t = xcalloc(1, sizeof(*t));

	t->conf = *conf;
	if (!t->conf.backoff_min)
		t->conf.backoff_min = BACKOFF_MIN;
	if (!t->conf.backoff_max)
		t->conf.backoff_max = BACKOFF_MAX;
	t->set = forwards_new(conf->ops, conf->clock);
	if (!t->set) {
		free(t);
		return NULL;
	}
	if (getrandom(&t->random, sizeof(t->random), GRND_NONBLOCK) < 0)
		t->random = hash_u64((uint64_t)clock_mono(conf->clock));
	return t;
}

void tunnel_free(struct tunnel *t)
{
	if (!t)
		return;
	close_all(t);
	forwards_free(t->set);
	free(t);
}
