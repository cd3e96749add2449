/*
 * Packed environments below the clusters: sums, what an archive says of itself, the thread, and the shell code, run for
 * real: several at once, after a dead owner of the lock, with damaged and with unfit archives.
 */
#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/job.h"
#include "launchers/launcher.h"
#include "backend/base/quote.h"
#include "backend/envs.h"

#include "backend/base/cksum.h"
#include "tests/unit/lib_box.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/envs it's XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct strbuf out = STRBUF_INIT;

	(void)state;
	(void)box_exec((char *[]){ "rm", "-rf", dir, NULL }, &out);
	strbuf_release(&out);
	return 0;
}

/* Shell text, run in the directory; its exit code, and what it printed. */
static int sh(struct strbuf *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int sh(struct strbuf *out, const char *fmt, ...)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT, own = STRBUF_INIT;
	va_list ap;

	strbuf_addstr(&code, "cd ");
	quote_sh(&code, dir);
	strbuf_addstr(&code, " || exit 99\n");
	va_start(ap, fmt);
	strbuf_vaddf(&code, fmt, ap);
	va_end(ap);
	return box_exec((char *[]){ "sh", "-c", code.buf, NULL }, out ? out : &own);
}

static void must(const char *code)
{
	if (sh(NULL, "%s", code) != 0)
		fail_msg("this failed: %s", code);
}

static void put(const char *name, const void *data, size_t len)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name);
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, data, len), (ssize_t)len);
}

/* A program with nothing but an ELF header. */
static void put_elf(const char *name, unsigned char machine)
{
	unsigned char elf[64] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };

	elf[18] = machine;
	put(name, elf, sizeof(elf));
}

static struct envs_archive must_read(const char *name)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name);
	struct envs_archive a;
	struct err e = ERR_INIT;

	if (envs_archive_read(path, NULL, &a, &e) < 0)
		fail_msg("%s: %s", name, e.text);
	return a;
}

/* ---- sums ---- */

static void sums(void **state)
{
	static const struct {
		const char *text;
		size_t repeat;
		const char *want;
	} rows[] = {
		/* FIPS 180-4's examples (NIST CSRC), and one of a million */
		{ "", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
		  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
		{ "a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_sha256 struct sha256 *s = sha256_new();
		char hex[SHA256_HEX];

		for (size_t k = 0; k < rows[i].repeat; k++)
			sha256_add(s, rows[i].text, strlen(rows[i].text));
		sha256_hex(s, hex);
		assert_string_equal(hex, rows[i].want);
		sha256_hex(s, hex); /* it is not ended by that */
		assert_string_equal(hex, rows[i].want);
	}
}

/* Of pieces of all sizes, against coreutils. */
static void sums_of_pieces(void **state)
{
	static unsigned char data[5000];
	cleanup_strbuf struct strbuf sha = STRBUF_INIT, crc = STRBUF_INIT;
	unsigned seed = 7;
	char text[64];

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)rand_r(&seed);
	put("data", data, sizeof(data));
	assert_int_equal(sh(&sha, "sha256sum <data"), 0);
	assert_int_equal(sh(&crc, "cksum <data"), 0);
	for (size_t piece = 1; piece < 200; piece += 7) {
		uint32_t c = 0;
		cleanup_sha256 struct sha256 *s = sha256_new();
		char hex[SHA256_HEX];

		for (size_t at = 0; at < sizeof(data); at += piece) {
			size_t n = sizeof(data) - at < piece ? sizeof(data) - at : piece;

			sha256_add(s, data + at, n);
			c = cksum_add(c, data + at, n);
		}
		sha256_hex(s, hex);
		assert_int_equal(strncmp(sha.buf, hex, 64), 0);
		(void)snprintf(text, sizeof(text), "%u %zu\n", cksum_end(c, sizeof(data)), sizeof(data));
		assert_string_equal(crc.buf, text);
	}
}

/* ---- archives ---- */

static void kinds(void **state)
{
	static const struct {
		const char *code, *name;
		enum envs_kind kind;
	} rows[] = {
		{ "tar -cf k.tar k", "k.tar", ENVS_TAR },
		{ "tar -czf k.tar.gz k", "k.tar.gz", ENVS_GZIP },
		{ "tar -cjf k.tar.bz2 k", "k.tar.bz2", ENVS_BZIP2 },
		{ "tar -cJf k.tar.xz k", "k.tar.xz", ENVS_XZ },
		{ "cp k.tar.gz odd.tar", "odd.tar", ENVS_GZIP }, /* content counts */
		{ "printf '\\50\\265\\57\\375rest' >k.tar.zst", "k.tar.zst", ENVS_ZSTD },
		{ "printf '#!/bin/sh\\n' >k.sh", "k.sh", ENVS_SCRIPT },
	};

	(void)state;
	must("mkdir k && echo 1 >k/1");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct envs_archive a;
		struct strbuf sum = STRBUF_INIT;

		must(rows[i].code);
		a = must_read(rows[i].name);
		assert_int_equal(a.kind, rows[i].kind);
		assert_int_equal(sh(&sum, "sha256sum <%s", rows[i].name), 0);
		assert_int_equal(strncmp(sum.buf, a.sha256, 64), 0);
		assert_int_equal(strlen(a.key), ENVS_KEY_LEN);
		assert_int_equal(strncmp(a.key, a.sha256, ENVS_KEY_LEN), 0);
		strbuf_release(&sum);
	}
}

