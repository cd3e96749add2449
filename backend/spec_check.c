/*
 * What single values must look like: messages, text, Slurm's times and sizes, names, paths, and the finer rules
 * of single keys (signal, GPUs, choices). Slurm's forms follow sbatch(1) of 22.05 and what that release was seen to
 * accept; where it takes more than it documents (a time of "-5", nodes "2m"), only the documented form passes here.
 *
 * Every function that fails with -EINVAL and takes `errors` has added a sentence there which names the key and
 * says what would be right.
 */
#include "backend/spec_impl.h"

#include "backend/base/err.h"
#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME_MAX_BYTES 128
#define MIB (1024LL * 1024)

/* ---- messages ---- */

bool spec_errors_full(const struct strbuf *errors)
{
	return errors->len >= SPEC_ERRORS_MAX;
}

int spec_complain(struct strbuf *errors, const char *fmt, ...)
{
	va_list ap;
	size_t start;

	if (spec_errors_full(errors))
		return -EINVAL;
	if (errors->len > 0)
		strbuf_addch(errors, '\n');
	start = errors->len;
	va_start(ap, fmt);
	strbuf_vaddf(errors, fmt, ap);
	va_end(ap);
	for (size_t i = start; i < errors->len; i++)
		if (iscntrl((unsigned char)errors->buf[i]))
			errors->buf[i] = '?';
	if (spec_errors_full(errors))
		strbuf_addstr(errors, "\nthere are more errors; they are not shown");
	return -EINVAL;
}

const char *spec_show(const char *text, char buf[SPEC_SHOWN])
{
	const size_t room = SPEC_SHOWN - sizeof("...");
	size_t len = strlen(text);

	if (len <= room) {
		memcpy(buf, text, len + 1);
		return buf;
	}
	for (len = room; len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80; len--)
		;
	memcpy(buf, text, len);
	memcpy(buf + len, "...", sizeof("..."));
	return buf;
}

/* ---- text ---- */

