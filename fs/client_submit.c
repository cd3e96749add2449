/*
 * `slurmray submit`: makes a document of its arguments or of a file, writes it to runs/new, and reads the id back on
 * the same descriptor. The write decides: when it returned without an error, the run is in the journal.
 *
 * A document is written in pieces that are one request each (WRITE_CHUNK), so that an error belongs to the write that
 * caused it and never comes as a short count that would be followed by the rest.
 */
#include "fs/client.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "backend/scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define WRITE_CHUNK 65536
#define ANSWER_MAX 65536
#define ID_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

struct request {
	const char *mount; /* option */
	bool wait, follow;
	json_t *pairs;
	const char *file;   /* or "-" */
	struct strbuf hint; /* how to write it if the file is a command */
	char **command;     /* NULL: a file */
	int n_command;
};

/* --- the conversation --- */

static int open_new(const char *mount)
{
	cleanup_free char *path = xasprintf("%s/runs/new", mount);
	int fd = open(path, O_RDWR | O_CLOEXEC), rc = -errno;

	if (fd >= 0)
		return fd;
	if (rc == -ENOENT || rc == -ENOTDIR)
		client_say("there is no slurmray mount at %s; `slurmray mount %s` makes one", mount, mount);
	else if (rc == -ENOTCONN || rc == -ECONNABORTED)
		client_say("the mount %s is dead: nobody serves it; `slurmray mount %s` serves it again", mount, mount);
	else
		client_say("%s: %s", path, strerror(-rc));
	return rc;
}

static int write_text(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len < WRITE_CHUNK ? len : WRITE_CHUNK);

		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Says why a write was refused: what is read back, else what the code means. Always 1. */
static int say_refused(int fd, const char *mount, int code)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (code == -ENOTCONN || code == -ECONNABORTED || code == -ENODEV || code == -EINTR)
		client_say(
			"%s went away while the spec was written: %s/runs/list will say whether it became a run. key=NAME in a spec "
			"makes it safe to submit it again",
			mount, mount);
	else if (strbuf_read_fd(&text, fd, ANSWER_MAX) > 0)
		client_say("%s", text.buf);
	else if (code == -ETIMEDOUT)
		client_say("the journal did not take the spec in time; %s/errors will say what became of it", mount);
	else
		client_say("%s/runs/new: %s", mount, strerror(-code));
	return 1;
}

/* Reads exactly n lines, for a read beyond them would wait for the scheduler. 0 or negative errno. */
static int read_ids(int fd, size_t n, struct strbuf *out)
{
	char buf[4096];

	while (n) {
		ssize_t got = read(fd, buf, sizeof(buf));

		if (got <= 0)
			return got == 0 ? -ENODATA : -errno;
		strbuf_add(out, buf, (size_t)got);
		for (ssize_t i = 0; i < got && n; i++)
			n -= buf[i] == '\n';
	}
	return 0;
}

static bool are_ids(const char *text)
{
	for (; *text; text++) {
		size_t n = strspn(text, ID_CHARS);

		if (!n || text[n] != '\n')
			return false;
		text += n;
	}
	return true;
}

/* Writes one text that holds n documents; prints their ids, and gives them. */
static int send_text(const struct request *r, const char *mount, const char *text, size_t len, size_t n,
		     struct strbuf *ids)
{
	cleanup_close int fd = open_new(mount);
	int rc;

	if (fd < 0)
		return 1;
	rc = write_text(fd, text, len);
	if (rc < 0)
		return say_refused(fd, mount, rc);
	rc = read_ids(fd, n, ids);
	if (rc < 0)
		return say_refused(fd, mount, rc);
	if (!are_ids(ids->buf)) {
		client_say("%s", ids->buf);
		return 1;
	}
	if (r->follow) {
		client_say("run %s", ids->buf); /* standard output is the job's */
	} else if (fputs(ids->buf, stdout) < 0 || fflush(stdout) < 0) {
		client_say("the id (%.*s) cannot be printed: %s", (int)strcspn(ids->buf, "\n"), ids->buf,
			   strerror(errno));
		return 1;
	}
	return 0;
}