static void no_archives(void **state)
{
	static const struct {
		const char *name, *want;
	} rows[] = { { "empty.tar", "is neither a tar archive nor" },
		     { "text.tar", "is neither a tar archive nor" },
		     { "sub", "is not a regular file" },
		     { "none.tar", "No such file" } };

	(void)state;
	must(": >empty.tar; echo hello >text.tar; mkdir -p sub");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_free char *path = xasprintf("%s/%s", dir, rows[i].name);
		struct envs_archive a;
		struct err e = ERR_INIT;

		assert_true(envs_archive_read(path, NULL, &a, &e) < 0);
		if (!strstr(e.text, rows[i].want))
			fail_msg("'%s' does not say '%s'", e.text, rows[i].want);
	}
}

static void stopping(void **state)
{
	cleanup_free char *path = xasprintf("%s/stop.sh", dir);
	atomic_bool stop = true;
	struct envs_archive a;
	struct err e = ERR_INIT;

	(void)state;
	must("printf '#!/bin/sh\\n' >stop.sh");
	assert_int_equal(envs_archive_read(path, &stop, &a, &e), -ECANCELED);
}

/* What pixi-pack makes: packages in a tar, and the same in base64 behind a script. */
static void platforms(void **state)
{
	struct envs_archive a;

	(void)state;
	must("mkdir -p pp/channel && echo '{\"version\":\"1\",\"platform\":\"osx-arm64\"}' >pp/pixi-pack.json && "
	     "head -c 100000 /dev/zero >pp/channel/z && cd pp && tar --format=ustar -cf ../pp.tar channel pixi-pack.json");
	a = must_read("pp.tar");
	assert_string_equal(a.platform, "osx-arm64");
	assert_true(a.pixi);
	must("{ printf '#!/bin/bash\\nexit 0\\n@@END_HEADER@\\n@@END_HEADER@@\\n'; base64 pp.tar; "
	     "printf '@@END_ARCHIVE@@\\n'; base64 pp.tar; } >pp-linux-64.sh");
	a = must_read("pp-linux-64.sh");
	assert_string_equal(a.platform, "osx-arm64"); /* the name counts least */
	assert_false(a.pixi);
	must("mkdir -p elf/env/bin elf/env/lib");
	put_elf("elf/env/lib/x", 62);
	put_elf("elf/env/bin/python3", 183);
	must("tar -C elf -cf elf.tar env/lib env/bin");
	assert_string_equal(must_read("elf.tar").platform, "linux-aarch64");
	put_elf("elf/env/bin/python3", 62);
	must("tar -C elf -cf elf-linux-aarch64.tar env/bin && tar -C elf -czf elf-linux-aarch64.tar.gz env/bin");
	assert_string_equal(must_read("elf-linux-aarch64.tar").platform, "linux-64");
	assert_string_equal(must_read("elf-linux-aarch64.tar.gz").platform, "linux-aarch64");
	must("head -c 700 elf.tar >cut.tar");
	assert_string_equal(must_read("cut.tar").platform, "");
}

static void names(void **state)
{
	(void)state;
	assert_string_equal(envs_name_platform("/a/env-linux-64.sh"), "linux-64");
	assert_string_equal(envs_name_platform("/a/linux-aarch64.tar"), "linux-aarch64");
	assert_string_equal(envs_name_platform("/a/env_osx-arm64.tar.gz"), "osx-arm64");
	assert_string_equal(envs_name_platform("/a/env.x86_64.tar"), "linux-64");
	assert_string_equal(envs_name_platform("/linux-64/env.tar"), "");
	assert_string_equal(envs_name_platform("/a/linux-640.tar"), "");
	assert_string_equal(envs_name_platform("env.tar"), "");
}