/* The length of the UTF-8 sequence at s (RFC 3629, section 4), or 0. */
static size_t utf8_sequence(const unsigned char *s, size_t len)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (len < n || s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

size_t spec_utf8_prefix(const char *text, size_t len)
{
	size_t pos = 0;

	while (pos < len) {
		size_t n = utf8_sequence((const unsigned char *)text + pos, len - pos);

		if (n == 0)
			return pos;
		pos += n;
	}
	return len;
}

/* A real number with as few digits as give it back. */
static void real_text(double v, struct strbuf *out)
{
	char buf[64];

	for (int digits = 6; digits <= 17; digits++) {
		(void)snprintf(buf, sizeof(buf), "%.*g", digits, v);
		if (strtod(buf, NULL) == v)
			break;
	}
	strbuf_addstr(out, buf);
}

int spec_text(const json_t *value, bool flags, struct strbuf *out)
{
	if (json_is_string(value))
		strbuf_add(out, json_string_value(value), json_string_length(value));
	else if (json_is_integer(value))
		strbuf_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else if (json_is_real(value))
		real_text(json_real_value(value), out);
	else if (flags && json_is_boolean(value))
		strbuf_addstr(out, json_is_true(value) ? "true" : "false");
	else
		return -EINVAL;
	return 0;
}

int spec_want_text(const char *key, const json_t *value, struct strbuf *out, struct strbuf *errors)
{
	if (spec_text(value, false, out) < 0)
		return spec_complain(errors, "'%s' must be text", key);
	if (strlen(out->buf) != out->len)
		return spec_complain(errors, "'%s' must not contain a NUL character", key);
	return 0;
}

bool spec_has_control(const char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			return true;
	return false;
}

bool spec_digits(const char **p, long long max, long long *out)
{
	const char *s = *p;
	long long v = 0;

	for (; *s >= '0' && *s <= '9'; s++) {
		v = v * 10 + (*s - '0');
		if (v > max)
			return false;
	}
	if (s == *p)
		return false;
	*p = s;
	*out = v;
	return true;
}

/* ---- time and memory ---- */

/* Up to `max` numbers between colons. The count, or -EINVAL. */
static int colon_numbers(const char *p, int max, long long *v)
{
	for (int n = 0; n < max; n++) {
		if (!spec_digits(&p, INT_MAX, &v[n]))
			return -EINVAL;
		if (!*p)
			return n + 1;
		if (*p++ != ':')
			return -EINVAL;
	}
	return -EINVAL;
}

long long spec_time_seconds(const char *text)
{
	long long v[3] = { 0, 0, 0 }, days = 0, total;
	const char *p = text;
	int n;

	if (strcasecmp(text, "UNLIMITED") == 0 || strcasecmp(text, "INFINITE") == 0 || strcmp(text, "-1") == 0)
		return -1;
	if (spec_digits(&p, INT_MAX, &days) && *p == '-') {
		n = colon_numbers(p + 1, 3, v); /* D-H[:M[:S]] */
		total = days * 86400 + v[0] * 3600 + v[1] * 60 + v[2];
	} else {
		n = colon_numbers(text, 3, v); /* M[:S], H:M:S */
		total = n == 3 ? v[0] * 3600 + v[1] * 60 + v[2] : v[0] * 60 + v[1];
	}
	/* Slurm counts seconds in an int. */
	return n < 0 || total > INT_MAX ? -EINVAL : total;
}

long long spec_memory_bytes(const char *text)
{
	const char *p = text;
	long long v, unit;

	if (!spec_digits(&p, LLONG_MAX / 16, &v))
		return -EINVAL;
	switch (*p ? tolower((unsigned char)*p++) : 'm') {
	case 'k':
		unit = 1024;
		break;
	case 'm':
		unit = MIB;
		break;
	case 'g':
		unit = 1024 * MIB;
		break;
	case 't':
		unit = MIB * MIB;
		break;
	default:
		return -EINVAL;
	}
	if (tolower((unsigned char)*p) == 'b')
		p++;
	return *p || v > LLONG_MAX / unit ? -EINVAL : v * unit;
}

/* ---- names and paths ---- */

static bool name_chars(const char *s, size_t max)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	return n > 0 && n <= max && !s[n];
}

bool spec_name_ok(const char *name, struct err *e)
{
	static const char *const reserved[] = { "new", "check", "template", "list", "last", "any", "wait", "wait-any" };
	char shown[SPEC_SHOWN];

	if (!name_chars(name, NAME_MAX_BYTES) || (!isalpha((unsigned char)*name) && *name != '_')) {
		err_set(e, -EINVAL, "'%s' is no name: 1 to %d of A-Z a-z 0-9 . _ -, the first a letter or _",
			spec_show(name, shown), NAME_MAX_BYTES);
		return false;
	}
	for (size_t i = 0; i < ARRAY_SIZE(reserved); i++) {
		if (strcmp(name, reserved[i]) == 0) {
			err_set(e, -EINVAL, "'%s' is the name of a file here; choose another", name);
			return false;
		}
	}
	return true;
}

bool spec_run_id_ok(const char *text)
{
	const char *p = text;
	long long id;

	if (*text >= '1' && *text <= '9')
		return spec_digits(&p, UINT32_MAX, &id) && !*p;
	return spec_name_ok(text, NULL);
}

static bool session_ok(const char *text)
{
	return strcmp(text, "any") == 0 || spec_run_id_ok(text);
}

