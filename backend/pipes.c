/*
 * The judge of Pipes messages. Types are the intersection of what Dagster's handlers take: wrong names, types, levels
 * or metadata raise in its reader's thread, which then is gone while the step goes on without its reports. Where
 * releases differ (strings for a stack, other types in an exception) the stricter one decides. No memory, no recursion;
 * a message is walked over a few times, however long it is.
 */
#include "backend/pipes.h"

#include "backend/base/mem.h"
#include "backend/pjson.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEMBERS_MAX 8
#define EXCEPTIONS_MAX 512 /* more cannot wait at once: one for each level of nesting, and its sibling */

typedef bool (*value_ok)(const struct pjson *v);

/* --- simple types --- */

static bool is_any(const struct pjson *v)
{
	(void)v;
	return true;
}

static bool is_string(const struct pjson *v)
{
	return v->type == PJSON_STRING;
}

static bool is_string_or_null(const struct pjson *v)
{
	return v->type == PJSON_STRING || v->type == PJSON_NULL;
}

static bool is_bool(const struct pjson *v)
{
	return v->type == PJSON_TRUE || v->type == PJSON_FALSE;
}

static bool is_bool_or_null(const struct pjson *v)
{
	return is_bool(v) || v->type == PJSON_NULL;
}

static bool is_int_or_null(const struct pjson *v)
{
	return v->type == PJSON_INT || is_bool_or_null(v);
}

static bool is_float_or_null(const struct pjson *v)
{
	return v->type == PJSON_FLOAT || v->type == PJSON_NULL;
}

/* float(): an integer must be below 1.8e308. */
static bool is_timestamp(const struct pjson *v)
{
	return v->type == PJSON_FLOAT || is_bool(v) || (v->type == PJSON_INT && v->len <= 300);
}

static bool is_json(const struct pjson *v)
{
	return v->type == PJSON_OBJECT || v->type == PJSON_ARRAY || is_string_or_null(v);
}

static bool is_scalar(const struct pjson *v)
{
	return v->type != PJSON_OBJECT && v->type != PJSON_ARRAY;
}

static bool is_string_list(const struct pjson *v)
{
	struct pjson item;
	size_t at = 0;

	if (v->type != PJSON_ARRAY)
		return false;
	while (pjson_next(v, &at, NULL, &item))
		if (item.type != PJSON_STRING)
			return false;
	return true;
}

/* --- members of objects --- */

struct member {
	const char *name;
	value_ok ok;
	enum pipes_reason reason; /* when it is not */
	bool optional;
};

/* Picks the values of the members in `rows` (ended by a row without a name); others are left out. The last of equal
 * names counts. */
static bool pick(const struct pjson *o, const struct member *rows, struct pjson found[MEMBERS_MAX], bool *others)
{
	struct pjson key, value;
	size_t at = 0;

	memset(found, 0, MEMBERS_MAX * sizeof(*found));
	*others = false;
	if (o->type != PJSON_OBJECT)
		return false;
	while (pjson_next(o, &at, &key, &value)) {
		size_t i = 0;

		while (rows[i].name && !pjson_is(&key, rows[i].name))
			i++;
		if (rows[i].name)
			found[i] = value;
		else
			*others = true;
	}
	return true;
}

/* Are the members of an object what the rows want? With `exact` there may be no others. */
static enum pipes_reason check_members(const struct pjson *o, const struct member *rows, bool exact)
{
	struct pjson found[MEMBERS_MAX];
	bool others;

	if (!pick(o, rows, found, &others) || (exact && others))
		return PIPES_PARAMS;
	for (size_t i = 0; rows[i].name; i++) {
		if (!found[i].s && !rows[i].optional)
			return PIPES_PARAMS;
		if (found[i].s && !rows[i].ok(&found[i]))
			return rows[i].reason;
	}
	return PIPES_FINE;
}

/* --- tables --- */

