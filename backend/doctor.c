/*
 * Findings of doctor, and what it says of the state directory. Keeps no state but the count of what is bad.
 *
 * The journal is opened only while nobody else has it, under the lock that a mount would take.
 */
#include "backend/doctor.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#define FREE_BAD (64ULL << 20)
#define FREE_NOTE (1ULL << 30)

/* --- findings --- */

static void finding(struct doctor *d, const char *word, const char *fmt, va_list ap)
	__attribute__((format(printf, 3, 0)));

static void finding(struct doctor *d, const char *word, const char *fmt, va_list ap)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	const char *p;

	strbuf_vaddf(&sb, fmt, ap);
	while (sb.len && strchr("\r\n ", sb.buf[sb.len - 1]))
		strbuf_setlen(&sb, sb.len - 1);
	(void)fprintf(d->out, "%-4s ", word);
	for (p = sb.buf; *p; p++) {
		/* What another machine says must not steer the terminal. */
		if (*p == '\n')
			(void)fputs("\n     ", d->out);
		else
			(void)fputc((unsigned char)*p < ' ' || *p == 127 ? '?' : *p, d->out);
	}
	(void)fputc('\n', d->out);
	(void)fflush(d->out);
}

void doctor_ok(struct doctor *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	finding(d, "ok", fmt, ap);
	va_end(ap);
}

void doctor_note(struct doctor *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	finding(d, "note", fmt, ap);
	va_end(ap);
}

void doctor_bad(struct doctor *d, const char *fmt, ...)
{
	va_list ap;

	d->bad++;
	va_start(ap, fmt);
	finding(d, "bad", fmt, ap);
	va_end(ap);
}

char *doctor_find_program(const char *name)
{
	const char *path = getenv("PATH");

	for (const char *p = path ? path : "/usr/bin:/bin"; p && *p; p = strchr(p, ':') ? strchr(p, ':') + 1 : NULL) {
		size_t len = strcspn(p, ":");
		char *full = xasprintf("%.*s/%s", (int)len, p, name);

		if (len && access(full, X_OK) == 0)
			return full;
		free(full);
	}
	return NULL;
}

/* --- the state directory --- */

/* The nearest directory that is there. */
static char *nearest(const char *path)
{
	char *p = xstrdup(path);
	struct stat st;

	while (stat(p, &st) < 0 && strrchr(p, '/')) {
		char *slash = strrchr(p, '/');

		if (slash == p) {
			p[1] = '\0';
			break;
		}
		*slash = '\0';
	}
	return p;
}

const char *doctor_remote_fs(const char *path)
{
	cleanup_free char *there = nearest(path);
	struct statfs fs;

	return statfs(there, &fs) < 0 ? NULL : store_remote_fs((unsigned long)fs.f_type);
}

static void check_space(struct doctor *d, const char *dir)
{
	struct statvfs sv;
	unsigned long long avail;

	if (statvfs(dir, &sv) < 0)
		return;
	avail = (unsigned long long)sv.f_bavail * sv.f_frsize;
	if (avail < FREE_BAD)
		doctor_bad(
			d,
			"only %llu MiB are free in %s, where journal and logs are kept: make room, or name another directory "
			"with --state",
			avail >> 20, dir);
	else if (avail < FREE_NOTE)
		doctor_note(d, "%llu MiB are free in %s, where journal and logs are kept", avail >> 20, dir);
	else
		doctor_ok(d, "%llu GiB are free in %s, for journal and logs", avail >> 30, dir);
}

static bool check_disk(struct doctor *d, const char *dir)
{
	const char *remote = doctor_remote_fs(dir);

	if (remote)
		doctor_bad(
			d,
			"the state directory %s is on %s, where commits cannot be trusted: name one on a local disk with "
			"--state DIR",
			dir, remote);
	return !remote;
}

static bool check_owner(struct doctor *d, const char *dir, const struct stat *st)
{
	if (!S_ISDIR(st->st_mode))
		doctor_bad(d, "the state directory %s is not a directory: name another with --state DIR", dir);
	else if (st->st_uid != geteuid())
		doctor_bad(d, "the state directory %s belongs to uid %u: name one of your own with --state DIR", dir,
			   (unsigned)st->st_uid);
	else if (st->st_mode & 077)
		doctor_bad(d, "others may enter the state directory %s (mode %04o): chmod 700 %s", dir,
			   st->st_mode & 07777, dir);
	else
		return true;
	return false;
}

/* With the lock held, so that no mount begins meanwhile. */
static void check_journal(struct doctor *d, const char *dir)
{
	cleanup_free char *path = xasprintf("%s/journal.db", dir);
	struct err e = ERR_INIT;
	struct store *s = NULL;
	char uuid[37];

	if (access(path, F_OK) < 0) {
		doctor_ok(d, "state directory %s: yours, no journal yet", dir);
		return;
	}
	if (store_open(dir, &clock_system, &s, uuid, &e) < 0) {
		doctor_bad(d, "journal: %s", e.text);
		return;
	}
	store_close(s, 1000);
	doctor_ok(d, "state directory %s: yours, not in use, its journal can be opened", dir);
}

static void say_holder(struct doctor *d, const char *dir, int fd)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	const char *mount;

	(void)strbuf_read_fd(&text, fd, 8192);
	text.buf[strcspn(text.buf, "\n")] = '\0';
	mount = strchr(text.buf, ' ');
	if (mount)
		doctor_ok(d, "state directory %s: yours, in use by process %.*s, mounted on%s", dir,
			  (int)(mount - text.buf), text.buf, mount);
	else
		doctor_ok(d, "state directory %s: yours, in use", dir);
}

void doctor_state(struct doctor *d, const char *dir)
{
	cleanup_free char *there = nearest(dir), *lock = xasprintf("%s/lock", dir);
	struct stat st;
	int fd;

	if (!check_disk(d, dir))
		return;
	if (stat(dir, &st) < 0) {
		if (access(there, W_OK) < 0)
			doctor_bad(
				d,
				"the state directory %s is not there and cannot be made: %s cannot be written; name another with "
				"--state DIR",
				dir, there);
		else
			doctor_ok(d, "the state directory %s is made at the first mount", dir);
		check_space(d, there);
		return;
	}
	if (!check_owner(d, dir, &st))
		return;
	fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		say_holder(d, dir, fd);
	else
		check_journal(d, dir);
	if (fd >= 0)
		(void)close(fd);
	check_space(d, dir);
}
