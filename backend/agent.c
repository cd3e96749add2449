/*
 * The remote shell's protocol. To the peer: the bootstrap line, after its sentinel the program, then one line per
 *request ID Q|B DEADLINE CODELEN PAYLOADLEN CODE with PAYLOADLEN raw bytes behind it; "T" (tick), "R" (report all ends
 *again) and "P MS" (pace) are lines of their own. From the peer, after the sentinel, frames only: H LEN NL text | A ID
 *RC OUTLEN ERRLEN NL out err | E NAMELEN LEN NL name text | "! " words NL (it gives up)
 *
 * Invariants: requests are not sent before the sentinel was seen; a frame is delivered once and whole; after the first
 *error every further input fails with the same text. Header lines and all lengths are bounded before anything is
 *allocated for them.
 */
#include "backend/agent.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BANNER_MAX (1024 * 1024)
#define HEADER_MAX 256 /* the longest is "! words" */
#define NAME_MAX_LEN 255
#define SENTINEL "\nslurmray-shell-ready\n"
#define RS '\036'
#define GS '\035'

enum agent_phase { PHASE_BANNER, PHASE_HELLO, PHASE_FRAMES, PHASE_BROKEN };

struct agent {
	enum agent_phase phase;
	bool plain_sh;        /* the loop has no clock */
	struct strbuf out;    /* to be written now */
	struct strbuf held;   /* lines for after the sentinel: the program first */
	struct strbuf in;     /* not yet parsed; begins with a newline in PHASE_BANNER */
	size_t skipped;       /* banner bytes dropped from `in` */
	struct strbuf banner; /* the first of them, for messages */
	struct strbuf part;   /* the second part of the frame that is delivered */
	uint64_t next_id;
	struct err broken;
	agent_cb cb;
	void *arg;
};

struct agent *agent_new(const char *prelude, const char *ends_dir, int tick_ms, agent_cb cb, void *arg)
{
	struct agent *a = xcalloc(1, sizeof(*a));
	struct strbuf text = STRBUF_INIT;

	strbuf_init(&a->out);
	strbuf_init(&a->held);
	strbuf_init(&a->in);
	strbuf_init(&a->banner);
	strbuf_init(&a->part);
	a->cb = cb;
	a->arg = arg;
	a->next_id = 1;
	strbuf_addch(&a->in, '\n');
	agent_bootstrap(&a->out);
	agent_program(prelude, ends_dir, tick_ms, &text);
	assert(text.len && text.buf[text.len - 1] == '\n');
	strbuf_addf(&a->held, "#slurmray-program %zu\n%s#slurmray-end\n", text.len, text.buf);
	strbuf_release(&text);
	return a;
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	strbuf_release(&a->out);
	strbuf_release(&a->held);
	strbuf_release(&a->in);
	strbuf_release(&a->banner);
	strbuf_release(&a->part);
	free(a);
}

struct strbuf *agent_output(struct agent *a)
{
	return &a->out;
}

bool agent_ready(const struct agent *a)
{
	return a->phase == PHASE_FRAMES;
}

static struct strbuf *sink(struct agent *a)
{
	return a->phase == PHASE_BANNER ? &a->held : &a->out;
}

static void encode(struct strbuf *sb, const char *code)
{
	for (; *code; code++) {
		switch (*code) {
		case '\n':
			strbuf_addch(sb, RS);
			break;
		case RS:
			strbuf_addch(sb, GS);
			strbuf_addch(sb, 'r');
			break;
		case GS:
			strbuf_addch(sb, GS);
			strbuf_addch(sb, 'g');
			break;
		default:
			strbuf_addch(sb, *code);
		}
	}
}

uint64_t agent_request(struct agent *a, enum agent_class cls, const char *code, const void *payload, size_t len,
		       int deadline_s)
{
	struct strbuf *sb = sink(a);
	uint64_t id = a->next_id++;

	if (!payload)
		len = 0;
	strbuf_addf(sb, "%llu %c %d %zu %zu ", (unsigned long long)id, cls == AGENT_QUICK ? 'Q' : 'B',
		    deadline_s > 0 ? deadline_s : 0, strlen(code), len);
	encode(sb, code);
	strbuf_addch(sb, '\n');
	strbuf_add(sb, payload, len);
	return id;
}

void agent_set_tick(struct agent *a, int tick_ms)
{
	if (tick_ms > 0)
		strbuf_addf(sink(a), "P %d\n", tick_ms);
}

void agent_ends_again(struct agent *a)
{
	strbuf_addstr(sink(a), "R\n");
}

void agent_tick(struct agent *a)
{
	if (a->phase == PHASE_FRAMES && a->plain_sh && a->out.len == 0)
		strbuf_addstr(&a->out, "T\n");
}

/* Printable words out of what the peer sent, for a message: the last line that is not empty. */
static void seen_text(const char *s, size_t len, char *buf, size_t size)
{
	size_t end = len, start, n = 0;

	while (end > 0 && (s[end - 1] == '\n' || s[end - 1] == '\r' || s[end - 1] == ' '))
		end--;
	for (start = end; start > 0 && s[start - 1] != '\n'; start--)
		;
	for (; start < end && n + 1 < size; start++)
		buf[n++] = s[start] >= ' ' && s[start] < 127 ? s[start] : '?';
	buf[n] = '\0';
}

static int broken(struct agent *a, struct err *e)
{
	return err_set(e, a->broken.code, "%s", a->broken.text);
}

static int break_with(struct agent *a, const char *what, const char *seen, size_t len, struct err *e)
{
	char words[160];

	seen_text(seen, len, words, sizeof(words));
	a->phase = PHASE_BROKEN;
	(void)err_set(&a->broken, -EPROTO, "the remote shell %s; seen: \"%s\"", what, words);
	return broken(a, e);
}

