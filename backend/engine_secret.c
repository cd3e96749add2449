/*
 * Secrets of runs that are not started yet: STATE/secrets/NUM/NAME, 0600 in 0700, a file each. They are there before
 * the run is journaled and go when no attempt of it can need them any more: it runs, or has ended, or was purged.
 * Neither the journal nor a document has them.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/spec.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define REMIND_US (24 * 3600 * (int64_t)USEC_PER_SEC) /* after a run's end */

void engine_secrets_dir(const struct engine *en, uint32_t num, struct strbuf *out)
{
	strbuf_addf(out, "%s/secrets/%u", en->state_dir, num);
}

static int write_secret(const char *dir, const char *name, const char *value, size_t len)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name);
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t n = fd < 0 ? -1 : write(fd, value, len);

	if (n < 0)
		return -errno;
	return (size_t)n < len ? -ENOSPC : fsync(fd) < 0 ? -errno : 0;
}

int engine_secrets_write(const struct engine *en, uint32_t num, const json_t *values, struct err *e)
{
	cleanup_free char *base = xasprintf("%s/secrets", en->state_dir);
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;
	const char *name;
	json_t *v;
	int rc = 0;

	engine_secrets_forget(en, num);
	if (!json_object_size(values))
		return 0;
	engine_secrets_dir(en, num, &dir);
	if ((mkdir(base, 0700) < 0 && errno != EEXIST) || (mkdir(dir.buf, 0700) < 0 && errno != EEXIST))
		rc = -errno;
	json_object_foreach ((json_t *)values, name, v)
		if (rc == 0)
			rc = write_secret(dir.buf, name, json_string_value(v), json_string_length(v));
	if (rc == 0)
		return 0;
	engine_secrets_forget(en, num);
	return err_sys(e, rc, "cannot keep the secrets in %s", dir.buf);
}

void engine_secrets_forget(const struct engine *en, uint32_t num)
{
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;

	engine_secrets_dir(en, num, &dir);
	if (access(dir.buf, F_OK) == 0)
		engine_remove_tree(dir.buf);
}

bool engine_has_secrets(const struct run *r)
{
	return json_is_true(json_object_get(r->facts, "secrets"));
}

bool engine_secrets_wanted(const struct run *r)
{
	enum run_status s = r->status == RUN_UNKNOWN ? r->before_unknown : r->status;

	return run_is_live(r) && s != RUN_RUNNING && s != RUN_COMPLETING;
}

/* What a kill left: of runs that never were, or need none any more. */
void engine_secrets_sweep(const struct engine *en)
{
	cleanup_free char *base = xasprintf("%s/secrets", en->state_dir);
	DIR *d = opendir(base);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		char *end;
		unsigned long num = strtoul(de->d_name, &end, 10);
		struct erun *er = *end || !num || num > UINT32_MAX ? NULL : engine_find(en, (uint32_t)num);

		if (de->d_name[0] != '.' && (!er || !engine_secrets_wanted(er->r)))
			engine_secrets_forget(en, (uint32_t)num);
	}
	if (d)
		(void)closedir(d);
}

void engine_secrets_remind(struct engine *en)
{
	int64_t now = clock_real(en->clock);

	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (!run_is_live(er->r) && er->r->attempt && engine_has_secrets(er->r) &&
		    now - er->r->t_changed < REMIND_US)
			engine_send(en, er, engine_creq_placed(en, er, CREQ_END_SEEN, 0));
	}
}

int engine_secrets_check(const struct engine *en, uint32_t num, const struct job *job, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;
	int rc = 0;

	engine_secrets_dir(en, num, &dir);
	for (size_t i = 0; i < job->n_secret; i++) {
		cleanup_free char *path = xasprintf("%s/%s", dir.buf, job->secret[i].name);

		if (strcmp(job->secret[i].value, SPEC_HIDDEN) == 0 && access(path, R_OK) < 0)
			rc = strbuf_complain(errors, "secret_env.%s: its value is no longer in %s: submit it again",
					     job->secret[i].name, dir.buf);
	}
	return rc;
}

/* A default of the configuration may be a value, too. */
int engine_secrets_take(struct effective *eff, json_t *values, struct strbuf *errors)
{
	json_t *map = json_object_get(eff->values, "secret_env"), *v;
	const char *name;
	int rc = 0;

	json_object_foreach (map, name, v) {
		const char *text = json_string_value(v);

		if (text && strcmp(text, SPEC_HIDDEN) == 0 && !json_object_get(values, name))
			rc = strbuf_complain(errors,
					     "secret_env.%s: " SPEC_HIDDEN " is what a spec shows in place of a value, "
					     "which is not kept: write the value again, or file:/PATH or cluster:PATH",
					     name);
	}
	(void)spec_take_secrets(eff->values, values);
	return rc;
}
