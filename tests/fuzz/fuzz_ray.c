/*
 * What a Ray head and its agents may answer: taken or not, with a sentence; names of an index never lead elsewhere;
 * what is shown is one line.
 */
#include "backend/base/mem.h"
#include "backend/http.h"
#include "backend/ray_api.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void job(const char *text, size_t len)
{
	cleanup_free char *base = NULL, *host = NULL;
	struct err e = ERR_INIT;
	struct ray_job j;
	int port = 0;

	if (ray_job_parse(text, len, &j, &e) < 0) {
		assert(e.text[0]);
		return;
	}
	assert(j.message && j.error_type && j.start >= 0 && j.end >= 0);
	assert(j.status >= RAY_PENDING && j.status <= RAY_STATUS_UNKNOWN);
	assert(j.code > -1000 && j.code < 1000);
	base = j.agent ? http_base(j.agent, &e) : NULL;
	if (base) {
		assert(strncmp(base, "http://", 7) == 0 || strncmp(base, "https://", 8) == 0);
		assert(http_place(base, &host, &port) && port > 0 && port < 65536);
	}
	ray_job_release(&j);
}

static void version(const char *text, size_t len)
{
	char *session, *ray;
	struct err e = ERR_INIT;

	if (ray_version_parse(text, len, &session, &ray, &e) < 0) {
		assert(e.text[0] && !session && !ray);
		return;
	}
	assert(session && ray);
	free(session);
	free(ray);
}

static void rows(json_t *(*parse)(const char *, size_t), const char *text, size_t len)
{
	json_t *all = parse(text, len), *row;
	size_t i;

	json_array_foreach (all, i, row)
		assert(json_is_string(json_object_get(row, "state")) && json_is_string(json_object_get(row, "id")));
	json_decref(all);
}

static void index_names(const char *text, size_t len)
{
	cleanup_strbuf struct strbuf names = STRBUF_INIT;

	ray_index_names(text, len, &names);
	for (const char *s = names.buf; s < names.buf + names.len; s += strlen(s) + 1) {
		const char *slash = strchr(s, '/');

		assert(*s && *s != '/' && strcmp(s, "..") != 0 && strcmp(s, ".") != 0 && strcmp(s, "../") != 0 &&
		       strcmp(s, "./") != 0);
		assert(!slash || !slash[1]);
	}
}

static void refusal(const char *text, size_t len)
{
	static const int statuses[] = { 200, 400, 401, 403, 404, 408, 413, 429, 500, 503 };
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	int status = statuses[len % ARRAY_SIZE(statuses)];

	(void)ray_submit_answer(status, text, len, &why);
	assert(why.len && why.len < 1000);
	for (size_t i = 0; i < why.len; i++)
		assert((unsigned char)why.buf[i] >= ' ' && why.buf[i] != 127);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *text = NULL;
	size_t len;

	if (!size)
		return 0;
	len = size - 1;
	text = xmalloc(len + 1); /* exactly so many bytes, for the sanitizer */
	memcpy(text, data + 1, len);
	text[len] = '\0';
	switch (data[0] % 6) {
	case 0:
		job(text, len);
		break;
	case 1:
		version(text, len);
		break;
	case 2:
		rows(ray_jobs_rows, text, len);
		break;
	case 3:
		rows(ray_nodes_rows, text, len);
		break;
	case 4:
		index_names(text, len);
		break;
	default:
		refusal(text, len);
		break;
	}
	return 0;
}
