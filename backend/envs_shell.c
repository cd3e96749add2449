/*
 * The shell code of packed environments. DIRECTORY/envs/KEY holds
 *
 *	part.UUID	what arrived so far; each state directory sends its own, so that they never write into one file
 *	archive		the whole of it, verified; removed once it is unpacked
 *	lock, beat	the one who verifies, unpacks or removes; see below
 *	env/, root	what came out of it, and a link to the directory in it that is activated, the directory or wheel
 *for Python's path, or the file itself complete	renamed into place last: what it was made of. Without it env/ is
 *debris log, last_used, users/
 *
 * It is unpacked by the login node and not by the first job: a job would hold its nodes meanwhile, hundred jobs that
 *start together hundred times, and what cannot be used is to be told before the queue and not behind it. It is unpacked
 *where it stays, not beside and renamed, because conda and pixi write the path into what they make; so the mark is
 *renamed.
 *
 * The lock is a link whose target names its owner: machine and pid namespace, boot, pid, start time. The owner's
 *machine knows at once whether it is dead. From another machine only its beat tells: it is dead when that did not
 *change for a minute. A dead owner's lock is removed by whoever makes over.OWNER first; owners are unique, so that this
 *cannot hit the lock of somebody alive. POSIX sh, `ln -n`, readlink.
 */
#include "backend/envs.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char lock_text[] =
	"born() { sed 's/.*) //' \"/proc/$1/stat\" 2>/dev/null | cut -d ' ' -f 20; }\n"
	"my=$(uname -n).$(readlink /proc/self/ns/pid | tr -cd 0-9):$(cat /proc/sys/kernel/random/boot_id)\n"
	"me=$my:$$:$(born $$)\n"
	"dead() {\n"
	"\tr=${1#*:}\n"
	"\tp=${r#*:}\n"
	"\tif [ \"${1%%:*}\" != \"${my%%:*}\" ]; then\n"
	"\t\t[ \"$2\" -ge \"${ENVS_PATIENCE:-60}\" ]\n"
	"\telif [ \"${r%%:*}\" != \"${my#*:}\" ]; then\n"
	"\t\treturn 0\n"
	"\telse\n"
	"\t\t[ \"$(born \"${p%%:*}\")\" != \"${p#*:}\" ]\n"
	"\tfi\n"
	"}\n"
	/* who takes over does not beat: the silence of one of another machine is that since the takers are these */
	"take_over() {\n"
	"\to=$1 chain=''\n"
	"\twhile x=$(readlink \"$e/over.$o\"); do chain=$chain\\ $x o=$x; done\n"
	"\tif [ \"$chain\" = \"$takers\" ]; then still=$((still + 1)); else still=0 takers=$chain; fi\n"
	"\to=$1\n"
	"\twhile x=$(readlink \"$e/over.$o\"); do\n"
	"\t\tdead \"$x\" \"$still\" || return 1\n"
	"\t\to=$x\n"
	"\tdone\n"
	"\tln -sn \"$me\" \"$e/over.$o\" 2>/dev/null && [ \"$(readlink \"$e/lock\")\" = \"$1\" ] && rm -f \"$e/lock\"\n"
	"}\n"
	"beat() {\n"
	"\texec </dev/null >/dev/null 2>&1\n"
	"\ti=0\n"
	"\twhile [ \"$(readlink \"$e/lock\")\" = \"$me\" ] && kill -0 \"$$\" && sleep 5; do\n"
	"\t\ti=$((i + 1))\n"
	"\t\techo \"$$ $i\" >\"$e/beat\"\n"
	"\tdone\n"
	"}\n"
	"unlock() {\n"
	"\tkill \"$beat\" 2>/dev/null\n"
	"\trm -f \"$e\"/over.* \"$e/beat\"\n"
	"\t[ \"$(readlink \"$e/lock\")\" != \"$me\" ] || rm -f \"$e/lock\"\n"
	"}\n"
	"lock() {\n"
	"\tquiet=0 last='' odd=0 still=0 takers=''\n"
	"\tuntil ln -sn \"$me\" \"$e/lock\" 2>/dev/null; do\n"
	"\t\tif ! o=$(readlink \"$e/lock\"); then\n"
	"\t\t\todd=$((odd + 1))\n"
	"\t\t\t[ \"$odd\" -lt 10 ] || { echo \"cannot write in $e\"; exit 75; }\n"
	"\t\t\tsleep 1\n"
	"\t\t\tcontinue\n"
	"\t\tfi\n"
	"\t\tb=$o\\ $(cat \"$e/beat\" 2>/dev/null)\n"
	"\t\tif [ \"$b\" = \"$last\" ]; then quiet=$((quiet + 1)); else quiet=0 last=$b; fi\n"
	"\t\tif dead \"$o\" \"$quiet\" && take_over \"$o\"; then :; else sleep 1; fi\n"
	"\tdone\n"
	"\tbeat &\n"
	"\tbeat=$!\n" /* before the traps: a child that was not done with forking would take TERM for its own */
	"\ttrap unlock EXIT\n"
	"\ttrap 'exit 75' TERM INT HUP\n"
	"}\n"
	"note() { echo \"$(date +%s) $1\" >>\"$e/log\"; }\n"
	"unfit() {\n"
	"\tnote \"failed: $1\"\n"
	"\tprintf '%s\\n' \"$1\"\n"
	"\texit 48\n"
	"}\n";