static bool is_tags(const struct pjson *v)
{
	struct pjson key, value;
	size_t at = 0;

	if (v->type == PJSON_NULL)
		return true;
	if (v->type != PJSON_OBJECT)
		return false;
	while (pjson_next(v, &at, &key, &value))
		if (value.type != PJSON_STRING)
			return false;
	return true;
}

static bool is_string_list_or_null(const struct pjson *v)
{
	return v->type == PJSON_NULL || is_string_list(v);
}

static bool is_constraints(const struct pjson *v)
{
	static const struct member rows[] = {
		{ "nullable", is_bool, PIPES_METADATA, true },
		{ "unique", is_bool, PIPES_METADATA, true },
		{ "other", is_string_list_or_null, PIPES_METADATA, true },
		{ 0 },
	};

	return v->type == PJSON_NULL || check_members(v, rows, true) == PIPES_FINE;
}

static bool is_columns(const struct pjson *v)
{
	static const struct member rows[] = {
		{ "name", is_string, PIPES_METADATA, false },
		{ "type", is_string, PIPES_METADATA, false },
		{ "description", is_string_or_null, PIPES_METADATA, true },
		{ "tags", is_tags, PIPES_METADATA, true },
		{ "constraints", is_constraints, PIPES_METADATA, true },
		{ 0 },
	};
	struct pjson column;
	size_t at = 0;

	if (v->type != PJSON_ARRAY)
		return false;
	while (pjson_next(v, &at, NULL, &column))
		if (check_members(&column, rows, false) != PIPES_FINE)
			return false;
	return true;
}

/* Has `b` the member that `key` names? */
static bool has_member(const struct pjson *b, const struct pjson *key)
{
	struct pjson name, value;
	size_t at = 0;

	while (pjson_next(b, &at, &name, &value))
		if (name.len == key->len && memcmp(name.s, key->s, key->len) == 0)
			return true;
	return false;
}

/* A record has the fields of the first, mostly in its order, and scalars in them. */
static bool is_record(const struct pjson *v, const struct pjson *first)
{
	struct pjson key, value, other, ignored;
	size_t at = 0, along = 0, n = 0, n_first = 0;

	if (v->type != PJSON_OBJECT)
		return false;
	for (; pjson_next(v, &at, &key, &value); n++) {
		bool same = pjson_next(first, &along, &other, &ignored) && other.len == key.len &&
			    memcmp(other.s, key.s, key.len) == 0;

		if (!is_scalar(&value) || (!same && !has_member(first, &key)))
			return false;
	}
	for (along = 0; pjson_next(first, &along, &other, &ignored);)
		n_first++;
	return n == n_first;
}

static bool is_records(const struct pjson *v)
{
	struct pjson first = { 0 }, record;
	size_t at = 0;

	if (v->type != PJSON_ARRAY)
		return false;
	while (pjson_next(v, &at, NULL, &record)) {
		if (!first.s)
			first = record;
		if (!is_record(&record, &first))
			return false;
	}
	return true;
}

static bool is_table(const struct pjson *v)
{
	static const struct member rows[] = {
		{ "records", is_records, PIPES_METADATA, false },
		{ "schema", is_columns, PIPES_METADATA, false },
		{ 0 },
	};

	return check_members(v, rows, false) == PIPES_FINE;
}

static bool is_table_schema(const struct pjson *v)
{
	static const struct member rows[] = { { "columns", is_columns, PIPES_METADATA, false }, { 0 } };

	return check_members(v, rows, false) == PIPES_FINE;
}

static bool is_asset_key(const struct pjson *v)
{
	return v->type == PJSON_STRING || is_string_list(v);
}

static bool is_dependencies(const struct pjson *v)
{
	static const struct member rows[] = {
		{ "asset_key", is_asset_key, PIPES_METADATA, false },
		{ "column_name", is_string, PIPES_METADATA, false },
		{ 0 },
	};
	struct pjson name, list, dep;
	size_t at = 0;

	if (v->type != PJSON_OBJECT)
		return false;
	while (pjson_next(v, &at, &name, &list)) {
		size_t in = 0;

		if (list.type != PJSON_ARRAY)
			return false;
		while (pjson_next(&list, &in, NULL, &dep))
			if (check_members(&dep, rows, true) != PIPES_FINE)
				return false;
	}
	return true;
}

