/*
 * What is unpacked on a cluster, for people: the list, and what can be done with one. The code runs on the cluster as
 * that of envs_shell.c does, whose functions it uses.
 *
 * Invariants: nothing that a run uses is removed, by the same rules as for want of room; what somebody verifies,
 * unpacks or removes is left to them. A verb's answer is a line of the log, so that it is there for whoever looks
 * later.
 */
#include "backend/envs.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <string.h>

static const char list_text[] =
	"cd \"$all\" 2>/dev/null || exit 0\n"
	"for k in *; do\n"
	"\t[ -d \"$k\" ] || continue\n"
	"\ts=sending n=$(sed -n 's/^name //p' \"$k/complete\" 2>/dev/null) kib=$(sed -n 's/^kib //p' \"$k/complete\" 2>/dev/null)\n"
	"\tcase $(tail -n 1 \"$k/log\" 2>/dev/null) in *' failed: '*) s=failed ;; esac\n"
	"\t[ ! -L \"$k/lock\" ] || s=unpacking\n"
	"\t[ ! -e \"$k/complete\" ] || s=ready\n"
	"\t[ -n \"$kib\" ] || kib=$(du -sk \"$k\" 2>/dev/null | cut -f 1)\n"
	"\tt=$(date -r \"$k/last_used\" +%s 2>/dev/null || date -r \"$k\" +%s)\n"
	"\tkeep=-\n"
	"\t[ ! -e \"$k/keep\" ] || keep=keep\n"
	"\techo \"env $k $s ${kib:-0} ${t:-0} $keep $n\"\n"
	"\ttail -n 100 \"$k/log\" 2>/dev/null | cut -c 1-300 | tail -c 8000 | sed 's/^/ /'\n"
	"done\n"
	"exit 0\n";

static const char verify_one[] =
	"sum=${e##*/} sum=${sum%%.*} bad=''\n"
	"[ -e \"$e/complete\" ] || { note 'not verified: it is not whole yet'; exit 0; }\n"
	"root=$(readlink \"$e/root\") && [ -e \"$e/$root\" ] || bad='its directory is not there'\n"
	"case ${e##*/} in\n"
	"*.file)\n"
	"\ts=$(sum_of <\"$e/env/data\")\n"
	"\tcase $s in \"$sum\"*) ;; *) bad='its bytes have changed' ;; esac ;;\n"
	"*.library) ;;\n"
	"*) [ -n \"$bad\" ] || bad=$(unfit() { printf '%s\\n' \"$1\"; exit 48; }; try \"$e/$root\") ;;\n"
	"esac\n"
	"if [ -z \"$bad\" ]; then note 'verified again: it is as it should be'; exit 0; fi\n"
	"note \"verified again: $bad; remove it, and it is sent anew\"\n"
	"exit 0\n";

static const char remove_one[] =
	"if [ -L \"$e/lock\" ]; then note 'not removed: somebody is unpacking it'; exit 0; fi\n"
	"if in_use \"$e\"; then note 'not removed: a run uses it'; exit 0; fi\n"
	"mv \"$e/complete\" \"$e/leaving\" 2>/dev/null\n"
	"if in_use \"$e\"; then\n"
	"\tmv \"$e/leaving\" \"$e/complete\" 2>/dev/null\n"
	"\tnote 'not removed: a run uses it'\n"
	"\texit 0\n"
	"fi\n"
	"chmod -R u+w \"$e\" 2>/dev/null\n"
	"drop \"$e\"\n"
	"exit 0\n";

/* Names that envs_archive.c makes: digits, and for what it is used. */
bool envs_key_ok(const char *key)
{
	size_t n = strspn(key, "0123456789abcdef");

	return n == ENVS_KEY_LEN && (key[n] == '\0' || strcmp(key + n, ".build") == 0 ||
				     strcmp(key + n, ".library") == 0 || strcmp(key + n, ".file") == 0);
}

static const char *verb_text(const char *verb)
{
	static const struct {
		const char *verb, *text;
	} verbs[] = {
		{ "remove", remove_one },
		{ "verify", verify_one },
		{ "keep", ": >\"$e/keep\" && note kept\nexit 0\n" },
		{ "unkeep", "rm -f \"$e/keep\" && note 'kept no longer'\nexit 0\n" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].verb, verb) == 0)
			return verbs[i].text;
	return NULL;
}

bool envs_probe_code(const char *directory, const char *what, struct strbuf *code)
{
	cleanup_free char *all = xasprintf("%s/envs", directory), *verb = NULL;
	const char *key, *text = NULL;

	if (strncmp(what, "envs", 4) != 0 || (what[4] && what[4] != ' '))
		return false;
	if (what[4]) {
		key = strchr(what + 5, ' ');
		verb = key ? xstrndup(what + 5, (size_t)(key - what - 5)) : NULL;
		text = verb && envs_key_ok(key + 1) ? verb_text(verb) : NULL;
		if (!text)
			return false;
	}
	strbuf_addstr(code, "umask 077\nall=");
	quote_sh_path(code, all);
	strbuf_addch(code, '\n');
	if (text) {
		strbuf_addf(code, "e=$all/%s\n[ -d \"$e\" ] || exit 0\n", strrchr(what, ' ') + 1);
		envs_lock_text(code);
	}
	strbuf_addstr(code, text ? text : list_text);
	return true;
}
