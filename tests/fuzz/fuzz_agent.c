/*
 * Anything a peer may send to the agent's parser, in pieces of a size that the first byte chooses: no crash, no frame
 * beyond what was sent, and after an error nothing more is delivered.
 */
#include "backend/agent.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	size_t bytes;
	bool broken;
};

static void on_frame(void *arg, const struct agent_frame *f)
{
	struct seen *s = arg;

	assert(!s->broken);
	assert(f->out[f->out_len] == '\0');
	assert(f->type != AGENT_ANSWER || (f->err[f->err_len] == '\0' && f->id > 0 && f->rc >= 0 && f->rc < 256));
	assert(f->type != AGENT_END || (f->name[0] && !strchr(f->name, '/')));
	s->bytes += f->out_len + f->err_len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char sentinel[] = "\nslurmray-shell-ready\n";
	struct seen s = { 0, false };
	struct agent *a = agent_new("", "/e", 100, on_frame, &s);
	size_t step, at;
	struct err e = ERR_INIT;
	int i;

	if (size < 1) {
		agent_free(a);
		return 0;
	}
	step = (size_t)(data[0] & 127) + 1;
	if (data[0] & 128)
		(void)agent_input(a, sentinel, sizeof(sentinel) - 1, NULL);
	for (i = 0; i < 9; i++)
		(void)agent_request(a, AGENT_QUICK, "x", NULL, 0, 0);
	for (at = 1; at < size; at += step) {
		size_t n = size - at < step ? size - at : step;

		if (agent_input(a, (const char *)data + at, n, &e) < 0) {
			assert(e.text[0] && e.code < 0);
			s.broken = true;
		}
	}
	assert(s.bytes <= size);
	agent_free(a);
	return 0;
}