/* One number of a header; *s moves behind it and the blank or newline that follows. */
static bool number(const char **s, uint64_t max, uint64_t *out)
{
	const char *p = *s;
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		uint64_t digit = (uint64_t)(*p - '0');

		if (digit > max || v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	if (*p != ' ' && *p != '\n')
		return false;
	*s = p + 1;
	*out = v;
	return true;
}

/* A frame's header and the two parts of its body, in the order in which they are sent. */
struct header {
	char type;
	uint64_t id, rc, len1, len2;
};

static bool parse_header(const struct agent *a, const char *line, size_t len, struct header *h)
{
	const char *s = line + 2;

	memset(h, 0, sizeof(*h));
	if (len < 3 || line[1] != ' ')
		return false;
	h->type = line[0];
	if (a->phase == PHASE_HELLO) {
		if (h->type != 'H' || !number(&s, 65536, &h->len1))
			return false;
	} else if (h->type == 'A') {
		if (!number(&s, a->next_id - 1, &h->id) || h->id == 0 || !number(&s, 255, &h->rc) ||
		    !number(&s, AGENT_FRAME_MAX, &h->len1) || !number(&s, AGENT_FRAME_MAX - h->len1, &h->len2))
			return false;
	} else if (h->type == 'E') {
		if (!number(&s, NAME_MAX_LEN, &h->len1) || h->len1 == 0 || !number(&s, AGENT_FRAME_MAX, &h->len2))
			return false;
	} else {
		return false;
	}
	return s == line + len;
}

static bool safe_name(const char *s, size_t len)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return s[0] != '.' && strspn(s, safe) >= len;
}

/* `body` lies in a->in, which has a NUL behind its end; the byte behind each part is put back afterwards. */
static void deliver(struct agent *a, const struct header *h, char *body)
{
	struct agent_frame f = { .id = h->id, .rc = (int)h->rc };
	char *end = body + h->len1;
	char saved;

	strbuf_reset(&a->part);
	strbuf_add(&a->part, end, h->len2);
	saved = *end;
	*end = '\0';
	f.out = body;
	f.out_len = h->len1;
	f.err = a->part.buf;
	f.err_len = h->len2;
	if (h->type == 'H') {
		f.type = AGENT_HELLO;
		a->plain_sh = strncmp(body, "shell sh\n", 9) == 0;
		a->phase = PHASE_FRAMES;
	} else if (h->type == 'E') {
		f.type = AGENT_END;
		f.name = body;
		f.out = a->part.buf;
		f.out_len = h->len2;
		f.err = "";
		f.err_len = 0;
	} else {
		f.type = AGENT_ANSWER;
	}
	a->cb(a->arg, &f);
	*end = saved;
}

/* Takes frames from a->in at *pos as long as they are whole. */
static int parse_frames(struct agent *a, size_t *pos, struct err *e)
{
	while (*pos < a->in.len) {
		char *line = a->in.buf + *pos;
		size_t have = a->in.len - *pos;
		char *nl = memchr(line, '\n', have < HEADER_MAX ? have : HEADER_MAX);
		struct header h;
		size_t head;

		if (!nl && have < HEADER_MAX)
			return 0;
		if (nl && have > 2 && line[0] == '!' && line[1] == ' ')
			return break_with(a, "gave up", line + 2, (size_t)(nl - line) - 2, e);
		head = nl ? (size_t)(nl - line) + 1 : 0;
		if (!nl || !parse_header(a, line, head, &h))
			return break_with(a, "does not keep to the protocol", line,
					  nl ? head : (have < HEADER_MAX ? have : HEADER_MAX), e);
		if (have - head < h.len1 + h.len2)
			return 0;
		if (h.type == 'E' && !safe_name(line + head, h.len1))
			return break_with(a, "reports an end under a name that cannot be", line + head, h.len1, e);
		deliver(a, &h, line + head);
		*pos += head + h.len1 + h.len2;
	}
	return 0;
}

/* Drops the banner up to the sentinel; of an unfinished banner only the tail that may begin a sentinel is kept. */
static int skip_banner(struct agent *a, struct err *e)
{
	char *at = memmem(a->in.buf, a->in.len, SENTINEL, sizeof(SENTINEL) - 1);
	size_t keep = sizeof(SENTINEL) - 2, drop;

	if (at) {
		strbuf_remove(&a->in, 0, (size_t)(at - a->in.buf) + sizeof(SENTINEL) - 1);
		strbuf_add(&a->out, a->held.buf, a->held.len);
		strbuf_release(&a->held);
		a->phase = PHASE_HELLO;
		return 0;
	}
	drop = a->in.len > keep ? a->in.len - keep : 0;
	if (a->banner.len < 4096)
		strbuf_add(&a->banner, a->in.buf, drop < 4096 ? drop : 4096);
	a->skipped += drop;
	strbuf_remove(&a->in, 0, drop);
	if (a->skipped > BANNER_MAX)
		return break_with(a, "did not start: more than 1 MiB of other text came from the login shell",
				  a->banner.buf, a->banner.len, e);
	return 0;
}

int agent_input(struct agent *a, const char *data, size_t len, struct err *e)
{
	size_t pos = 0;
	int rc;

	if (a->phase == PHASE_BROKEN)
		return broken(a, e);
	strbuf_add(&a->in, data, len);
	if (a->phase == PHASE_BANNER) {
		rc = skip_banner(a, e);
		if (rc < 0 || a->phase == PHASE_BANNER)
			return rc;
	}
	rc = parse_frames(a, &pos, e);
	strbuf_remove(&a->in, 0, pos);
	return rc;
}