static const char verify_text[] = "sum_of() {\n"
				  "\tif command -v sha256sum >/dev/null; then sha256sum\n"
				  "\telif command -v shasum >/dev/null; then shasum -a 256\n"
				  "\telif command -v openssl >/dev/null; then openssl dgst -sha256 -r\n"
				  "\tfi\n"
				  "}\n"
				  "genuine() {\n"
				  "\tif s=$(sum_of <\"$1\") && [ -n \"$s\" ]; then\n"
				  "\t\t[ \"${s%% *}\" = \"$sum\" ]\n"
				  "\telse\n"
				  "\t\ts=$(cksum <\"$1\")\n"
				  "\t\t[ \"$s\" = \"$crc\" ]\n"
				  "\tfi\n"
				  "}\n";

static const char unpack_text[] =
	"whole() { [ -e \"$1/activate.sh\" ] || [ -e \"$1/bin/activate\" ] || [ -d \"$1/conda-meta\" ]; }\n"
	"last() { sed -n '/[^[:space:]]/h;${g;p;}' \"$e/unpack.log\" | cut -c 1-300; }\n"
	"archive_of() {\n"
	"\tcase $kind in\n"
	"\ttar) tar -x -o -f \"$arc\" ;;\n"
	"\t*) { \"$kind\" -dc <\"$arc\" || : >\"$e/cut\"; } | tar -x -o -f - && [ ! -e \"$e/cut\" ] ;;\n"
	"\tesac\n"
	"}\n"
	/* What a wheel's .data has besides belongs into an environment of its own. */
	"library() {\n"
	"\troot=env\n"
	"\tif [ \"$kind\" = module ]; then cp \"$arc\" dagster_pipes.py && return; fi\n"
	"\tif command -v unzip >/dev/null; then unzip -q -o \"$arc\"\n"
	"\telif command -v python3 >/dev/null; then python3 -m zipfile -e \"$arc\" .\n"
	"\telse cp \"$arc\" library.whl && root=env/library.whl\n"
	"\tfi || return\n"
	"\tfor f in *.data/purelib *.data/platlib; do\n"
	"\t\t[ ! -d \"$f\" ] || cp -R \"$f/.\" . || return\n"
	"\tdone\n"
	"}\n"
	/* It has the directory that it makes as its own; the sources of an archive are beside. */
	"build() {\n"
	"\tsrc=$e/src/build\n"
	"\trm -rf \"$e/src\"\n"
	"\tmkdir \"$e/src\" || return\n"
	"\tif [ \"$kind\" = script ]; then\n"
	"\t\tcp \"$arc\" \"$src\" || return\n"
	"\telse\n"
	"\t\tcd \"$e/src\" && archive_of || return\n"
	"\t\tif [ ! -e \"$src\" ]; then\n"
	"\t\t\tset -- \"$e\"/src/*/build\n"
	"\t\t\tsrc=$1\n"
	"\t\tfi\n"
	"\t\t[ -e \"$src\" ] || { echo 'there is no file named build in it'; return 1; }\n"
	"\t\tcd \"${src%/*}\" || return\n"
	"\tfi\n"
	"\tchmod u+x \"$src\"\n"
	"\ttimeout -k 10 \"$limit\" env PREFIX=\"$e/env\" \"$src\" || { rc=$?; [ $rc != 124 ] || echo \"it took "
	"longer than $limit seconds\"; return $rc; }\n"
	"}\n"
	"unpack() {\n"
	"\trm -rf \"$e/env\" \"$e/root\" \"$e/complete.tmp\" \"$e/cut\"\n"
	"\tmkdir \"$e/env\" && cd \"$e/env\" || exit 75\n"
	"\tif [ \"$kind\" = pixi ] && ! command -v pixi-unpack >/dev/null; then\n"
	"\t\tunfit 'it holds packages, and pixi-unpack is not on the cluster: pack it with pixi-pack --create-executable'\n"
	"\tfi\n"
	"\tcase $use.$kind in\n"
	"\tfile.*) root=env/data && cp \"$arc\" data && chmod 400 data ;;\n"
	"\tlibrary.*) library ;;\n"
	"\tbuild.*) build ;;\n"
	"\t*.script) if command -v bash >/dev/null; then bash \"$arc\"; else sh \"$arc\"; fi ;;\n"
	"\t*.pixi) pixi-unpack \"$arc\" ;;\n"
	"\t*) archive_of ;;\n"
	"\tesac >\"$e/unpack.log\" 2>&1 </dev/null\n"
	"\trc=$?\n"
	"\tcat \"$e/unpack.log\" >>\"$e/log\"\n"
	"\t[ \"$rc\" = 0 ] || [ \"$use\" != build ] || unfit \"its build failed (code $rc): $(last)\"\n"
	"\t[ \"$rc\" = 0 ] || unfit \"it cannot be unpacked (code $rc): $(last)\"\n"
	"\tcase $use in file | library) return ;; esac\n"
	"\troot=env\n"
	"\tif ! whole \"$e/env\"; then\n"
	"\t\tset -- \"$e\"/env/*/\n"
	"\t\t[ $# = 1 ] && whole \"${1%/}\" ||\n"
	"\t\t\tunfit 'nothing in it can be activated: it has none of activate.sh, bin/activate, conda-meta'\n"
	"\t\tr=${1%/}\n"
	"\t\troot=env/${r##*/}\n"
	"\tfi\n"
	"\tif [ -x \"$e/$root/bin/conda-unpack\" ] && [ -x \"$e/$root/bin/python\" ]; then\n"
	"\t\t\"$e/$root/bin/python\" \"$e/$root/bin/conda-unpack\" >\"$e/unpack.log\" 2>&1 ||\n"
	"\t\t\tunfit \"conda-unpack failed in it: $(last)\"\n"
	"\tfi\n"
	"}\n";