static bool plain_name_ok(const char *s)
{
	return name_chars(s, NAME_MAX_BYTES) && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

static bool tag_ok(const char *s)
{
	return spec_name_ok(s, NULL);
}

static bool local_path_ok(const char *s)
{
	return *s == '/' && !spec_has_control(s);
}

static bool workdir_ok(const char *s)
{
	return (*s == '/' || strcmp(s, "~") == 0 || strncmp(s, "~/", 2) == 0) && !spec_has_control(s);
}

static bool job_name_ok(const char *s)
{
	return strlen(s) <= NAME_MAX_BYTES;
}

static bool idempotency_key_ok(const char *s)
{
	if (strlen(s) > NAME_MAX_BYTES)
		return false;
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			return false;
	return true;
}

static bool script_ok(const char *s)
{
	return strncmp(s, "#!", 2) == 0 && (unsigned char)s[2 + strspn(s + 2, " \t")] > ' ';
}

static bool yes_no_ok(const char *s)
{
	return strcmp(s, "yes") == 0 || strcmp(s, "no") == 0;
}

static bool open_mode_ok(const char *s)
{
	return strcmp(s, "append") == 0 || strcmp(s, "truncate") == 0 || strcmp(s, "a") == 0 || strcmp(s, "t") == 0;
}

static bool streams_ok(const char *s)
{
	return strcmp(s, "split") == 0 || strcmp(s, "merged") == 0;
}

static bool signal_name_ok(const char *s, size_t len)
{
	static const char *const names[] = { "HUP",  "INT",  "QUIT", "ABRT", "KILL", "ALRM", "TERM",
					     "USR1", "USR2", "URG",  "CONT", "STOP", "TSTP", "TTIN",
					     "TTOU", "PIPE", "XCPU", "SEGV", "CHLD" };

	if (len > 3 && strncasecmp(s, "SIG", 3) == 0) {
		s += 3;
		len -= 3;
	}
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i]) == len && strncasecmp(names[i], s, len) == 0)
			return true;
	return false;
}

/* [R][B]:SIGNAL[@SECONDS], seconds up to 65535 (sbatch(1), --signal). */
static bool signal_ok(const char *s)
{
	const char *colon = strchr(s, ':'), *at;
	long long v;

	if (colon) {
		if (colon == s || colon - s > 2 || strspn(s, "RB") != (size_t)(colon - s) ||
		    (colon - s == 2 && s[0] == s[1]))
			return false;
		s = colon + 1;
	}
	at = strchrnul(s, '@');
	if (isdigit((unsigned char)*s)) {
		if (!spec_digits(&s, 64, &v) || v < 1 || s != at)
			return false;
	} else if (!signal_name_ok(s, (size_t)(at - s))) {
		return false;
	}
	if (!*at)
		return true;
	at++;
	return spec_digits(&at, 65535, &v) && !*at;
}

/* COUNT, TYPE or TYPE:COUNT, several with commas. */
static bool gpus_ok(const char *s)
{
	for (;;) {
		size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
		bool typed = strspn(s, "0123456789") < n;
		const char *p = s + n;
		long long v;

		if (n == 0 || !isalnum((unsigned char)*s))
			return false;
		if (typed && *p == ':' && (p++, !spec_digits(&p, INT_MAX, &v)))
			return false;
		if (!typed && n > 9)
			return false;
		if (!*p)
			return true;
		if (*p != ',')
			return false;
		s = p + 1;
	}
}

#define WANT_GPUS "a count or TYPE:COUNT, like 4 or a100:2"
#define WANT_NAME "a name of 1 to 128 of A-Z a-z 0-9 . _ -"

