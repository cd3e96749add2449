/*
 * Any bytes as a configuration file: no crash, a sentence for every refusal, and what is accepted can be used to
 * resolve a spec into a script. Build with clang -fsanitize=fuzzer.
 */
#include "backend/config.h"
#include "backend/job.h"
#include "launchers/launcher.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct config *c, const char *cluster)
{
	static const struct launch_ctx ctx = { .run_id = "f", .run_num = 1, .attempt = 1, .uuid = "u" };
	json_t *spec = json_pack("{s:s, s:s}", "command", "true", "cluster", cluster);
	struct strbuf text = STRBUF_INIT, errors = STRBUF_INIT;
	struct effective eff;
	struct job job;

	if (config_resolve(c, spec, NULL, &eff, &errors) == 0) {
		effective_text(&eff, &text);
		if (job_from_effective(&eff, &job, &errors) == 0) {
			(void)launcher_find(job.launcher)->render(&job, &ctx, &text, NULL);
			job_release(&job);
		} else {
			assert(errors.len);
		}
		effective_release(&eff);
	} else {
		assert(errors.len);
	}
	strbuf_release(&text);
	strbuf_release(&errors);
	json_decref(spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct config *c = NULL;
	struct err e = { 0, "" };

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (config_parse(text, "fuzz", &c, &e) == 0) {
		for (size_t i = 0; i < c->n_clusters; i++)
			use(c, c->clusters[i]->name);
		config_free(c);
	} else {
		assert(e.text[0]);
	}
	free(text);
	return 0;
}
