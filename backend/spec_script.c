/*
 * Batch scripts: the keys that #SBATCH lines set. The lines are read as sbatch reads them (seen with 22.05): they
 * begin with "#SBATCH" in the first column and count until the first line that is neither blank nor a comment;
 * quotes of both kinds join blanks, a backslash protects a quote or '#' even inside quotes, an unprotected '#' ends
 * the line; the words of all lines form one argument vector for getopt_long(3), whose abbreviations work too.
 *
 * The script itself is left as it is. Unlike sbatch, two different values for one key are an error.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define MAGIC "#SBATCH"

struct word {
	char *text;
	unsigned line;
};

struct words {
	struct word *v;
	size_t n, cap;
};

static void words_release(struct words *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->v[i].text);
	free(w->v);
}

static void words_add(struct words *w, const struct strbuf *text, unsigned line)
{
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 16;
		w->v = xrealloc(w->v, w->cap * sizeof(*w->v));
	}
	w->v[w->n].text = xstrndup(text->buf, text->len);
	w->v[w->n++].line = line;
}

/* One word at *p: 1, 0 at the end of the line or at a comment, -1 when a quote is not closed. */
static int next_word(const char **p, const char *end, struct strbuf *out)
{
	const char *s = *p;
	char quote = '\0';

	strbuf_reset(out);
	while (s < end && isspace((unsigned char)*s))
		s++;
	*p = s;
	if (s == end || *s == '#')
		return 0;
	for (; s < end && (quote || !isspace((unsigned char)*s)); s++) {
		if (*s == '\\' && s + 1 < end && (quote || !isspace((unsigned char)s[1])))
			strbuf_addch(out, *++s);
		else if (*s == '\\')
			continue;
		else if (quote && *s == quote)
			quote = '\0';
		else if (!quote && (*s == '"' || *s == '\''))
			quote = *s;
		else if (!quote && *s == '#')
			break;
		else
			strbuf_addch(out, *s);
	}
	*p = s;
	return quote ? -1 : 1;
}

static int read_line(struct words *w, const char *p, const char *end, unsigned line, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf word = STRBUF_INIT;
	bool first = true;
	int r;

	while ((r = next_word(&p, end, &word)) > 0) {
		if (first && (*word.buf == ':' || strcmp(word.buf, "hetjob") == 0 || strcmp(word.buf, "packjob") == 0))
			return spec_complain(errors,
					     "line %u of the script: heterogeneous jobs (%s) are not possible yet; "
					     "write a run for each part",
					     line, *word.buf == ':' ? ":" : word.buf);
		words_add(w, &word, line);
		first = false;
	}
	return r < 0 ? spec_complain(errors, "line %u of the script: a quote is not closed", line) : 0;
}

/* All words of all #SBATCH lines. */
static int read_lines(struct words *w, const char *text, size_t len, struct strbuf *errors)
{
	const char *end = text + len, *next;
	unsigned line = 1;
	int rc = 0;

	for (const char *p = text; p < end && !spec_errors_full(errors); p = next, line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p)), *eol = nl ? nl : end;

		next = nl ? nl + 1 : end;
		if ((size_t)(eol - p) >= strlen(MAGIC) && memcmp(p, MAGIC, strlen(MAGIC)) == 0) {
			if (read_line(w, p + strlen(MAGIC), eol, line, errors) < 0)
				rc = -EINVAL;
			continue;
		}
		while (p < eol && isspace((unsigned char)*p))
			p++;
		if (p < eol && *p != '#')
			break;
	}
	return rc;
}

/* Options that only steer what sbatch prints, or how long it runs. */
static bool ignored(const struct spec_key *k)
{
	static const char *const names[] = { "quiet", "verbose", "parsable", "wait" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(k->name, names[i]) == 0)
			return true;
	return false;
}

/* Adds what `found` says to `errors`, each line with the place. */
static void report(unsigned line, char *found, struct strbuf *errors)
{
	for (char *p = found, *nl; *p; p = nl) {
		nl = strchrnul(p, '\n');
		if (*nl)
			*nl++ = '\0';
		spec_complain(errors, "line %u of the script: %s", line, p);
	}
}

static int set_key(json_t *spec, const char *name, json_t *value, unsigned line, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf found = STRBUF_INIT;
	int rc = spec_add(spec, name, value, true, &found);

	if (rc < 0)
		report(line, found.buf, errors);
	json_decref(value);
	return rc;
}

struct options {
	const struct words *words;
	size_t i; /* the next word */
	json_t *spec;
	struct strbuf *errors;
	char **workdir; /* where the working directory goes, unchecked; NULL: it is a key as any */
};