static const struct rule {
	const char *key;
	bool (*ok)(const char *text);
	const char *want;
} rules[] = {
	{ "script", script_ok,
	  "the text of a script that begins with #! and the path of an interpreter, such as #!/bin/bash (a file is shipped with "
	  "`payload`)" },
	{ "payload", local_path_ok, "the absolute path of a local file" },
	{ "pipes_module", spec_pipes_module_ok, "the absolute path of a local dagster_pipes that ends in .whl or .py" },
	{ "cluster", plain_name_ok, WANT_NAME },
	{ "profile", plain_name_ok, WANT_NAME },
	{ "name", job_name_ok, "at most 128 bytes" },
	{ "key", idempotency_key_ok, "at most 128 printable ASCII characters" },
	{ "workdir", workdir_ok,
	  "a directory of the cluster as an absolute path, /... or ~/... (only `slurmray submit` knows where you are: it makes a "
	  "relative one absolute for jobs of this machine)" },
	{ "streams", streams_ok, "split or merged" },
	{ "signal", signal_ok, "SIGNAL or SIGNAL@SECONDS, like USR1@120 or B:TERM@60" },
	{ "gpus", gpus_ok, WANT_GPUS },
	{ "gpus_per_node", gpus_ok, WANT_GPUS },
	{ "gpus_per_task", gpus_ok, WANT_GPUS },
	{ "gpus_per_socket", gpus_ok, WANT_GPUS },
	{ "open_mode", open_mode_ok, "append or truncate" },
	{ "kill_on_invalid_dep", yes_no_ok, "yes or no" },
	{ "tags", tag_ok,
	  "a list of names: A-Z a-z 0-9 . _ -, the first a letter or _, none of new, list, last, wait..." },
	{ "files", local_path_ok, "a list of absolute local paths" },
	{ "session", session_ok, "the name of a session, or any" },
	{ "afterok", spec_run_id_ok, "a list of run ids: numbers or names" },
	{ "afterany", spec_run_id_ok, "a list of run ids: numbers or names" },
	{ "afternotok", spec_run_id_ok, "a list of run ids: numbers or names" },
};

static const struct rule *rule_of(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		if (strcmp(rules[i].key, key) == 0)
			return &rules[i];
	return NULL;
}

/* Words of which some are for later; the sentence says which. */
static const struct choice {
	const char *key, *word, *later; /* later: NULL when it is possible now */
} choices[] = {
	{ "launcher", "bash", NULL },
	{ "launcher", "session", NULL },
	{ "launcher", "ray", NULL },
	{ "launcher", "spark", NULL },
	{ "pipes_exception", "fail", NULL },
	{ "pipes_exception", "ignore", NULL },
	{ "on_session_end", "cancel", NULL },
	{ "on_session_end", "wait", NULL },
	{ "on_session_end", "job", NULL },
	{ "scope", "session", NULL },
	{ "scope", "lease", NULL },
	{ "shared", "begin", NULL },
	{ "shared", "attach", NULL },
	{ "mode", "slurm", NULL },
	{ "mode", "local", NULL },
	{ "mode", "slurm-session", NULL },
	{ "mode", "slurm-hetjob", "heterogeneous jobs are not possible yet; use slurm and a run for each part" },
	{ "mode", "ray", NULL },
};

int spec_check_choice(const char *key, const char *text, struct strbuf *errors)
{
	char shown[SPEC_SHOWN];
	bool any = false;

	for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
		if (strcmp(choices[i].key, key) != 0)
			continue;
		any = true;
		if (strcmp(choices[i].word, text) != 0)
			continue;
		return choices[i].later ? spec_complain(errors, "'%s' = %s: %s", key, text, choices[i].later) : 0;
	}
	if (!any)
		return 0;
	return spec_complain(errors, "'%s' must be %s, not '%s'", key,
			     strcmp(key, "mode") == 0              ? "slurm, local or ray"
			     : strcmp(key, "pipes_exception") == 0 ? "fail or ignore"
			     : strcmp(key, "scope") == 0           ? "session or lease"
			     : strcmp(key, "shared") == 0          ? "begin or attach"
			     : strcmp(key, "on_session_end") == 0  ? "cancel, wait or job"
								   : "bash, ray, spark or session",
			     spec_show(text, shown));
}

int spec_check_rule(const char *key, const char *text, struct strbuf *errors)
{
	const struct rule *r = rule_of(key);
	char shown[SPEC_SHOWN];

	if (!r || r->ok(text))
		return 0;
	return spec_complain(errors, "'%s' must be %s, not '%s'", key, r->want, spec_show(text, shown));
}
