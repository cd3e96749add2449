/*
 * What /proc/self/mountinfo says (proc(5)): "ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE SUPER". Keeps
 * no state.
 */
#include "fs/mount.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

enum { MOUNTINFO_MAX = 16 * 1024 * 1024 };

void mount_entry_release(struct mount_entry *m)
{
	free(m->point);
	free(m->type);
	free(m->source);
	memset(m, 0, sizeof(*m));
}

/* Blanks, newlines, backslashes and # are written as \ooo. In place. */
static char *unescape(char *s)
{
	char *in = s, *out = s;

	while (*in) {
		if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' && in[3] >= '0' &&
		    in[3] <= '7') {
			*out++ = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
			in += 4;
		} else {
			*out++ = *in++;
		}
	}
	*out = 0;
	return s;
}

/* Cuts one line into the three fields that matter (pointers into it). */
static bool cut_line(char *line, struct mount_entry *m)
{
	char *save = NULL, *word;
	int field = 0;

	memset(m, 0, sizeof(*m));
	for (word = strsep(&line, " "); word; word = strsep(&line, " "), field++) {
		if (field == 4)
			m->point = unescape(word);
		if (field >= 6 && !strcmp(word, "-"))
			break;
	}
	if (!word || !m->point)
		return false;
	m->type = strsep(&line, " ");
	save = strsep(&line, " ");
	if (!m->type || !save)
		return false;
	m->type = unescape(m->type);
	m->source = unescape(save);
	return true;
}

/* The last line that fits: later mounts lie on top. */
static int find(const char *dir, const char *source, struct mount_entry *out)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	ssize_t n = strbuf_read_file(&sb, "/proc/self/mountinfo", MOUNTINFO_MAX);
	char *rest = sb.buf, *line;
	struct mount_entry m;
	int found = 0;

	memset(out, 0, sizeof(*out));
	if (n < 0)
		return (int)n;
	while ((line = strsep(&rest, "\n"))) {
		if (!cut_line(line, &m))
			continue;
		if (dir ? strcmp(m.point, dir) : strcmp(m.source, source) || !mount_is_ours(&m))
			continue;
		mount_entry_release(out);
		*out = (struct mount_entry){ xstrdup(m.point), xstrdup(m.type), xstrdup(m.source) };
		found = 1;
	}
	return found;
}

int mount_lookup(const char *dir, struct mount_entry *out)
{
	return find(dir, NULL, out);
}

int mount_lookup_source(const char *source, struct mount_entry *out)
{
	return find(NULL, source, out);
}

bool mount_is_ours(const struct mount_entry *m)
{
	return !strcmp(m->type, MOUNT_TYPE) && !strncmp(m->source, MOUNT_SOURCE, strlen(MOUNT_SOURCE));
}

pid_t mount_keeper(const struct mount_entry *m)
{
	const char *digits = m->source + strlen(MOUNT_SOURCE);
	char *end;
	long pid;

	if (!mount_is_ours(m) || *digits < '0' || *digits > '9')
		return 0;
	errno = 0;
	pid = strtol(digits, &end, 10);
	return errno || *end || pid <= 0 || pid > INT_MAX ? 0 : (pid_t)pid;
}