static void fitting(void **state)
{
	static const struct {
		const char *platform, *machine, *libc, *want; /* NULL: fits */
	} rows[] = {
		{ "linux-64", "x86_64", "glibc", NULL },
		{ "", "x86_64", "other", NULL },
		{ "noarch", "x86_64", "other", NULL },
		{ "any", "aarch64", "other", NULL },
		{ "linux-aarch64", "aarch64", "glibc", NULL },
		{ "linux-64", "vax", "glibc", NULL }, /* nobody knows */
		{ "linux-aarch64", "x86_64", "glibc", "it is for linux-aarch64 and the cluster is linux-64 (x86_64)" },
		{ "osx-arm64", "aarch64", "glibc", "it is for osx-arm64 and the cluster is linux-aarch64" },
		{ "linux-64", "aarch64", "glibc", "environment.platform=any" },
		{ "linux-64", "x86_64", "other", "glibc, which the cluster does not have" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err e = ERR_INIT;
		int rc = envs_fits(rows[i].platform, rows[i].machine, rows[i].libc, &e);

		assert_int_equal(rc, rows[i].want ? -EINVAL : 0);
		if (rows[i].want && !strstr(e.text, rows[i].want))
			fail_msg("'%s' does not say '%s'", e.text, rows[i].want);
	}
}

/* ---- the thread ---- */

static struct envs_task *back(struct inbox *in)
{
	struct list got = LIST_INIT(got);
	struct pollfd p = { inbox_fd(in), POLLIN, 0 };

	assert_int_equal(poll(&p, 1, 20000), 1);
	inbox_take(in, &got);
	return container_of(container_of(list_pop(&got), struct msg, node), struct envs_task, m);
}

static struct envs_task *do_run(struct envs_worker *w, struct inbox *in, const char *code, int deadline_s)
{
	struct envs_task *t = envs_task_new(ENVS_RUN, in, 5);

	t->code = xstrdup(code);
	t->deadline_s = deadline_s;
	envs_worker_post(w, t);
	return back(in);
}

static void the_thread_works(void **state)
{
	struct envs_worker *w = envs_worker_new();
	struct envs_task *t;
	struct inbox in;

	(void)state;
	assert_int_equal(inbox_init(&in), 0);
	must("printf '#!/bin/sh\\n' >t.sh");
	t = envs_task_new(ENVS_READ, &in, 3);
	t->path = xasprintf("%s/t.sh", dir);
	envs_worker_post(w, t);
	assert_ptr_equal(back(&in), t);
	assert_int_equal(t->serial, 3);
	assert_int_equal(t->e.code, 0);
	assert_int_equal(t->archive.size, 10);
	assert_int_equal(t->identity.size, 10);
	msg_release(&t->m);
	t = do_run(w, &in, "echo out; echo err >&2; read x && echo no; exit 3", 20);
	assert_int_equal(t->rc, 3);
	assert_string_equal(t->out.buf, "out\n");
	msg_release(&t->m);
	t = do_run(w, &in, "trap 'echo told; exit 1' TERM; sleep 100 & wait", 0);
	assert_int_equal(t->rc, 124);
	msg_release(&t->m);
	t = envs_task_new(ENVS_RUN, &in, 6); /* is ended with the thread */
	t->code = xstrdup("sleep 100");
	t->deadline_s = 100;
	envs_worker_post(w, t);
	envs_worker_free(w);
	inbox_release(&in);
}

/* ---- shell code ---- */

static int64_t quota;
static struct envs_archive packed; /* env.tar: what pixi-unpack leaves */

/* A tree whose python is a script, so that it starts; `noise` makes another content. */
static void pack(const char *name, const char *noise)
{
	assert_int_equal(
		sh(NULL,
		   "rm -rf p && mkdir -p p/env/bin p/env/conda-meta && printf '#!/bin/sh\\n' >p/env/bin/python3 && "
		   "chmod +x p/env/bin/python3 && echo %s >p/env/noise && echo : >p/activate.sh && "
		   "tar -C p -cf %s env activate.sh",
		   noise, name),
		0);
	packed = must_read(name);
}

static int build_s;

static struct envs_place place(const char *uuid)
{
	static char directory[80];

	(void)snprintf(directory, sizeof(directory), "%s/d", dir);
	return (struct envs_place){ directory, uuid, &packed, "it's env.tar", quota, build_s };
}

static void must_look(struct envs_look *look)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT, out = STRBUF_INIT;
	const struct envs_place p = place("u");

	envs_look_code(&p, &code);
	assert_int_equal(sh(&out, "%s", code.buf), 0);
	if (envs_look_read(out.buf, look) < 0)
		fail_msg("no answer: %s", out.buf);
}

static char *unpack_code(const char *uuid)
{
	struct strbuf code = STRBUF_INIT;
	const struct envs_place p = place(uuid);

	envs_unpack_code(&p, NULL, true, &code);
	return strbuf_detach(&code, NULL);
}

static int unpack(struct strbuf *out)
{
	cleanup_free char *code = unpack_code("u");

	return box_exec((char *[]){ "sh", "-c", code, NULL }, out);
}

static void sent(const char *name)
{
	assert_int_equal(sh(NULL, "mkdir -p d/envs/%s && cp %s d/envs/%s/part.u", packed.key, name, packed.key), 0);
}

static void from_nothing_to_complete(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	struct envs_look look;

	(void)state;
	pack("a.tar", "a");
	must_look(&look);
	assert_false(look.complete || look.whole);
	assert_int_equal(look.have, 0);
	assert_true(*look.machine);
	assert_string_equal(look.libc, "glibc");
	assert_int_equal(sh(NULL, "head -c 1000 a.tar >d/envs/%s/part.u", packed.key), 0);
	must_look(&look);
	assert_int_equal(look.have, 1000);
	sent("a.tar");
	must_look(&look);
	assert_int_equal(look.have, packed.size);
	assert_int_equal(unpack(&out), 0);
	must_look(&look);
	assert_true(look.complete);
	strbuf_reset(&out);
	assert_int_equal(sh(&out,
			    "cd d/envs/%s && ls && cat root/env/noise && sed -n 2p complete && grep -c sending log && "
			    "grep -c unpacked log",
			    packed.key),
			 0);
	assert_string_equal(out.buf, "complete\nenv\nlast_used\nlog\nroot\na\nname it's env.tar\n2\n1\n");
	assert_int_equal(unpack(&out), 0); /* again: nothing to do */
}

static void too_much_is_thrown_away(void **state)
{
	struct envs_look look;

	(void)state;
	pack("b.tar", "b");
	must_look(&look);
	assert_int_equal(sh(NULL, "cat b.tar b.tar >d/envs/%s/part.u", packed.key), 0);
	must_look(&look);
	assert_int_equal(look.have, 0);
}

static void damage(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	(void)state;
	pack("c.tar", "c");
	sent("b.tar");
	assert_int_equal(unpack(&out), ENVS_RC_DAMAGED);
	assert_int_equal(sh(NULL, "test ! -e d/envs/%s/part.u && test ! -e d/envs/%s/lock", packed.key, packed.key), 0);
	assert_int_equal(unpack(&out), 75); /* nothing is there */
	sent("c.tar");
	assert_int_equal(unpack(&out), 0);
}

