/*
 * JSON as plain text for people and for awk: an array of objects as an aligned table, an object as `key value` lines.
 */
#ifndef FS_TABLE_H
#define FS_TABLE_H

#include "backend/base/strbuf.h"

/*
 * The columns are those of the first row; a cell that is not known is "-", a heading is the key in capitals. Counts
 * (allocated, idle, other, total) are A/I/O/T as sinfo has them, lists have commas, times are UTC. Numbers are on the
 * right. In an object, members of members are lines of their own, KEY_MEMBER. Text that is no JSON gives nothing.
 */
void table_text(const char *json, struct strbuf *out);

#endif