/* What comes out of a compressed archive is looked at before a job is: for whom its python is, and whether it starts.
 */
static const char try_text[] =
	"try() {\n"
	"\tfor p in \"$1/env/bin/python3\" \"$1/env/bin/python\" \"$1/bin/python3\" \"$1/bin/python\"; do\n"
	"\t\t[ -e \"$p\" ] || [ -L \"$p\" ] || continue\n"
	"\t\t[ -e \"$p\" ] || unfit \"its ${p#\"$1\"/} leads to $(readlink \"$p\"), which is not on the cluster\"\n"
	"\t\tcase $(od -An -tx1 -N20 \"$p\" | tr -d ' \\n') in\n"
	"\t\tcffaedfe* | cafebabe*) unfit \"it is for osx and the cluster is $(uname -sm)\" ;;\n"
	"\t\t7f454c46*3e00) [ \"$(uname -m)\" = x86_64 ] || unfit \"it is for linux-64 and the cluster is $(uname -m)\" ;;\n"
	"\t\t7f454c46*b700) [ \"$(uname -m)\" = aarch64 ] ||\n"
	"\t\t\tunfit \"it is for linux-aarch64 and the cluster is $(uname -m)\" ;;\n"
	"\t\tesac\n"
	"\t\ts=$(\"$p\" -c '' 2>&1 </dev/null) || unfit \"its python does not start on $(uname -n): $s\"\n"
	"\t\tbreak\n"
	"\tdone\n"
	"\t[ ! -e \"$1/pyvenv.cfg\" ] || (\n"
	"\t\t. \"$1/bin/activate\"\n"
	"\t\tp=$(command -v python3 || command -v python)\n"
	"\t\t[ \"$(cd \"${p%/*}\" && pwd -P)\" = \"$(cd \"$1/bin\" && pwd -P)\" ]\n"
	"\t) || unfit 'it is a virtual environment, which cannot be moved: make it on the cluster, or pack with pixi-pack or "
	"conda-pack'\n"
	"}\n";