/* With a PATH that has neither sha256sum nor another: size and CRC. */
static void without_sha256sum(void **state)
{
	static const char tools[] = "uname readlink tr cat sed cut ln rm mkdir mv date tar du touch od sleep cksum";
	cleanup_free char *code = NULL;
	cleanup_strbuf struct strbuf sb = STRBUF_INIT, out = STRBUF_INIT;

	(void)state;
	pack("n.tar", "n");
	assert_int_equal(sh(NULL, "mkdir -p bin && for i in %s; do ln -sf \"$(command -v $i)\" bin/$i; done", tools),
			 0);
	code = unpack_code("u");
	strbuf_addf(&sb, "PATH=");
	quote_sh(&sb, dir);
	strbuf_addf(&sb, "/bin\n%s", code);
	sent("c.tar");
	assert_int_equal(box_exec((char *[]){ "sh", "-c", sb.buf, NULL }, &out), ENVS_RC_DAMAGED);
	sent("n.tar");
	assert_int_equal(box_exec((char *[]){ "sh", "-c", sb.buf, NULL }, &out), 0);
}

static void unfit(void **state)
{
	static const struct {
		const char *arrange, *want;
	} rows[] = {
		{ "mkdir u && echo 1 >u/1", "none of activate.sh, bin/activate, conda-meta" },
		{ "mkdir -p u/a/conda-meta u/b", "none of activate.sh" },
		{ "mkdir -p u/conda-meta u/bin && printf '#!/bin/sh\\necho broken >&2\\nexit 1\\n' >u/bin/python3 && "
		  "chmod +x u/bin/python3",
		  "its python does not start on" },
		{ "mkdir -p u/conda-meta u/bin && ln -s /no/python u/bin/python3",
		  "leads to /no/python, which is not on" },
		{ "mkdir -p u/bin && : >u/pyvenv.cfg && printf '#!/bin/sh\\n' >u/bin/python3 && chmod +x u/bin/python3 && "
		  "echo 'PATH=/usr/bin:$PATH' >u/bin/activate",
		  "it is a virtual environment, which cannot be moved" },
		{ "mkdir -p u/conda-meta u/bin && cp elf/arm u/bin/python3", "it is for linux-aarch64" },
		{ "mkdir -p u && cp pp/pixi-pack.json u/", "pixi-unpack is not on the cluster" },
	};

	(void)state;
	if (sh(NULL, "test $(uname -m) = x86_64") != 0)
		skip();
	put_elf("elf/arm", 183);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_strbuf struct strbuf out = STRBUF_INIT;

		must("rm -rf u");
		must(rows[i].arrange);
		must("tar -C u -cf u.tar $(ls u) && : >>u.tar");
		packed = must_read("u.tar");
		sent("u.tar");
		if (unpack(&out) != ENVS_RC_UNFIT || !strstr(out.buf, rows[i].want))
			fail_msg("'%s' does not say '%s'", out.buf, rows[i].want);
		assert_int_equal(sh(NULL,
				    "test ! -e d/envs/%s/complete && test ! -L d/envs/%s/lock && "
				    "grep -q failed: d/envs/%s/log",
				    packed.key, packed.key, packed.key),
				 0);
	}
	must("gzip -c c.tar | head -c 150 >cut.tar.gz");
	packed = must_read("cut.tar.gz");
	sent("cut.tar.gz");
	{
		cleanup_strbuf struct strbuf out = STRBUF_INIT;

		assert_int_equal(unpack(&out), ENVS_RC_UNFIT);
		assert_non_null(strstr(out.buf, "it cannot be unpacked"));
	}
}

/* Each leaves a line when it unpacks; one does. */
static void ten_at_once(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	pid_t pids[10];

	(void)state;
	pack("t.tar", "t");
	sent("t.tar");
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		cleanup_free char *code = unpack_code("u");

		pids[i] = fork();
		if (pids[i] == 0) {
			(void)execl("/bin/sh", "sh", "-c", code, (char *)NULL);
			_exit(126);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_int_equal(
		sh(&out, "grep -c unpacked d/envs/%s/log; ls -A d/envs/%s | tr '\\n' ' '", packed.key, packed.key), 0);
	assert_string_equal(out.buf, "1\ncomplete env last_used log root ");
}

/* Owners that are gone: killed, of another boot, of another machine, one that died while it took over. */
static void dead_owners(void **state)
{
	static const char *const owners[] = {
		"$my:$p:1", /* the number belongs to another by now */
		"$my:999999999:1",
		"${my%%:*}:another-boot:$p:1",
		"elsewhere.1:b:1:1",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(owners); i++) {
		cleanup_strbuf struct strbuf out = STRBUF_INIT;
		cleanup_free char *code = NULL, *all = NULL;
		char noise[8];

		(void)snprintf(noise, sizeof(noise), "d%zu", i);
		pack("o.tar", noise);
		sent("o.tar");
		must("sleep 30 >/dev/null & echo $! >pid");
		assert_int_equal(sh(NULL,
				    "p=$(cat pid); my=$(uname -n).$(readlink /proc/self/ns/pid | tr -cd 0-9):$(cat "
				    "/proc/sys/kernel/random/boot_id)\n"
				    "ln -s \"%s\" d/envs/%s/lock\n"
				    "[ %zu != 1 ] || ln -s \"$my:999999998:1\" \"d/envs/%s/over.%s\"\n",
				    owners[i], packed.key, i, packed.key, owners[i]),
				 0);
		code = unpack_code("u");
		all = xasprintf("ENVS_PATIENCE=2\n%s", code);
		assert_int_equal(box_exec((char *[]){ "sh", "-c", all, NULL }, &out), 0);
		assert_int_equal(sh(NULL,
				    "kill $(cat pid); test -e d/envs/%s/complete && test ! -L d/envs/%s/lock && "
				    "test -z \"$(ls d/envs/%s | grep over)\"",
				    packed.key, packed.key, packed.key),
				 0);
	}
}

/* kill -9 in the middle: the next one begins anew, and nobody takes half a tree for a whole one. */
static void killed_in_the_middle(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	cleanup_free char *code = NULL;
	struct envs_look look;
	int status;
	pid_t pid;

	(void)state;
	must("printf '%s\\n' '#!/bin/sh' 'mkdir conda-meta; [ -e ../slow ] || exit 0; echo >../begun; sleep 30' >slow.sh");
	packed = must_read("slow.sh");
	sent("slow.sh");
	assert_int_equal(sh(NULL, ": >d/envs/%s/slow", packed.key), 0);
	code = unpack_code("u");
	pid = fork();
	if (pid == 0) {
		(void)setpgid(0, 0);
		(void)execl("/bin/sh", "sh", "-c", code, (char *)NULL);
		_exit(126);
	}
	assert_int_equal(
		sh(NULL, "i=0; until [ -e d/envs/%s/begun ]; do i=$((i+1)); [ $i -lt 300 ] || exit 1; sleep 0.1; done",
		   packed.key),
		0);
	(void)kill(-pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	must_look(&look);
	assert_true(look.whole && !look.complete);
	assert_int_equal(sh(NULL, "test -L d/envs/%s/lock && rm d/envs/%s/slow", packed.key, packed.key), 0);
	assert_int_equal(unpack(&out), 0);
	must_look(&look);
	assert_true(look.complete);
}

/* ---- other uses of a file ---- */

/* Reads `name` for the use and unpacks it; the exit code. */
static int make_of(const char *name, enum envs_use use, struct strbuf *out)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name);
	struct err e = ERR_INIT;

	if (envs_read(path, use, NULL, &packed, &e) < 0)
		fail_msg("%s: %s", name, e.text);
	sent(name);
	strbuf_reset(out);
	return unpack(out);
}

