/*
 * An error is a negative errno plus a sentence that a user can act on.
 *
 * Functions that can fail return 0 (or a count) or a negative errno and take a `struct err *` last. The
 * caller owns the struct, usually on its stack; NULL is allowed where the text is not wanted. On failure
 * the function has no side effects and the text is set; on success the text is left alone.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

struct err {
	int code;        /* negative errno, 0 when nothing was reported */
	char text[1024]; /* one or more sentences, no final newline */
};

#define ERR_INIT                                                                                                       \
	{                                                                                                              \
		0, ""                                                                                                  \
	}

/* Sets code and text and returns `code`, so that one line reports and fails. `code` must be negative. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with ": strerror(-code)" appended. */
int err_sys(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "PREFIX: " before the text that is there and returns the code that is there. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