static bool takes_value(const struct spec_key *k)
{
	return k->type != SPEC_FLAG && k->type != SPEC_OPTIONAL;
}

/* One option; `value` is what was attached to it, or NULL. */
static int apply(struct options *o, const struct spec_key *k, const char *value, unsigned line)
{
	char shown[SPEC_SHOWN];

	if (takes_value(k) && !value) {
		if (o->i == o->words->n)
			return spec_complain(o->errors, "line %u of the script: '%s' needs a value", line, k->name);
		value = o->words->v[o->i++].text;
	}
	if (k->type == SPEC_FLAG && value)
		return spec_complain(o->errors, "line %u of the script: '%s' takes no value, not '%s'", line, k->name,
				     spec_show(value, shown));
	if (ignored(k))
		return 0;
	if (o->workdir && strcmp(k->name, "workdir") == 0) {
		str_set(o->workdir, value);
		return 0;
	}
	return set_key(o->spec, k->name, value ? json_string(value) : json_true(), line, o->errors);
}

static int unknown_option(const char *name, unsigned line, struct strbuf *errors)
{
	const char *near = spec_key_nearest(name);
	cleanup_free char *option = xstrdup(near ? near : "");
	char shown[SPEC_SHOWN];

	for (char *p = option; *p; p++)
		if (*p == '_')
			*p = '-';
	spec_show(name, shown);
	/* The nearest key may be one that sbatch does not have. */
	if (spec_key_option(option))
		return spec_complain(errors, "line %u of the script: sbatch has no option --%s: did you mean --%s?",
				     line, shown, option);
	return spec_complain(errors, "line %u of the script: sbatch has no option --%s", line, shown);
}

static int long_option(struct options *o, const char *text, unsigned line)
{
	size_t len = strcspn(text, "=");
	cleanup_free char *name = xstrndup(text, len);
	const char *value = text[len] ? text + len + 1 : NULL;
	const struct spec_key *k = spec_key_option(name);

	/* `profile` is a key of slurmray's with another meaning. */
	if (strcmp(name, "profile") == 0 && (value || o->i < o->words->n)) {
		cleanup_free char *arg = xasprintf("--profile=%s", value ? value : o->words->v[o->i++].text);

		return set_key(o->spec, "sbatch_args", json_pack("[s]", arg), line, o->errors);
	}
	return k ? apply(o, k, value, line) : unknown_option(name, line, o->errors);
}

/* "-HN2": flags in a row, then perhaps one option whose value is the rest or the next word. */
static int short_options(struct options *o, const char *p, unsigned line)
{
	while (*p) {
		const struct spec_key *k = spec_key_letter(*p);
		int rc;

		if (!k)
			return spec_complain(o->errors, "line %u of the script: sbatch has no option '-%c'", line,
					     isprint((unsigned char)*p) ? *p : '?');
		p++;
		if (k->type != SPEC_FLAG)
			return apply(o, k, *p ? p : NULL, line);
		rc = apply(o, k, NULL, line);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int options_run(struct options *o)
{
	char shown[SPEC_SHOWN];
	int rc = 0, r;

	while (o->i < o->words->n && !spec_errors_full(o->errors)) {
		const struct word *w = &o->words->v[o->i++];

		if (strncmp(w->text, "--", 2) == 0 && w->text[2])
			r = long_option(o, w->text + 2, w->line);
		else if (w->text[0] == '-' && w->text[1] && w->text[1] != '-')
			r = short_options(o, w->text + 1, w->line);
		else
			r = spec_complain(o->errors, "line %u of the script: '%s' is no option of sbatch", w->line,
					  spec_show(w->text, shown));
		if (r < 0)
			rc = -EINVAL;
	}
	return rc;
}

int spec_script(const char *text, size_t len, json_t *spec, char **workdir, struct strbuf *errors)
{
	struct words words = { NULL, 0, 0 };
	struct options o = { &words, 0, spec, errors, workdir };
	int rc;

	if (memmem(text, len, "\r\n", 2))
		return spec_complain(errors,
				     "'script' contains DOS line breaks (\\r\\n) instead of UNIX line breaks (\\n); "
				     "dos2unix converts it");
	rc = read_lines(&words, text, len, errors);
	if (options_run(&o) < 0)
		rc = -EINVAL;
	words_release(&words);
	return rc;
}

char *spec_script_workdir(const char *text, size_t len)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *keys = json_object();
	char *dir = NULL;

	(void)spec_script(text, len, keys, &dir, &errors); /* what else is wrong is another's to say */
	json_decref(keys);
	return dir;
}
