/*
 * Waiting for the end of a run, with poll(2) on its file `wait`, and what the end means for an exit status.
 *
 * A notification that gets lost never hangs anybody: after POLL_MS the file is looked at again. While the mount is
 * away, the file is opened again and again (client_recover).
 */
#include "fs/client.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 30000
#define LOOK_MS 1000 /* at how far a transfer is, where somebody looks */
#define READY_PAUSE_MS 100 /* it was said to be ready and was not */
#define WHY_MAX 65536
#define WHY_LINE 200

int client_status(const char *text)
{
	size_t word = strcspn(text, " \n");
	bool good = word == strlen("succeeded") && strncmp(text, "succeeded", word) == 0;
	const char *p = text + word;
	long code;
	char *end;

	if (word == 0 || *p != ' ')
		return -1;
	if (p[1] == '-' && (p[2] == '\n' || !p[2]))
		return good ? 0 : 1;
	errno = 0;
	code = strtol(p + 1, &end, 10);
	if (errno || end == p + 1 || (*end && *end != '\n') || code < 0 || code > 255)
		return -1;
	return code == 0 && !good ? 1 : (int)code; /* a run that timed out did not succeed, whatever its code */
}

/* One look: 1 and the text; 0: not yet; else negative errno. */
static int look(int fd, char *buf, size_t size)
{
	ssize_t n = read(fd, buf, size - 1);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ENODEV; /* nothing that this file ever says */
	buf[n] = '\0';
	return 1;
}

/* "transfer: 12.0 of 50.0 MB are on the cluster", when that has changed. */
static void say_transfer(const char *dir, char last[WHY_LINE])
{
	cleanup_free char *path = xasprintf("%s/why", dir);
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	const char *line, *id = strrchr(dir, '/');
	int n;

	if (strbuf_read_file(&why, path, WHY_MAX) <= 0)
		return;
	line = strstr(why.buf, "transfer: ");
	n = line ? (int)strcspn(line, "\n") : 0;
	if (!n || n >= WHY_LINE || strncmp(last, line, (size_t)n) == 0)
		return;
	(void)snprintf(last, WHY_LINE, "%.*s", n, line);
	client_say("run %s: %s", id ? id + 1 : dir, last);
}

/* Until the text is there (1), or an error that asks for another descriptor. */
static int await(const char *dir, int fd, char *buf, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	bool ready = false, seen = isatty(STDERR_FILENO);
	char last[WHY_LINE] = "";
	int rc;

	for (;;) {
		rc = look(fd, buf, size);
		if (rc != 0)
			return rc;
		if (ready)
			(void)poll(NULL, 0, READY_PAUSE_MS);
		rc = poll(&p, 1, seen ? LOOK_MS : POLL_MS);
		if (rc == 0 && seen)
			say_transfer(dir, last);
		ready = rc > 0;
		if (rc < 0 && errno != EINTR)
			return -errno;
	}
}

static void say_why(const char *dir, const char *end, bool tail)
{
	cleanup_free char *path = xasprintf("%s/why", dir);
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	const char *id = strrchr(dir, '/');
	char *cut;

	client_say("run %s: %s", id ? id + 1 : dir, end);
	if (strbuf_read_file(&why, path, WHY_MAX) < 0)
		return;
	cut = tail ? NULL : strstr(why.buf, "last lines of ");
	if (cut && (cut == why.buf || cut[-1] == '\n'))
		*cut = '\0';
	client_say("%s", why.buf);
}

int client_wait(const char *dir, bool tail)
{
	cleanup_free char *path = xasprintf("%s/wait", dir);
	struct client_outage outage = { .dir = dir };
	struct err e = ERR_INIT;
	char buf[128] = "";
	int rc, code;

	for (;;) {
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

		rc = fd < 0 ? -errno : 0;
		if (fd >= 0) {
			client_recovered(&outage);
			rc = await(dir, fd, buf, sizeof(buf));
			(void)close(fd);
		}
		if (rc == 1)
			break;
		if (client_recover(&outage, rc, &e) < 0) {
			client_say("%s", e.text);
			return 1;
		}
	}
	code = client_status(buf);
	if (code != 0 || strncmp(buf, "succeeded", 9) != 0)
		say_why(dir, buf, tail);
	return code < 0 ? 1 : code;
}
