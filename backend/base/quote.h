/*
 * The one function that puts a string into a shell command.
 */
#ifndef BASE_QUOTE_H
#define BASE_QUOTE_H

#include "backend/base/strbuf.h"

/*
 * Appends `s` as one word for any POSIX shell: as it is when it holds only [A-Za-z0-9_@%+=:,./-] and is not
 * empty, else in single quotes with each ' written as '\''. NUL cannot occur; newlines stay newlines
 * (POSIX.1-2017, Shell Command Language 2.2.2).
 */
void quote_sh(struct strbuf *sb, const char *s);

/*
 * The same for a path that may begin with "~/" (or be "~"): that part becomes "$HOME", the rest is quoted.
 */
void quote_sh_path(struct strbuf *sb, const char *path);

#endif