/* Several documents that fit into one write are accepted or refused together; else one after the other. */
static int send_all(const struct request *r, const char *mount, const struct client_doc *docs, size_t n,
		    struct strbuf *ids)
{
	cleanup_strbuf struct strbuf all = STRBUF_INIT;
	int rc = 0;

	for (size_t i = 0; i < n; i++) {
		strbuf_add(&all, docs[i].text, docs[i].len);
		if (n > 1)
			strbuf_addch(&all, '\n');
	}
	if (n == 1 || all.len <= WRITE_CHUNK)
		return send_text(r, mount, all.buf, all.len, n, ids);
	for (size_t i = 0; i < n && rc == 0; i++) {
		strbuf_reset(ids);
		rc = send_text(r, mount, docs[i].text, docs[i].len, 1, ids);
		if (rc != 0)
			client_say("document %zu of %zu was refused; those before it were submitted", i + 1, n);
	}
	return rc;
}

/* --- what to submit --- */

/* One word is text for a shell, as with sbatch --wrap; several are executed as they are. */
static int command_document(const struct request *r, struct client_doc **out, struct strbuf *errors)
{
	json_t *value = r->n_command == 1 ? json_string(r->command[0]) : json_array();
	bool ok = value != NULL;

	for (int i = 0; r->n_command > 1 && i < r->n_command; i++)
		ok = json_array_append_new(value, json_string(r->command[i])) == 0 && ok;
	if (!ok) {
		json_decref(value);
		strbuf_addstr(errors, "the command is not UTF-8; put it into a file and ship that with payload=FILE");
		return -EINVAL;
	}
	(void)json_object_set_new(r->pairs, "command", value);
	*out = xcalloc(1, sizeof(**out));
	(*out)->text = json_dumps(r->pairs, JSON_COMPACT);
	(*out)->len = strlen((*out)->text);
	return 1;
}

/* A payload or a command may be given as KEY=VALUE alone. */
static int pairs_document(const struct request *r, struct client_doc **out)
{
	*out = xcalloc(1, sizeof(**out));
	(*out)->text = json_dumps(r->pairs, JSON_COMPACT);
	(*out)->len = strlen((*out)->text);
	return 1;
}

static int file_documents(const struct request *r, struct client_doc **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	bool input = strcmp(r->file, "-") == 0;
	const char *name = input ? "standard input" : r->file;
	ssize_t n = input ? strbuf_read_fd(&text, STDIN_FILENO, SPEC_MAX_BYTES)
			  : strbuf_read_file(&text, r->file, SPEC_MAX_BYTES);

	if (n == -EFBIG)
		strbuf_addf(errors,
			    "%s is larger than 1 MiB, which is all that a spec may be; payload=FILE ships a file",
			    name);
	else if (n < 0)
		strbuf_addf(errors, "%s: %s%s%s", name, strerror((int)-n), n == -ENOENT ? "\n" : "",
			    n == -ENOENT ? r->hint.buf : "");
	return n < 0 ? (int)n : client_documents(name, text.buf, text.len, r->pairs, out, errors);
}

static int documents(const struct request *r, struct client_doc **out, struct strbuf *errors)
{
	if (r->command)
		return command_document(r, out, errors);
	return r->file ? file_documents(r, out, errors) : pairs_document(r, out);
}

/* --- arguments --- */

/* An option at argv[*i]: 1 when it was one, 0 when not, else the exit status as a negative number. */
static int take_option(struct request *r, int argc, char **argv, int *i)
{
	const char *word = argv[*i];

	if (strcmp(word, "--wait") == 0) {
		r->wait = true;
	} else if (strcmp(word, "--follow") == 0) {
		r->follow = true;
	} else if (strncmp(word, "--mount=", 8) == 0) {
		r->mount = word + 8;
	} else if (strcmp(word, "--mount") == 0) {
		if (++*i == argc)
			return -client_usage("--mount needs a directory");
		r->mount = argv[*i];
	} else if (word[0] == '-' && word[1]) {
		return -client_usage("submit has no option '%s'; options of sbatch are written KEY=VALUE", word);
	} else {
		return 0;
	}
	return 1;
}