static void make_wheel(void)
{
	must("rm -rf w && mkdir -p w/lib w/lib-1.data/purelib && echo 'print(\"wheel\")' >w/lib/__init__.py && "
	     "echo 'x = 5' >w/lib-1.data/purelib/more.py && cd w && "
	     "python3 -m zipfile -c ../lib-1-py3-none-any.whl lib lib-1.data");
}

static void libraries(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	(void)state;
	make_wheel();
	assert_int_equal(make_of("lib-1-py3-none-any.whl", ENVS_LIBRARY, &out), 0);
	assert_int_equal(packed.kind, ENVS_WHEEL);
	assert_string_equal(packed.key + ENVS_KEY_LEN, ".library");
	assert_int_equal(
		sh(NULL, "cd / && PYTHONPATH=$OLDPWD/d/envs/%s/root python3 -c 'import lib, more'", packed.key), 0);
	must("cp lib-1-py3-none-any.whl lib-1-cp311-cp311-manylinux_2_17_aarch64.whl");
	assert_int_equal(make_of("lib-1-cp311-cp311-manylinux_2_17_aarch64.whl", ENVS_LIBRARY, &out), 0);
	assert_string_equal(packed.platform, "linux-aarch64");
	must("echo 'y = 6' >any_name.py");
	assert_int_equal(make_of("any_name.py", ENVS_LIBRARY, &out), 0);
	assert_int_equal(packed.kind, ENVS_MODULE);
	assert_int_equal(
		sh(NULL, "PYTHONPATH=d/envs/%s/root python3 -c 'import dagster_pipes; dagster_pipes.y'", packed.key),
		0);
}

/* Without unzip and python3 the wheel itself is on the path. */
static void library_without_tools(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	cleanup_free char *path = xasprintf("%s/lib-1-py3-none-any.whl", dir), *code = NULL, *all = NULL;
	struct err e = ERR_INIT;

	(void)state;
	make_wheel();
	must("rm -rf d few && mkdir few && for p in mkdir cp mv rm ln ls cat sed cut tr date du head touch readlink uname sleep "
	     "sha256sum chmod kill; do ln -s \"$(command -v $p)\" few/; done");
	assert_int_equal(envs_read(path, ENVS_LIBRARY, NULL, &packed, &e), 0);
	sent("lib-1-py3-none-any.whl");
	code = unpack_code("u");
	all = xasprintf("PATH=\"%s/few\"\n%s", dir, code);
	assert_int_equal(box_exec((char *[]){ "sh", "-c", all, NULL }, &out), 0);
	assert_int_equal(sh(NULL, "cd / && PYTHONPATH=$OLDPWD/d/envs/%s/root python3 -c 'import lib'", packed.key), 0);
}

static void files_by_content(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT, code = STRBUF_INIT;
	struct envs_place p;

	(void)state;
	must("head -c 300000 /dev/urandom >data");
	assert_int_equal(make_of("data", ENVS_FILE, &out), 0);
	assert_string_equal(packed.key + ENVS_KEY_LEN, ".file");
	p = place("u");
	strbuf_addf(&code, "w=\"%s/work\"; mkdir -p \"$w\"\n", dir);
	envs_copy_code(&p, "it's mine", 0640, 1000000000, &code);
	assert_int_equal(sh(NULL, "%s", code.buf), 0);
	must("cmp data \"work/it's mine\" && [ \"$(stat -c '%a %Y %h' \"work/it's mine\")\" = '640 1000000000 1' ]");
	must("echo spoilt >\"work/it's mine\""); /* what a job does to its own is its own affair */
	assert_int_equal(sh(NULL, "cmp data d/envs/%s/env/data", packed.key), 0);
	assert_int_equal(sh(NULL, "%s", code.buf), 0);
	must("cmp data \"work/it's mine\"");
}