static bool is_lineage(const struct pjson *v)
{
	static const struct member rows[] = { { "deps_by_column", is_dependencies, PIPES_METADATA, false }, { 0 } };

	return check_members(v, rows, false) == PIPES_FINE;
}

/* --- metadata --- */

static const struct metadata_type {
	const char *name;
	value_ok ok;
} metadata_types[] = {
	{ "__infer__", is_any },
	{ "text", is_string_or_null },
	{ "url", is_string_or_null },
	{ "path", is_string_or_null },
	{ "notebook", is_string_or_null },
	{ "json", is_json },
	{ "md", is_string_or_null },
	{ "float", is_float_or_null },
	{ "int", is_int_or_null },
	{ "bool", is_bool_or_null },
	{ "dagster_run", is_string },
	{ "asset", is_string },
	{ "null", is_any },
	{ "table", is_table },
	{ "table_schema", is_table_schema },
	{ "table_column_lineage", is_lineage },
	{ "timestamp", is_timestamp },
};

static const struct member metadata_rows[] = {
	{ "raw_value", is_any, PIPES_METADATA, false },
	{ "type", is_string, PIPES_METADATA, false },
	{ 0 },
};

static bool is_metadata_value(const struct pjson *v)
{
	struct pjson found[MEMBERS_MAX];
	bool others;

	if (!pick(v, metadata_rows, found, &others) || !found[0].s || !found[1].s)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(metadata_types); i++)
		if (pjson_is(&found[1], metadata_types[i].name))
			return metadata_types[i].ok(&found[0]);
	return false;
}

static bool is_metadata(const struct pjson *v)
{
	struct pjson key, value;
	size_t at = 0;

	if (v->type == PJSON_NULL)
		return true;
	if (v->type != PJSON_OBJECT)
		return false;
	while (pjson_next(v, &at, &key, &value))
		if (!is_metadata_value(&value))
			return false;
	return true;
}

/* --- exceptions --- */

static bool is_cause(const struct pjson *v)
{
	return v->type == PJSON_NULL || v->type == PJSON_OBJECT;
}

enum { EXC_MESSAGE, EXC_STACK, EXC_NAME, EXC_CAUSE, EXC_CONTEXT };

static const struct member exception_rows[] = {
	[EXC_MESSAGE] = { "message", is_string, PIPES_EXCEPTION, false },
	[EXC_STACK] = { "stack", is_string_list, PIPES_EXCEPTION, false },
	[EXC_NAME] = { "name", is_string_or_null, PIPES_EXCEPTION, false },
	[EXC_CAUSE] = { "cause", is_cause, PIPES_EXCEPTION, false },
	[EXC_CONTEXT] = { "context", is_cause, PIPES_EXCEPTION, false },
	{ 0 },
};

/* With everything that it was caused by. */
static bool is_exception(const struct pjson *v)
{
	struct pjson todo[EXCEPTIONS_MAX], found[MEMBERS_MAX];
	size_t n = 0;
	bool others;

	if (v->type != PJSON_OBJECT || pjson_empty(v))
		return false;
	todo[n++] = *v;
	while (n > 0) {
		struct pjson e = todo[--n];

		if (check_members(&e, exception_rows, false) != PIPES_FINE)
			return false;
		(void)pick(&e, exception_rows, found, &others);
		for (int i = EXC_CAUSE; i <= EXC_CONTEXT; i++) {
			if (found[i].type != PJSON_OBJECT || pjson_empty(&found[i]))
				continue;
			if (n == EXCEPTIONS_MAX)
				return false;
			todo[n++] = found[i];
		}
	}
	return true;
}

/* --- methods --- */

/* Names that become rows of a database. */
static bool is_word(const struct pjson *v)
{
	return v->type == PJSON_STRING && pjson_encodable(v);
}