/*
 * Removes what was not used for longest until the rest fits. In use: an attempt is marked whose directory is there,
 * that was not called off, and whose exit record is neither in it nor in ends/. A run that is just being linked marks
 * itself first and looks for `complete` then; here `complete` goes first and the marks are looked at again then; so one
 * of the two sees the other. What goes is renamed first, so that nobody ever finds half of a tree under its name.
 *
 * What is not complete (unfit, half sent, half removed) counts with what it takes, and goes when nobody has touched it
 * for a day: its sender may only be asleep.
 */
static const char evict_text[] =
	"in_use() {\n"
	"\tfor u in \"$1\"/users/*; do\n"
	"\t\tt=$(readlink \"$u\") || continue\n"
	"\t\tn=${t##*/runs/}\n"
	"\t\t[ ! -d \"$t\" ] || [ -e \"$t/exit\" ] || [ \"$(readlink \"$t/started\")\" = void ] ||\n"
	"\t\t\t[ -e \"${t%/runs/*}/ends/${n%/*}.${n##*/}\" ] || return 0\n"
	"\tdone\n"
	"\treturn 1\n"
	"}\n"
	"kib() { sed -n 's/^kib //p' \"$1/complete\" 2>/dev/null; }\n"
	"idle() {\n"
	"\t[ ! -L \"$1/lock\" ] && [ -z \"$(find \"$1\"/part.* \"$1\"/archive \"$1\"/log -prune -mtime -1 2>/dev/null)\" ]\n"
	"}\n"
	"drop() {\n"
	"\tmv \"$1\" \"$all/.gone.${1##*/}.$$\" && rm -rf \"$all/.gone.${1##*/}.$$\"\n"
	"}\n"
	"evict() {\n"
	"\ttotal=0\n"
	"\trm -rf \"$all\"/.gone.*\n"
	"\tfor k in \"$all\"/*/; do\n"
	"\t\tk=${k%/}\n"
	"\t\tif [ ! -e \"$k/complete\" ] && [ \"$k\" != \"$e\" ] && idle \"$k\" && ! in_use \"$k\"; then\n"
	"\t\t\tnote \"removed ${k##*/}: nobody finished it\"\n"
	"\t\t\tdrop \"$k\" && continue\n"
	"\t\tfi\n"
	"\t\ts=$(kib \"$k\")\n"
	"\t\t[ -n \"$s\" ] || s=$(du -sk \"$k\" 2>/dev/null | cut -f 1)\n"
	"\t\ttotal=$((total + ${s:-0}))\n"
	"\tdone\n"
	"\tcd \"$all\" || return\n"
	"\tls -tr */last_used 2>/dev/null | while [ \"$total\" -gt \"$quota\" ] && read -r k; do\n"
	"\t\tk=$all/${k%/last_used}\n"
	"\t\ts=$(kib \"$k\")\n"
	"\t\tif [ -z \"$s\" ] || [ \"$k\" = \"$e\" ] || [ -e \"$k/keep\" ] || in_use \"$k\"; then continue; fi\n"
	"\t\tmv \"$k/complete\" \"$k/leaving\" 2>/dev/null || continue\n"
	"\t\tif in_use \"$k\"; then\n"
	"\t\t\tmv \"$k/leaving\" \"$k/complete\"\n"
	"\t\t\tcontinue\n"
	"\t\tfi\n"
	"\t\tnote \"removed ${k##*/}: $total KiB of $quota are used\"\n"
	"\t\tdrop \"$k\"\n"
	"\t\ttotal=$((total - s))\n"
	"\tdone\n"
	"}\n";

static const char commit_text[] =
	"ln -sn \"$root\" \"$e/root\" || exit 75\n"
	"size=$(du -sk \"$e/env\" | cut -f 1)\n"
	"printf 'sha256 %s\\nname %s\\nkib %s\\nwhen %s\\n' \"$sum\" \"$name\" \"$size\" \"$(date +%s)\" >\"$e/complete.tmp\" ||\n"
	"\texit 75\n"
	"touch \"$e/last_used\"\n"
	"mv -f \"$e/complete.tmp\" \"$e/complete\" || exit 75\n"
	"note \"unpacked: $size KiB\"\n"
	"rm -rf \"$e/archive\" \"$e\"/part.* \"$e/unpack.log\" \"$e/src\"\n";