static const char builder[] =
	"#!/bin/sh\nmkdir -p \"${PREFIX:?}/bin\" \"${PREFIX:?}/conda-meta\"\n"
	"printf '#!/bin/sh\\n' >\"${PREFIX:?}/bin/python3\"\nchmod +x \"${PREFIX:?}/bin/python3\"\n";
static const char builder_with_lock[] = "cp lock \"${PREFIX:?}/\"\n";

static void builds(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT, both = STRBUF_INIT;

	(void)state;
	put("make-env", builder, sizeof(builder) - 1);
	assert_int_equal(make_of("make-env", ENVS_BUILD, &out), 0);
	assert_string_equal(packed.key + ENVS_KEY_LEN, ".build");
	assert_int_equal(sh(NULL, "[ -x d/envs/%s/root/bin/python3 ] && [ ! -x make-env ] && [ ! -e d/envs/%s/src ]",
			    packed.key, packed.key),
			 0);
	/* an archive with what it needs beside it */
	must("mkdir -p b/x && echo locked >b/x/lock");
	strbuf_addf(&both, "%s%s", builder, builder_with_lock);
	put("b/x/build", both.buf, both.len);
	must("tar -C b -czf b.tar.gz x");
	assert_int_equal(make_of("b.tar.gz", ENVS_BUILD, &out), 0);
	assert_int_equal(sh(NULL, "[ \"$(cat d/envs/%s/root/lock)\" = locked ]", packed.key), 0);
}

static void builds_that_fail(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	(void)state;
	must("printf '#!/bin/sh\necho begun\necho no network >&2\nexit 3\n' >bad-env");
	assert_int_equal(make_of("bad-env", ENVS_BUILD, &out), ENVS_RC_UNFIT);
	assert_non_null(strstr(out.buf, "its build failed (code 3): no network"));
	assert_int_equal(sh(NULL, "grep -q begun d/envs/%s/log && [ ! -e d/envs/%s/complete ]", packed.key, packed.key),
			 0);
	build_s = 1;
	must("printf '#!/bin/sh\nsleep 100\n' >slow-env");
	assert_int_equal(make_of("slow-env", ENVS_BUILD, &out), ENVS_RC_UNFIT);
	assert_non_null(strstr(out.buf, "it took longer than 1 seconds"));
	build_s = 0;
	must("printf '#!/bin/sh\n:\n' >empty-env");
	assert_int_equal(make_of("empty-env", ENVS_BUILD, &out), ENVS_RC_UNFIT);
	assert_non_null(strstr(out.buf, "nothing in it can be activated"));
	must("mkdir -p nb && tar -cf nb.tar nb");
	assert_int_equal(make_of("nb.tar", ENVS_BUILD, &out), ENVS_RC_UNFIT);
	assert_non_null(strstr(out.buf, "no file named build"));
}

/* ---- the list and its verbs ---- */

static int probe(const char *what, struct strbuf *out)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT;
	cleanup_free char *directory = xasprintf("%s/d", dir);

	strbuf_reset(out);
	assert_true(envs_probe_code(directory, what, &code));
	return box_exec((char *[]){ "sh", "-c", code.buf, NULL }, out);
}

static void probes(void **state)
{
	static const char *const bad[] = { "info",
					   "envsx",
					   "envs keep",
					   "envs keep ",
					   "envs keep ../../x",
					   "envs burn 0123",
					   "envs remove 00112233445566778899aabbccddeeff.x" };
	cleanup_strbuf struct strbuf out = STRBUF_INIT, code = STRBUF_INIT;
	cleanup_free char *want = NULL, *verb = NULL;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(envs_probe_code("/d", bad[i], &code));
	assert_int_equal(code.len, 0);
	must("rm -rf d");
	assert_int_equal(probe("envs", &out), 0);
	assert_string_equal(out.buf, "");
	must("head -c 300000 /dev/urandom >listed");
	assert_int_equal(make_of("listed", ENVS_FILE, &out), 0);
	assert_true(envs_key_ok(packed.key));
	must("mkdir -p d/envs/00112233445566778899aabbccddeeff && echo '17 failed: bad' "
	     ">d/envs/00112233445566778899aabbccddeeff/log");
	assert_int_equal(probe("envs", &out), 0);
	want = xasprintf("env %s ready ", packed.key);
	assert_non_null(strstr(out.buf, want));
	assert_non_null(strstr(out.buf, " - it's env.tar\n"));
	assert_non_null(strstr(out.buf, "env 00112233445566778899aabbccddeeff failed "));
	assert_non_null(strstr(out.buf, "\n 17 failed: bad\n"));
	verb = xasprintf("envs verify %s", packed.key);
	assert_int_equal(probe(verb, &out), 0);
	assert_int_equal(sh(NULL,
			    "grep -q 'as it should be' d/envs/%s/log && chmod u+w d/envs/%s/env/data && echo x "
			    ">>d/envs/%s/env/data",
			    packed.key, packed.key, packed.key),
			 0);
	assert_int_equal(probe(verb, &out), 0);
	assert_int_equal(sh(NULL, "grep -q 'its bytes have changed' d/envs/%s/log", packed.key), 0);
	free(verb);
	verb = xasprintf("envs remove %s", packed.key);
	assert_int_equal(sh(NULL, "mkdir -p r d/envs/%s/users && ln -s \"$PWD/r\" d/envs/%s/users/u.1.a1", packed.key,
			    packed.key),
			 0);
	assert_int_equal(probe(verb, &out), 0);
	assert_int_equal(sh(NULL, "[ -e d/envs/%s/complete ] && rmdir r", packed.key), 0);
	assert_int_equal(probe(verb, &out), 0);
	assert_int_equal(sh(NULL, "[ ! -e d/envs/%s ]", packed.key), 0);
}

