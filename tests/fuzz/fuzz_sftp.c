/*
 * Anything that a server may send to the SFTP client, in pieces of a size that the first byte chooses: no crash, every
 * request answered at most once and, after sftp_abort, exactly once; never more bytes than were sent.
 */
#include "backend/sftp.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#define REQUESTS 13

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	int last; /* answers that end a request */
	size_t bytes;
};

static void note(void *arg, const struct sftp_reply *r)
{
	struct seen *s = arg;

	assert(s->last == 0);
	assert(r->code <= 0 && r->text);
	if (r->name) {
		assert(r->name[0] && !strchr(r->name, '/') && strcmp(r->name, "..") != 0);
		s->bytes += strlen(r->name);
		return;
	}
	s->last++;
	for (size_t i = 0; i < r->len; i++)
		s->bytes += (size_t)(r->data[i] | 1) & 1; /* reads every byte */
}

static void ask(struct sftp *s, struct seen seen[REQUESTS])
{
	sftp_open_read(s, "a", note, &seen[0]);
	sftp_open_write(s, "a", 0600, true, note, &seen[1]);
	sftp_read(s, "h", 1, 0, 100, note, &seen[2]);
	sftp_write(s, "h", 1, 0, "x", 1, note, &seen[3]);
	sftp_stat(s, "a", note, &seen[4]);
	sftp_lstat(s, "a", note, &seen[5]);
	sftp_fstat(s, "h", 1, note, &seen[6]);
	sftp_opendir(s, "a", note, &seen[7]);
	sftp_readdir(s, "h", 1, note, &seen[8]);
	sftp_readlink(s, "a", note, &seen[9]);
	sftp_realpath(s, "a", note, &seen[10]);
	sftp_read(s, "h", 1, 9, 100000, note, &seen[11]);
	sftp_readdir(s, "h", 1, note, &seen[12]);
	sftp_close(s, "h", 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char version[] = "\0\0\0\5\2\0\0\0\3";
	struct seen seen[REQUESTS] = { 0 };
	struct sftp *s = sftp_new();
	size_t bytes = 0;

	ask(s, seen);
	if (size && (data[0] & 128))
		assert(sftp_input(s, version, sizeof(version) - 1, NULL) == 0);
	for (size_t at = 1, step = size ? (size_t)(data[0] & 127) + 1 : 1; at < size; at += step) {
		struct err e = ERR_INIT;

		if (sftp_input(s, (const char *)data + at, size - at < step ? size - at : step, &e))
			assert(e.code < 0 && e.text[0]);
	}
	sftp_abort(s);
	assert(sftp_in_flight(s) == 0);
	for (size_t i = 0; i < REQUESTS; i++) {
		assert(seen[i].last == 1);
		bytes += seen[i].bytes;
	}
	assert(bytes <= size);
	sftp_free(s);
	return 0;
}