static bool is_word_or_null(const struct pjson *v)
{
	return v->type == PJSON_NULL || is_word(v);
}

static bool is_level(const struct pjson *v)
{
	static const char *const words[] = { "debug", "info", "warn", "warning", "error", "critical", "fatal" };
	char buf[16];

	if (v->type == PJSON_INT)
		return v->len <= 9;
	if (v->type != PJSON_STRING)
		return false;
	pjson_text(v, buf, sizeof(buf));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (v->len <= 14 && strcasecmp(buf, words[i]) == 0)
			return true;
	return false;
}

static bool is_severity(const struct pjson *v)
{
	return pjson_is(v, "WARN") || pjson_is(v, "ERROR");
}

static bool is_stream(const struct pjson *v)
{
	return pjson_is(v, "stdout") || pjson_is(v, "stderr");
}

static const struct member no_rows[] = { { 0 } };
static const struct member closed_rows[] = { { "exception", is_exception, PIPES_EXCEPTION, true }, { 0 } };
static const struct member materialization_rows[] = {
	{ "asset_key", is_word, PIPES_TYPE, false },
	{ "metadata", is_metadata, PIPES_METADATA, false },
	{ "data_version", is_word_or_null, PIPES_TYPE, false },
	{ 0 },
};
static const struct member check_rows[] = {
	{ "asset_key", is_word, PIPES_TYPE, false },        { "check_name", is_word, PIPES_TYPE, false },
	{ "passed", is_bool, PIPES_TYPE, false },           { "severity", is_severity, PIPES_SEVERITY, false },
	{ "metadata", is_metadata, PIPES_METADATA, false }, { 0 },
};
static const struct member log_rows[] = {
	{ "message", is_string, PIPES_TYPE, false },
	{ "level", is_level, PIPES_LEVEL, true },
	{ 0 },
};
/* The text is written to Dagster's own streams as it is. */
static const struct member stream_rows[] = {
	{ "stream", is_stream, PIPES_STREAM, false },
	{ "text", is_word, PIPES_TYPE, false },
	{ "extras", is_any, PIPES_TYPE, true },
	{ 0 },
};
static const struct member custom_rows[] = { { "payload", is_any, PIPES_TYPE, false }, { 0 } };

static const struct method {
	const char *name;
	const struct member *rows;
	enum pipes_kind kind;
	bool loose; /* parameters may be null or have other members */
	bool any;   /* nobody looks at them */
} methods[] = {
	{ "opened", no_rows, PIPES_OTHER, true, true },
	{ "closed", closed_rows, PIPES_CLOSED, true, false },
	{ "log", log_rows, PIPES_LOG, false, false },
	{ "report_asset_materialization", materialization_rows, PIPES_MATERIALIZATION, false, false },
	{ "report_asset_check", check_rows, PIPES_CHECK, false, false },
	{ "report_custom_message", custom_rows, PIPES_CUSTOM, false, false },
	{ "log_external_stream", stream_rows, PIPES_OTHER, false, false },
};

static enum pipes_reason check_params(const struct method *m, const struct pjson *params, struct pipes_verdict *v)
{
	struct pjson found[MEMBERS_MAX];
	enum pipes_reason reason;
	bool others;

	if (m->any || (params->type == PJSON_NULL && m->loose)) {
		v->kind = m->kind;
		return PIPES_FINE;
	}
	reason = check_members(params, m->rows, !m->loose);
	v->kind = reason ? PIPES_REJECTED : m->kind;
	if (v->kind == PIPES_CLOSED && pick(params, closed_rows, found, &others) && found[0].s)
		v->kind = PIPES_FAILED;
	return reason;
}

/* --- lines --- */

enum { MSG_METHOD, MSG_PARAMS };

static const struct member message_rows[] = {
	[MSG_METHOD] = { "method", is_string, PIPES_METHOD, false },
	[MSG_PARAMS] = { "params", is_any, PIPES_PARAMS, false },
	{ 0 },
};

static enum pipes_reason check_message(const struct pjson *top, struct pjson found[MEMBERS_MAX],
				       struct pipes_verdict *v)
{
	bool others;