void envs_lock_text(struct strbuf *code)
{
	strbuf_addstr(code, lock_text);
	strbuf_addstr(code, verify_text);
	strbuf_addstr(code, try_text);
	strbuf_addstr(code, evict_text);
}

void envs_path(const struct envs_place *p, const char *name, struct strbuf *out)
{
	strbuf_addf(out, "%s/envs/%s", p->directory, p->archive->key);
	if (name)
		strbuf_addf(out, "/%s", name);
}

void envs_part(const struct envs_place *p, struct strbuf *out)
{
	cleanup_free char *name = xasprintf("part.%s", p->uuid);

	envs_path(p, name, out);
}

static void set_path(struct strbuf *code, const char *var, const char *path)
{
	strbuf_addf(code, "%s=", var);
	quote_sh_path(code, path);
	strbuf_addch(code, '\n');
}

static void add_place(const struct envs_place *p, struct strbuf *code)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	strbuf_addstr(code, "umask 077\n");
	envs_path(p, NULL, &path);
	set_path(code, "e", path.buf);
	strbuf_addf(code, "part=$e/part.%s\n", p->uuid);
}

/* --- look --- */

void envs_look_code(const struct envs_place *p, struct strbuf *code)
{
	unsigned long long size = p->archive->size;

	add_place(p, code);
	strbuf_addstr(code,
		      "mkdir -p \"$e\" || exit 1\n"
		      "libc=other\n"
		      "for f in /lib*/ld-linux* /lib/*/ld-linux* /lib64/ld64*; do [ ! -e \"$f\" ] || libc=glibc; done\n"
		      "echo \"machine $(uname -m) $libc\"\n"
		      "if [ -e \"$e/complete\" ]; then echo complete; exit 0; fi\n"
		      "if [ -e \"$e/archive\" ]; then echo whole; exit 0; fi\n"
		      "n=0\n"
		      "[ ! -e \"$part\" ] || n=$(wc -c <\"$part\")\n");
	strbuf_addf(code, "if [ \"$((n))\" -gt %llu ]; then rm -f \"$part\"; n=0; fi\n", size);
	strbuf_addf(code, "[ \"$((n))\" -eq %llu ] || echo \"$(date +%%s) sending from $((n)) of %llu\" >>\"$e/log\"\n",
		    size, size);
	strbuf_addstr(code, "echo \"part $((n))\"\n");
}

/* "machine NAME LIBC", then one of complete, whole, part N. */
int envs_look_read(const char *out, struct envs_look *look)
{
	const char *nl = strchr(out, '\n'), *blank;
	unsigned long long n;
	char *end;

	memset(look, 0, sizeof(*look));
	if (!nl || strncmp(out, "machine ", 8) != 0)
		return -EPROTO;
	out += 8;
	blank = memrchr(out, ' ', (size_t)(nl - out));
	if (!blank || blank - out >= (ptrdiff_t)sizeof(look->machine) || nl - blank > (ptrdiff_t)sizeof(look->libc))
		return -EPROTO;
	memcpy(look->machine, out, (size_t)(blank - out));
	memcpy(look->libc, blank + 1, (size_t)(nl - blank - 1));
	look->complete = strcmp(nl + 1, "complete\n") == 0;
	look->whole = strcmp(nl + 1, "whole\n") == 0;
	if (look->complete || look->whole)
		return 0;
	if (strncmp(nl + 1, "part ", 5) != 0 || nl[6] < '0' || nl[6] > '9')
		return -EPROTO;
	errno = 0;
	n = strtoull(nl + 6, &end, 10);
	look->have = n;
	return errno || *end != '\n' ? -EPROTO : 0;
}

/* --- unpack --- */

static const char *kind_word(const struct envs_archive *a)
{
	static const char *const kinds[] = { [ENVS_TAR] = "tar",     [ENVS_GZIP] = "gzip",     [ENVS_ZSTD] = "zstd",
					     [ENVS_XZ] = "xz",       [ENVS_BZIP2] = "bzip2",   [ENVS_SCRIPT] = "script",
					     [ENVS_WHEEL] = "wheel", [ENVS_MODULE] = "module", [ENVS_DATA] = "data" };

	return a->pixi ? "pixi" : kinds[a->kind];
}

