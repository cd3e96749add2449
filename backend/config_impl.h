/*
 * What the two halves of the configuration's reader share: config.c (lines and sections) and config_keys.c (the
 * keys inside a section). Nobody else includes this.
 */
#ifndef BACKEND_CONFIG_IMPL_H
#define BACKEND_CONFIG_IMPL_H

#include "backend/config.h"

struct parser {
	const char *name; /* of the file, for messages */
	const char *pos;  /* what is still to be read */
	int line;         /* the one that was read last */
	bool pending;     /* it looks like a pair, and the handler was not called yet */
	bool in_section;  /* a line with a section came before */
	struct config *config;
	struct cluster_conf *cluster; /* of the section, when it is one */
	json_t *target;               /* where spec keys of the section go (borrowed); NULL: a section to be skipped */
	json_t *seen;                 /* keys of the section -> line */
	json_t *named; /* sections that a key names, [LINE, "profile" or "cluster", NAME] each: they may come later */
	int defaults_line;    /* of [defaults], 0: not seen */
	struct strbuf errors; /* FILE:LINE: sentence, a line each */
};

/* Adds a mistake of the current line; always -EINVAL. */
int config_complain(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One pair of the current section. */
void config_key(struct parser *p, const char *name, const char *value);

#endif
