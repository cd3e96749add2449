/*
 * Tables of what clusters answer. Pure: JSON text in, text out.
 *
 * Invariants: a row is one line and has as many cells as the heading, whatever is in the JSON (control characters
 * become blanks); nothing but the last cell of a row is followed by padding that means anything. Widths count
 * characters, not bytes (RFC 3629: 10xxxxxx continues one).
 */
#include "fs/table.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <jansson.h>
#include <string.h>

#define MAX_COLUMNS 32
#define GAP "  "

static const char *const counts[] = { "allocated", "idle", "other", "total" };

static bool is_counts(const json_t *v)
{
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
		if (!json_object_get(v, counts[i]))
			return false;
	return json_object_size(v) == ARRAY_SIZE(counts);
}

/* Seconds since the epoch, by the name of what they are. */
static bool is_time(const char *key, const json_t *v)
{
	size_t len = strlen(key);

	return json_is_integer(v) && json_integer_value(v) > 0 && json_integer_value(v) < INT64_MAX / USEC_PER_SEC &&
	       (strcmp(key, "start") == 0 || (len > 5 && strcmp(key + len - 5, "_time") == 0));
}

static void add_plain(struct strbuf *out, const char *s)
{
	if (!*s)
		strbuf_addch(out, '-');
	for (; *s; s++)
		strbuf_addch(out, (unsigned char)*s < ' ' || *s == 127 ? ' ' : *s);
}

/* What is no list and no object. */
static void add_scalar(struct strbuf *out, const char *key, const json_t *v)
{
	char when[CLOCK_TEXT];

	if (is_time(key, v))
		strbuf_addf(out, "%.19sZ", clock_text(json_integer_value(v) * USEC_PER_SEC, when));
	else if (json_is_string(v))
		add_plain(out, json_string_value(v));
	else if (json_is_integer(v))
		strbuf_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_real(v))
		strbuf_addf(out, "%g", json_real_value(v));
	else if (json_is_boolean(v))
		strbuf_addstr(out, json_is_true(v) ? "yes" : "no");
	else
		strbuf_addch(out, '-');
}

static void add_cell(struct strbuf *out, const char *key, const json_t *v)
{
	size_t i, before = out->len;
	const char *name;
	json_t *one;

	json_array_foreach ((json_t *)v, i, one) {
		strbuf_addstr(out, i ? "," : "");
		add_scalar(out, key, one);
	}
	if (is_counts(v)) {
		for (i = 0; i < ARRAY_SIZE(counts); i++) {
			strbuf_addstr(out, i ? "/" : "");
			add_scalar(out, counts[i], json_object_get(v, counts[i]));
		}
		return;
	}
	json_object_foreach ((json_t *)v, name, one) {
		strbuf_addf(out, "%s%s=", out->len > before ? "," : "", name);
		add_scalar(out, name, one);
	}
	if (out->len == before)
		add_scalar(out, key, v);
}

/* --- the table --- */

struct column {
	const char *key;
	size_t width;
	bool number; /* every cell is one, or is not known */
};

struct table {
	const json_t *rows;
	struct column columns[MAX_COLUMNS];
	size_t n;
};

static size_t width_of(const struct strbuf *sb)
{
	size_t n = 0;

	for (size_t i = 0; i < sb->len; i++)
		n += ((unsigned char)sb->buf[i] & 0xc0) != 0x80;
	return n;
}

static void add_heading(struct strbuf *out, const struct column *c, const json_t *first)
{
	for (const char *s = c->key; *s; s++)
		strbuf_addch(out, *s >= 'a' && *s <= 'z' ? (char)(*s - 'a' + 'A') : *s);
	if (is_counts(json_object_get(first, c->key)))
		strbuf_addstr(out, "(A/I/O/T)");
}

static void widen(struct column *c, const struct strbuf *cell)
{
	if (width_of(cell) > c->width)
		c->width = width_of(cell);
}

static void measure(struct table *t, struct column *c)
{
	cleanup_strbuf struct strbuf cell = STRBUF_INIT;
	bool known = false;
	size_t i;
	json_t *row;

	add_heading(&cell, c, json_array_get(t->rows, 0));
	widen(c, &cell);
	c->number = true;
	json_array_foreach ((json_t *)t->rows, i, row) {
		const json_t *v = json_object_get(row, c->key);

		strbuf_reset(&cell);
		add_cell(&cell, c->key, v);
		widen(c, &cell);
		known |= v && !json_is_null(v);
		if (v && !json_is_null(v) && (!json_is_number(v) || is_time(c->key, v)))
			c->number = false;
	}
	c->number &= known;
}

static void add_padded(struct strbuf *out, const struct table *t, size_t i, const struct strbuf *cell)
{
	const struct column *c = &t->columns[i];
	size_t fill = c->width - width_of(cell);

	for (size_t k = 0; c->number && k < fill; k++)
		strbuf_addch(out, ' ');
	strbuf_addbuf(out, cell);
	if (i + 1 == t->n) {
		strbuf_addch(out, '\n');
		return;
	}
	for (size_t k = 0; !c->number && k < fill; k++)
		strbuf_addch(out, ' ');
	strbuf_addstr(out, GAP);
}

static void add_row(struct strbuf *out, const struct table *t, const json_t *row)
{
	cleanup_strbuf struct strbuf cell = STRBUF_INIT;

	for (size_t i = 0; i < t->n; i++) {
		strbuf_reset(&cell);
		if (row)
			add_cell(&cell, t->columns[i].key, json_object_get(row, t->columns[i].key));
		else
			add_heading(&cell, &t->columns[i], json_array_get(t->rows, 0));
		add_padded(out, t, i, &cell);
	}
}

static void add_table(struct strbuf *out, const json_t *rows)
{
	struct table t = { .rows = rows };
	const char *key;
	json_t *v;
	size_t i;

	json_object_foreach (json_array_get(rows, 0), key, v)
		if (t.n < MAX_COLUMNS)
			t.columns[t.n++].key = key;
	for (i = 0; i < t.n; i++)
		measure(&t, &t.columns[i]);
	if (t.n)
		add_row(out, &t, NULL);
	json_array_foreach ((json_t *)rows, i, v)
		if (t.n)
			add_row(out, &t, v);
}

/* --- lines --- */

static void add_line(struct strbuf *out, const char *key, const char *member, const json_t *v)
{
	strbuf_addf(out, "%s%s%s ", key, *member ? "_" : "", member);
	add_cell(out, *member ? member : key, v);
	strbuf_addch(out, '\n');
}

static void add_lines(struct strbuf *out, const json_t *o)
{
	const char *key, *member;
	json_t *v, *one;

	json_object_foreach ((json_t *)o, key, v) {
		if (!json_object_size(v))
			add_line(out, key, "", v);
		json_object_foreach (v, member, one)
			add_line(out, key, member, one);
	}
}

/* [{"note": "..."}]: instead of rows, why there are none. */
static const char *note_of(const json_t *doc)
{
	const json_t *first = json_array_get(doc, 0);

	return json_object_size(first) == 1 ? json_string_value(json_object_get(first, "note")) : NULL;
}

void table_text(const char *json, struct strbuf *out)
{
	json_t *doc = json_loads(json, JSON_DECODE_ANY, NULL);

	if (note_of(doc)) {
		add_plain(out, note_of(doc));
		strbuf_addch(out, '\n');
	} else if (json_is_array(doc)) {
		add_table(out, doc);
	} else {
		add_lines(out, doc);
	}
	json_decref(doc);
}