/* Words behind a file are for the script, whatever they look like, as with sbatch. */
static int script_arguments(struct request *r, char **words, struct strbuf *errors)
{
	json_t *list;

	if (!*words)
		return 0;
	if (strcmp(*words, "--") == 0)
		return client_usage("'%s' is no KEY=VALUE", r->file);
	if (strcmp(r->file, "-") != 0 && access(r->file, F_OK) < 0 && errno == ENOENT)
		return client_usage("there is no file '%s'; %s", r->file, r->hint.buf);
	list = json_array();
	for (size_t i = 0; words[i]; i++)
		if (json_array_append_new(list, json_string(words[i])) < 0)
			strbuf_addf(errors, "%sargument %zu of %s is not UTF-8", errors->len ? "\n" : "", i + 1,
				    r->file);
	(void)json_object_set_new(r->pairs, "args", list);
	return 0;
}

/* The command line as it has to be when what looked like a file is a command. */
static void make_hint(struct request *r, int argc, char **argv, int file)
{
	strbuf_addstr(&r->hint, "a command is written behind --: slurmray submit ");
	for (int i = 1; i < argc; i++) {
		strbuf_addstr(&r->hint, i == file ? "-- " : "");
		quote_sh(&r->hint, argv[i]);
		strbuf_addstr(&r->hint, i + 1 < argc ? " " : "");
	}
}

/* 0, or the exit status. */
static int arguments(struct request *r, int argc, char **argv, struct strbuf *errors)
{
	int rc;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			r->command = argv + i + 1;
			r->n_command = argc - i - 1;
			break;
		}
		rc = take_option(r, argc, argv, &i);
		if (rc < 0)
			return -rc;
		if (rc > 0)
			continue;
		if (client_is_pair(argv[i])) {
			(void)client_pair(r->pairs, argv[i], errors);
			continue;
		}
		r->file = argv[i];
		make_hint(r, argc, argv, i);
		rc = script_arguments(r, argv + i + 1, errors);
		if (rc > 0)
			return rc;
		break;
	}
	if (r->command ? r->n_command == 0 : !r->file && !json_object_size(r->pairs) && !errors->len)
		return client_usage("there is nothing to submit: write -- and a command, or the name of a file");
	if (r->wait && r->follow)
		return client_usage("--wait and --follow: only one of them");
	return 0;
}

/* --- the whole --- */

static int after(const struct request *r, const char *mount, const char *ids)
{
	cleanup_free char *id = xstrndup(ids, strcspn(ids, "\n"));
	cleanup_free char *dir = xasprintf("%s/runs/%s", mount, id);

	if (r->follow)
		return client_follow(mount, id);
	return r->wait ? client_wait(dir, true) : 0;
}

/* 0, or the exit status. */
static int settle_workdirs(const char *mount, struct client_doc *docs, int n, struct strbuf *errors)
{
	for (int i = 0; i < n; i++) {
		if (client_workdir(mount, &docs[i], errors) == 0)
			continue;
		client_say("%s", errors->buf);
		return 1;
	}
	return 0;
}

static int submit(const struct request *r, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf ids = STRBUF_INIT;
	cleanup_free char *mount = NULL;
	struct client_doc *docs = NULL;
	struct err e = ERR_INIT;
	int n = errors->len ? -EINVAL : documents(r, &docs, errors), rc;

	if (n < 0) {
		client_say("%s", errors->buf);
		return 1;
	}
	mount = client_find_mount(r->mount, &e);
	if (!mount) {
		client_say("%s", e.text);
		rc = 1;
	} else if (n > 1 && (r->wait || r->follow)) {
		rc = client_usage("%s holds %d specs; --wait and --follow are for one", r->file, n);
	} else {
		rc = settle_workdirs(mount, docs, n, errors);
		if (rc == 0)
			rc = send_all(r, mount, docs, (size_t)n, &ids);
		if (rc == 0)
			rc = after(r, mount, ids.buf);
	}
	for (int i = 0; i < n; i++)
		free(docs[i].text);
	free(docs);
	return rc;
}

int client_submit_main(int argc, char **argv)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	struct request r = { .pairs = json_object(), .hint = STRBUF_INIT };
	int rc = arguments(&r, argc, argv, &errors);

	if (rc == 0)
		rc = submit(&r, &errors);
	json_decref(r.pairs);
	strbuf_release(&r.hint);
	return rc;
}