	if (!pick(top, message_rows, found, &others) || !found[MSG_METHOD].s || !found[MSG_PARAMS].s)
		return PIPES_NO_MESSAGE;
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		if (pjson_is(&found[MSG_METHOD], methods[i].name))
			return check_params(&methods[i], &found[MSG_PARAMS], v);
	return PIPES_METHOD;
}

/* Python reads files with universal newlines: a lone carriage return ends a line. */
static bool has_return(const char *line, size_t len)
{
	if (len && line[len - 1] == '\n')
		len -= len > 1 && line[len - 2] == '\r' ? 2 : 1;
	return memchr(line, '\r', len) != NULL;
}

static bool is_blank_line(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r' && line[i] != '\n')
			return false;
	return true;
}

static void judge(const char *line, size_t len, struct pipes_verdict *v)
{
	static const enum pipes_reason reasons[] = {
		[PJSON_SYNTAX] = PIPES_NOT_JSON,
		[PJSON_UTF8] = PIPES_NOT_UTF8,
		[PJSON_DEEP] = PIPES_DEEP,
		[PJSON_DIGITS] = PIPES_DIGITS,
	};
	struct pjson top, found[MEMBERS_MAX];
	enum pjson_fault fault;

	memset(v, 0, sizeof(*v));
	memset(found, 0, sizeof(found));
	if (is_blank_line(line, len)) {
		v->reason = PIPES_BLANK;
		return;
	}
	fault = pjson_check(line, len, &top);
	if (fault != PJSON_GOOD)
		v->reason = reasons[fault];
	else if (has_return(line, len))
		v->reason = PIPES_RETURN;
	else
		v->reason = check_message(&top, found, v);
	if (v->reason) {
		v->kind = PIPES_REJECTED;
	} else if (v->kind >= PIPES_MATERIALIZATION && v->kind <= PIPES_CUSTOM) {
		v->params = (size_t)(found[MSG_PARAMS].s - line);
		v->params_len = found[MSG_PARAMS].len;
	}
}

/* Where the last message begins that a line may hold behind a piece of another; 0: nowhere. No string in JSON can hold
 * this. */
static size_t last_start(const char *line, size_t len)
{
	static const char start[] = "{\"__dagster_pipes_version\"";
	size_t n = sizeof(start) - 1;

	for (size_t at = len > n ? len - n : 0; at > 0; at--)
		if (line[at] == '{' && memcmp(line + at, start, n) == 0)
			return at;
	return 0;
}

void pipes_judge(const char *line, size_t len, struct pipes_verdict *v)
{
	struct pipes_verdict rest;
	size_t torn;

	judge(line, len, v);
	if (v->reason != PIPES_NOT_JSON && v->reason != PIPES_NOT_UTF8)
		return;
	torn = last_start(line, len);
	if (!torn)
		return;
	judge(line + torn, len - torn, &rest);
	if (rest.kind == PIPES_REJECTED)
		return;
	*v = rest;
	v->reason = PIPES_TORN;
	v->torn = torn;
	v->params += torn;
}

bool pipes_is_start(const char *line, size_t len)
{
	static const char start[] = "{\"slurmray\": \"start\", ";

	return len >= sizeof(start) && memcmp(line, start, sizeof(start) - 1) == 0;
}

