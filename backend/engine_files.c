/*
 * Directories below STATE that belong to runs: taken away, and handed on to a run that does the same again.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	(void)remove(path);
	return 0;
}

void engine_remove_tree(const char *path)
{
	(void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* A directory is made, anything else gets one more name; links and all. */
static int link_entry(const char *from, const char *to, bool *is_dir)
{
	struct stat st;

	if (lstat(from, &st) < 0)
		return -errno;
	*is_dir = S_ISDIR(st.st_mode);
	if (*is_dir)
		return mkdir(to, 0700) < 0 && errno != EEXIST ? -errno : 0;
	return link(from, to) < 0 && errno != EEXIST ? -errno : 0;
}

int engine_link_files(struct engine *en, uint32_t from, uint32_t to, struct err *e)
{
	struct strbuf base = STRBUF_INIT, copy = STRBUF_INIT, todo = STRBUF_INIT;
	size_t at = 0;
	int rc = 0;

	engine_files_dir(en, from, &base);
	engine_files_dir(en, to, &copy);
	engine_remove_tree(copy.buf); /* of a run that never came to be */
	if (access(base.buf, F_OK) == 0)
		strbuf_add(&todo, "", 1);
	while (rc == 0 && at < todo.len) {
		cleanup_free char *rel = xstrdup(todo.buf + at);
		cleanup_free char *src = xasprintf("%s%s", base.buf, rel), *dst = xasprintf("%s%s", copy.buf, rel);
		struct dirent *de;
		bool is_dir = false;
		DIR *d = NULL;

		at += strlen(rel) + 1;
		rc = link_entry(src, dst, &is_dir);
		if (rc == 0 && is_dir && !(d = opendir(src)))
			rc = -errno;
		if (rc < 0)
			err_sys(e, rc, "cannot link %s to %s", dst, src);
		while (d && (de = readdir(d))) {
			if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
				continue;
			strbuf_addf(&todo, "%s/%s", rel, de->d_name);
			strbuf_add(&todo, "", 1);
		}
		if (d)
			(void)closedir(d);
	}
	strbuf_release(&base);
	strbuf_release(&copy);
	strbuf_release(&todo);
	return rc;
}