/* ---- what a job needs ---- */

static void needs(void **state)
{
	cleanup_free char *large = xasprintf("%s/large", dir), *small = xasprintf("%s/small", dir);
	cleanup_free char *none = xasprintf("%s/none", dir), *other = xasprintf("%s/other", dir);
	char *files[] = { large, small, dir, none, NULL };
	char *wheels[] = { "/a.whl", "/b.whl", NULL };
	struct job_input inputs[] = { { .name = "in", .source = other },
				      { .name = "r", .source = "runs/1/results/x", .run = "1" } };
	struct job job = { .form = JOB_PAYLOAD, .command = small, .files = files, .inputs = inputs, .n_inputs = 2 };
	struct envs_need *v;
	size_t n;

	(void)state;
	must("rm -f none; head -c 300000 /dev/zero >large; chmod 750 large; echo >small; cp large other");
	v = envs_needs(&job, true, &n);
	assert_int_equal(n, 2);
	assert_string_equal(v[0].copy, "large");
	assert_int_equal(v[0].mode, 0750);
	assert_null(v[0].link);
	assert_string_equal(v[1].copy, "in");
	assert_true(envs_needs_has(v, n, large) && envs_needs_has(v, n, other) && !envs_needs_has(v, n, small));
	envs_needs_free(v, n);
	job.command = large;
	job.environment = (struct environment){
		.kind = ENV_BUILD, .where = "/b", .build_s = 7, .wheels = wheels, .pipes = "/p.whl"
	};
	v = envs_needs(&job, false, &n);
	assert_int_equal(n, 4);
	assert_int_equal(v[0].use, ENVS_BUILD);
	assert_int_equal(v[0].build_s, 7);
	assert_string_equal(v[0].link, "environment");
	assert_string_equal(v[1].link, "wheel.0");
	assert_string_equal(v[2].link, "wheel.1");
	assert_string_equal(v[3].link, "pipes");
	assert_false(envs_needs_has(v, n, "/p.whl"));
	envs_needs_free(v, n);
	v = envs_needs(&job, true, &n);
	assert_int_equal(n, 7);
	assert_string_equal(v[6].copy, LAUNCH_PAYLOAD);
	envs_needs_free(v, n);
}

static void links(void **state)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT, out = STRBUF_INIT;
	cleanup_free char *attempt = xasprintf("%s/run/a1", dir);
	const struct envs_place p = place("u");

	(void)state;
	pack("l.tar", "l");
	envs_link_code(&p, attempt, "environment", "u.1.a1", &code);
	assert_int_equal(sh(NULL, "%s", code.buf), ENVS_RC_GONE);
	sent("l.tar");
	assert_int_equal(sh(NULL, "%s", code.buf), ENVS_RC_GONE);
	assert_int_equal(unpack(&out), 0);
	assert_int_equal(sh(NULL, "%s", code.buf), 0);
	assert_int_equal(
		sh(NULL, "test -e run/a1/environment/complete && test -d d/envs/%s/users/u.1.a1/.", packed.key), 0);
	assert_int_equal(sh(NULL, ": >run/a1/intent; rm d/envs/%s/complete", packed.key), 0);
	assert_int_equal(sh(NULL, "%s", code.buf), 0); /* it was sent before: left as it is */
}

/* Packs and unpacks the archive `name`; its key. */
static char *deploy(const char *name)
{
	cleanup_free char *file = xasprintf("%s.tar", name);
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	pack(file, name);
	sent(file);
	assert_int_equal(unpack(&out), 0);
	return xstrdup(packed.key);
}

static bool there(const char *key)
{
	return sh(NULL, "test -e d/envs/%s/complete", key) == 0;
}

static void eviction(void **state)
{
	cleanup_free char *old = NULL, *used = NULL, *ended = NULL, *voided = NULL, *fresh = NULL, *last = NULL;

	(void)state;
	must("rm -rf d run U");
	quota = 0;
	old = deploy("q1");
	used = deploy("q2");
	ended = deploy("q3");
	voided = deploy("q4");
	fresh = deploy("q5");
	assert_int_equal(
		sh(NULL,
		   "mkdir -p U/runs/2/a1 U/runs/3/a1 U/runs/4/a1 U/ends && : >U/ends/3.a1 && ln -s void U/runs/4/a1/started\n"
		   "for i in 2:%s 3:%s 4:%s; do\n"
		   "mkdir d/envs/${i#*:}/users; ln -s \"$PWD/U/runs/${i%%:*}/a1\" d/envs/${i#*:}/users/u; done\n"
		   "n=1; for i in %s %s %s %s %s; do touch -d \"2020-01-0$n\" d/envs/$i/last_used; n=$((n+1)); done",
		   used, ended, voided, old, used, ended, voided, fresh),
		0);
	quota = 1000000; /* all fit */
	last = deploy("q6");
	assert_true(there(old) && there(used) && there(ended) && there(voided) && there(fresh) && there(last));
	quota = 50; /* of about 16 each */
	free(last);
	last = deploy("q7");
	assert_false(there(old) || there(ended) || there(voided));
	assert_true(there(used) && there(last));
	assert_int_equal(sh(NULL, "test ! -e d/envs/%s && grep -q 'removed %s' d/envs/%s/log", old, old, last), 0);
	quota = 1; /* its own and what is in use stay whatever the quota says */
	free(last);
	last = deploy("q8");
	assert_true(there(used) && there(last));
	assert_false(there(fresh));
	quota = 0;
}