const char *pipes_reason_text(enum pipes_reason reason)
{
	static const char *const texts[PIPES_N_REASONS] = {
		[PIPES_FINE] = "nothing is wrong with it",
		[PIPES_BLANK] = "a blank line",
		[PIPES_NOT_UTF8] = "not UTF-8",
		[PIPES_NOT_JSON] = "not JSON",
		[PIPES_DEEP] = "nested deeper than 200 levels",
		[PIPES_DIGITS] = "an integer of more than 4300 digits",
		[PIPES_RETURN] = "a carriage return inside the line",
		[PIPES_NO_MESSAGE] = "no Pipes message: it has no method and params",
		[PIPES_METHOD] = "a method that Dagster does not know",
		[PIPES_PARAMS] = "a parameter is missing, or one is there that the method does not have",
		[PIPES_TYPE] = "a parameter of the wrong type",
		[PIPES_LEVEL] = "a level that is none of debug, info, warning, error, critical",
		[PIPES_SEVERITY] = "a severity that is neither WARN nor ERROR",
		[PIPES_STREAM] = "a stream that is neither stdout nor stderr",
		[PIPES_METADATA] = "metadata of an unknown type, or a value that is not of its type",
		[PIPES_EXCEPTION] = "an exception without message, stack, name, cause and context of the right types",
		[PIPES_TORN] = "a piece of a message, with another message behind it on the same line",
		[PIPES_CUT] = "a piece of a message: the file was cut, or ended, there",
	};

	return (unsigned)reason < PIPES_N_REASONS && texts[reason] ? texts[reason] : "unknown";
}

/* --- what reports say --- */

static void add_line(struct strbuf *out, const char *text)
{
	size_t n = strcspn(text, "\r\n");

	strbuf_add(out, text, n);
}

void pipes_exception(const char *line, size_t len, struct strbuf *out)
{
	struct pjson top, found[MEMBERS_MAX], exc[MEMBERS_MAX];
	char text[400];
	bool others;

	if (pjson_check(line, len, &top) != PJSON_GOOD || !pick(&top, message_rows, found, &others) ||
	    !found[MSG_PARAMS].s || !pick(&found[MSG_PARAMS], closed_rows, exc, &others) || !exc[0].s ||
	    !pick(&exc[0], exception_rows, found, &others) || !found[EXC_MESSAGE].s)
		return;
	pjson_text(&found[EXC_MESSAGE], text, sizeof(text));
	if (found[EXC_NAME].s && found[EXC_NAME].type == PJSON_STRING) {
		char name[100];
		size_t n;

		pjson_text(&found[EXC_NAME], name, sizeof(name));
		n = strlen(name);
		/* Python's library has the name in the message already. */
		if (strncmp(text, name, n) != 0 || text[n] != ':') {
			add_line(out, name);
			strbuf_addstr(out, ": ");
		}
	}
	add_line(out, text);
}

bool pipes_parts(const char *line, size_t len, struct pipes_parts *out)
{
	struct pjson top, found[MEMBERS_MAX];
	bool others;

	if (pjson_check(line, len, &top) != PJSON_GOOD || !pick(&top, message_rows, found, &others) ||
	    !found[MSG_METHOD].s || found[MSG_METHOD].len < 2 || !found[MSG_PARAMS].s)
		return false;
	*out = (struct pipes_parts){ found[MSG_METHOD].s + 1, found[MSG_PARAMS].s, found[MSG_METHOD].len - 2,
				     found[MSG_PARAMS].len };
	return true;
}

static bool is_json_number(const struct pjson *v)
{
	return (v->type == PJSON_INT || v->type == PJSON_FLOAT) && v->len <= 64 && !memchr(v->s, 'N', v->len) &&
	       !memchr(v->s, 'I', v->len);
}

void pipes_numbers(const char *params, size_t params_len,
		   void (*cb)(void *arg, const char *name, const char *number, size_t len), void *arg)
{
	static const struct member rows[] = { { "metadata", is_any, PIPES_METADATA, true }, { 0 } };
	struct pjson top, found[MEMBERS_MAX], key, value, inner[MEMBERS_MAX];
	char name[128];
	size_t at = 0;
	bool others;

	if (pjson_check(params, params_len, &top) != PJSON_GOOD || !pick(&top, rows, found, &others) || !found[0].s ||
	    found[0].type != PJSON_OBJECT)
		return;
	while (pjson_next(&found[0], &at, &key, &value)) {
		if (!pick(&value, metadata_rows, inner, &others) || !inner[0].s || !is_json_number(&inner[0]))
			continue;
		pjson_text(&key, name, sizeof(name));
		cb(arg, name, inner[0].s, inner[0].len);
	}
}
