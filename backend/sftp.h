/*
 * An SFTP version 3 client (draft-ietf-secsh-filexfer-02) as a protocol only: bytes in, bytes out. Any number of
 * requests is on its way at once and answers are matched by id, so a hundred logs cost one round trip, not a hundred;
 * libssh2's own client cannot do that. Single thread; callbacks run inside sftp_input and sftp_abort.
 *
 * The parser believes nothing the peer says about lengths beyond SFTP_PACKET_MAX.
 */
#ifndef BACKEND_SFTP_H
#define BACKEND_SFTP_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

#define SFTP_PACKET_MAX (256 * 1024)
#define SFTP_READ_MAX 32768 /* bytes asked for in one READ (what every server allows) */

struct sftp;

struct sftp_attr {
	bool has_size, has_mode, has_times;
	uint64_t size;
	uint32_t mode;  /* with the file type bits */
	uint32_t mtime; /* seconds */
};

struct sftp_reply {
	int code;         /* 0, or -ENOENT -EACCES -EIO -EOPNOTSUPP -ECONNRESET ...; end of file is 0 with len 0 */
	const char *text; /* the server's words, may be "" */
	const char *data; /* READ: bytes; OPEN, OPENDIR: the handle; READLINK, REALPATH: the path; borrowed */
	size_t len;
	struct sftp_attr attr; /* STAT, FSTAT, LSTAT; READDIR entry */
	const char *name; /* READDIR: one call per entry, without . and .. and names with a slash; the last call has
			     name NULL */
};

typedef void (*sftp_cb)(void *arg, const struct sftp_reply *r);

struct sftp *sftp_new(void);
void sftp_free(struct sftp *s);             /* calls back nothing; sftp_abort first */
struct strbuf *sftp_output(struct sftp *s); /* bytes to write to the channel (INIT first) */
int sftp_input(struct sftp *s, const char *data, size_t len, struct err *e); /* -EPROTO: give the channel up */
void sftp_abort(struct sftp *s);       /* answers every request that is open with -ECONNRESET */
bool sftp_ready(const struct sftp *s); /* VERSION was seen */
size_t sftp_in_flight(const struct sftp *s);

/* Requests. Paths are bytes, relative ones start at the user's home. */
void sftp_open_read(struct sftp *s, const char *path, sftp_cb cb, void *arg);
void sftp_open_write(struct sftp *s, const char *path, uint32_t mode, bool truncate, sftp_cb cb, void *arg);
void sftp_close(struct sftp *s, const char *handle, size_t len); /* answer ignored */
void sftp_read(struct sftp *s, const char *handle, size_t hlen, uint64_t off, uint32_t len, sftp_cb cb, void *arg);
void sftp_write(struct sftp *s, const char *handle, size_t hlen, uint64_t off, const void *data, size_t len, sftp_cb cb,
		void *arg);
void sftp_stat(struct sftp *s, const char *path, sftp_cb cb, void *arg);
void sftp_lstat(struct sftp *s, const char *path, sftp_cb cb, void *arg);
void sftp_fstat(struct sftp *s, const char *handle, size_t hlen, sftp_cb cb, void *arg);
void sftp_opendir(struct sftp *s, const char *path, sftp_cb cb, void *arg);
void sftp_readdir(struct sftp *s, const char *handle, size_t hlen, sftp_cb cb,
		  void *arg); /* one batch; ask again until -ENODATA */
void sftp_readlink(struct sftp *s, const char *path, sftp_cb cb, void *arg);
void sftp_realpath(struct sftp *s, const char *path, sftp_cb cb, void *arg);

#endif