/* What is not complete goes when nobody touched it for a day; what somebody sends, or uses, stays. */
static void remains(void **state)
{
	cleanup_free char *last = NULL;

	(void)state;
	must("rm -rf d run U");
	must("mkdir -p d/envs/unfit/env d/envs/part d/envs/young d/envs/held d/envs/used/users d/envs/.gone.x.1 "
	     "runs/U/runs/2/a1 && echo 1 >d/envs/unfit/log; echo 1 >d/envs/unfit/archive; echo 1 >d/envs/part/part.u; "
	     "echo 1 >d/envs/young/part.u; echo 1 >d/envs/held/log; ln -s x:y:1:1 d/envs/held/lock; echo 1 >d/envs/used/leaving; "
	     "ln -s \"$PWD/runs/U/runs/2/a1\" d/envs/used/users/u; "
	     "touch -d 2020-01-01 d/envs/unfit/* d/envs/part/* d/envs/held/log d/envs/used/leaving");
	quota = 1000000;
	last = deploy("r1");
	must("cd d/envs && [ ! -e unfit ] && [ ! -e part ] && [ -z \"$(ls -d .gone.* 2>/dev/null)\" ]");
	must("cd d/envs && [ -e young/part.u ] && [ -e held/log ] && [ -e used/leaving ]");
	must("mkdir -p runs/U/ends && : >runs/U/ends/2.a1"); /* its directory is below another `runs` */
	free(last);
	last = deploy("r2");
	must("[ ! -e d/envs/used ]");
	quota = 0;
}

/* Young remains count: what is complete makes room for them. */
static void remains_count(void **state)
{
	cleanup_free char *old = NULL, *last = NULL;

	(void)state;
	must("rm -rf d run U runs");
	quota = 0;
	old = deploy("s1");
	must("mkdir d/envs/young && head -c 200000 /dev/urandom >d/envs/young/part.u");
	quota = 100;
	last = deploy("s2");
	assert_false(there(old));
	assert_true(there(last));
	must("[ -e d/envs/young/part.u ]");
	quota = 0;
}

/* A third machine takes over from a dead one: it is not dead only because the first is. */
static void takers_of_elsewhere(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	cleanup_free char *code = NULL, *all = NULL;

	(void)state;
	pack("v.tar", "v");
	sent("v.tar");
	assert_int_equal(
		sh(NULL,
		   "rm -f stop early looks\ncd d/envs/%s; ln -s elsewhere.1:b:1:1 lock\n"
		   /* it is another taker before each look, until the lock's owner alone would have been dead twice */
		   "(exec >/dev/null 2>&1; n=0; while [ \"$(wc -l <\"$OLDPWD/looks\")\" -lt 12 ]; do n=$((n + 1)); "
		   "ln -sfn third.2:b:$n:1 over.elsewhere.1:b:1:1; sleep 0.02; done; "
		   "[ ! -e complete ] || : >\"$OLDPWD/early\"; : >\"$OLDPWD/stop\") &",
		   packed.key),
		0);
	code = unpack_code("u");
	/* its own seconds are a condition of the other: it has made that many looks, however long they took */
	all = xasprintf(
		"ENVS_PATIENCE=6\nsleep() { echo >>\"%s/looks\"; i=0; o_=$(readlink \"$e/over.elsewhere.1:b:1:1\"); "
		"while [ ! -e \"%s/stop\" ] && [ \"$(readlink \"$e/over.elsewhere.1:b:1:1\")\" = \"$o_\" ]; do command "
		"sleep 0.01; done; }\n%s",
		dir, dir, code);
	assert_int_equal(box_exec((char *[]){ "sh", "-c", all, NULL }, &out), 0);
	must("[ -e stop ] && [ ! -e early ]");
}

static void answers(void **state)
{
	static const char *const bad[] = { "",
					   "machine",
					   "machine x\n",
					   "machine x86_64 glibc\n",
					   "machine a b\npart\n",
					   "machine a b\npart x\n",
					   "machine a b\npart -1\n",
					   "machine a b\npart 5 6\n",
					   "machine a b\npart 99999999999999999999999\n",
					   "x\ncomplete\n" };
	struct envs_look look;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(envs_look_read(bad[i], &look), -EPROTO);
	assert_int_equal(envs_look_read("machine aarch64 other\npart 17\n", &look), 0);
	assert_int_equal(look.have, 17);
	assert_string_equal(look.machine, "aarch64");
	assert_string_equal(look.libc, "other");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums),
		cmocka_unit_test(sums_of_pieces),
		cmocka_unit_test(kinds),
		cmocka_unit_test(no_archives),
		cmocka_unit_test(stopping),
		cmocka_unit_test(platforms),
		cmocka_unit_test(names),
		cmocka_unit_test(fitting),
		cmocka_unit_test(the_thread_works),
		cmocka_unit_test(from_nothing_to_complete),
		cmocka_unit_test(too_much_is_thrown_away),
		cmocka_unit_test(damage),
		cmocka_unit_test(without_sha256sum),
		cmocka_unit_test(unfit),
		cmocka_unit_test(ten_at_once),
		cmocka_unit_test(dead_owners),
		cmocka_unit_test(killed_in_the_middle),
		cmocka_unit_test(links),
		cmocka_unit_test(eviction),
		cmocka_unit_test(remains),
		cmocka_unit_test(remains_count),
		cmocka_unit_test(takers_of_elsewhere),
		cmocka_unit_test(libraries),
		cmocka_unit_test(library_without_tools),
		cmocka_unit_test(files_by_content),
		cmocka_unit_test(builds),
		cmocka_unit_test(builds_that_fail),
		cmocka_unit_test(needs),
		cmocka_unit_test(probes),
		cmocka_unit_test(answers),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