static const char *const uses[] = {
	[ENVS_ARCHIVE] = "archive", [ENVS_BUILD] = "build", [ENVS_LIBRARY] = "library", [ENVS_FILE] = "file"
};

/* Some time to come to a stop, and to pack up. */
int envs_limit(const struct envs_place *p)
{
	if (p->archive->use != ENVS_BUILD)
		return ENVS_UNPACK_LIMIT_S;
	return (p->build_s ? p->build_s : ENVS_UNPACK_LIMIT_S) + 300;
}

void envs_unpack_code(const struct envs_place *p, const char *local, bool check, struct strbuf *code)
{
	const struct envs_archive *a = p->archive;

	add_place(p, code);
	if (local)
		set_path(code, "arc", local);
	else
		strbuf_addstr(code, "arc=$e/archive\n");
	strbuf_addf(code, "sum=%s crc='%u %llu' use=%s kind=%s limit=%d name=", a->sha256, a->cksum,
		    (unsigned long long)a->size, uses[a->use], kind_word(a), envs_limit(p) - 300);
	quote_sh(code, p->name);
	strbuf_addch(code, '\n');
	strbuf_addstr(code, lock_text);
	strbuf_addstr(code, verify_text);
	strbuf_addstr(code, unpack_text);
	strbuf_addstr(code, try_text);
	strbuf_addstr(code, "mkdir -p \"$e\" || exit 75\nlock\n"
			    "if [ -e \"$e/complete\" ]; then rm -f \"$part\"; exit 0; fi\n");
	if (local)
		strbuf_addf(code, "genuine \"$arc\" || exit %d\n", ENVS_RC_DAMAGED);
	else
		strbuf_addf(code,
			    "if [ ! -e \"$arc\" ]; then\n"
			    "\t[ -e \"$part\" ] || exit 75\n"
			    "\tif ! genuine \"$part\"; then\n"
			    "\t\tnote 'what arrived is not what was sent'\n"
			    "\t\trm -f \"$part\"\n"
			    "\t\texit %d\n"
			    "\tfi\n"
			    "\tmv -f \"$part\" \"$arc\" || exit 75\n"
			    "\tnote verified\n"
			    "fi\n",
			    ENVS_RC_DAMAGED);
	strbuf_addstr(code, "unpack\n");
	if (check && a->use <= ENVS_BUILD)
		strbuf_addstr(code, "try \"$e/$root\"\n");
	strbuf_addstr(code, commit_text);
	if (p->quota_kib > 0) {
		strbuf_addf(code, "quota=%lld all=${e%%/*}\n", (long long)p->quota_kib);
		strbuf_addstr(code, evict_text);
		strbuf_addstr(code, "evict\n");
	}
	strbuf_addstr(code, "exit 0\n");
}

/* --- link --- */

void envs_link_code(const struct envs_place *p, const char *dir, const char *name, const char *mark,
		    struct strbuf *code)
{
	add_place(p, code);
	set_path(code, "d", dir);
	strbuf_addf(code,
		    "if [ ! -e \"$d/intent\" ] && [ ! -L \"$d/claim\" ] && [ ! -L \"$d/started\" ]; then\n"
		    "\tmkdir -p \"$d\" || exit 75\n"
		    "\tif [ -e \"$e\" ]; then mkdir -p \"$e/users\" && ln -sfn \"$d\" \"$e/users/%s\" || exit 75; fi\n"
		    "\t[ -e \"$e/complete\" ] || exit %d\n",
		    mark, ENVS_RC_GONE);
	if (name)
		strbuf_addf(code, "\tln -sfn \"$e\" \"$d/%s\" || exit 75\n", name);
	strbuf_addstr(code, "fi\n");
}

void envs_copy_code(const struct envs_place *p, const char *name, unsigned mode, int64_t mtime, struct strbuf *code)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	envs_path(p, "env/data", &path);
	set_path(code, "f", path.buf);
	strbuf_addstr(code, "n=$w/");
	quote_sh(code, name);
	strbuf_addf(code,
		    "\nrm -f \"$n\"\n"
		    "cp --reflink=auto \"$f\" \"$n\" 2>/dev/null || cp \"$f\" \"$n\" || exit 75\n"
		    "chmod %o \"$n\"\n"
		    "touch -d @%lld \"$n\" 2>/dev/null\n"
		    "touch \"${f%%/env/data}/last_used\"\n",
		    mode, (long long)mtime);
}
