/*
 * Shell quoting. Pure; the output of quote_sh read by a shell is exactly the input, byte for byte.
 */
#include "backend/base/quote.h"

#include <string.h>

static bool plain(const char *s)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";

	return *s && s[strspn(s, safe)] == '\0';
}

void quote_sh(struct strbuf *sb, const char *s)
{
	if (plain(s)) {
		strbuf_addstr(sb, s);
		return;
	}
	strbuf_addch(sb, '\'');
	for (; *s; s++) {
		if (*s == '\'')
			strbuf_addstr(sb, "'\\''");
		else
			strbuf_addch(sb, *s);
	}
	strbuf_addch(sb, '\'');
}

void quote_sh_path(struct strbuf *sb, const char *path)
{
	if (strcmp(path, "~") == 0) {
		strbuf_addstr(sb, "\"$HOME\"");
	} else if (strncmp(path, "~/", 2) == 0) {
		strbuf_addstr(sb, "\"$HOME\"/");
		if (path[2])
			quote_sh(sb, path + 2);
	} else {
		quote_sh(sb, path);
	}
}
