/*
 * The file `job` of a run with a cluster of its own starts the keeper beside itself, waits until every node is there
 * and becomes the command, so that signals, streams and codes are the command's own; the keeper ends the cluster when
 * that process is gone, and the wrapper waits for the keeper. A run in a session finds the session's.
 * docs/design/17-ray.md has the whole.
 */
#include "launchers/inner.h"

#include "launchers/wrapper.h"

#include "backend/base/quote.h"

#include <inttypes.h>
#include <string.h>

void inner_set(struct strbuf *out, const char *name, const char *value)
{
	strbuf_addf(out, "%s=", name);
	quote_sh(out, value ? value : "");
	strbuf_addch(out, '\n');
}

static void add_settings(const struct inner *in, const struct job *job, const struct launch_ctx *ctx,
			 struct strbuf *out)
{
	strbuf_addstr(out, "# shellcheck shell=bash disable=SC2034\n_tag=");
	launch_token(out, ctx);
	strbuf_addf(out,
		    "\n_max_workers=%d _timeout=%d _grace=%d _dash=%d _client=%d _token=%d _local_cpus=%" PRId64 "\n",
		    in->max_workers, in->start_timeout, job->grace_s, in->dashboard, in->client, in->token,
		    (int64_t)job->ntasks * job->cpus_per_task);
	inner_set(out, "_if", in->interface);
	inner_set(out, "_head_addr", in->head_address);
	inner_set(out, "_ports", in->ports);
	inner_set(out, "_want", in->version);
	if (job->environment.container)
		strbuf_addstr(out, "_box=$(command -v apptainer || command -v singularity)\n");
	strbuf_addstr(out, "_in() {\n\t");
	wrap_container(&job->environment, out);
	strbuf_addstr(out, " \"$@\"\n}\n");
}

static void add_file(struct strbuf *out, const char *kind, const char *what, const char *text)
{
	cleanup_strbuf struct strbuf name = STRBUF_INIT;

	strbuf_addf(&name, "%s-%s", kind, what);
	wrap_file(out, name.buf, text, strlen(text));
}

void inner_files(const struct inner *in, const struct job *job, const struct launch_ctx *ctx, const char *settings,
		 struct strbuf *out)
{
	cleanup_strbuf struct strbuf all = STRBUF_INIT, connect = STRBUF_INIT;

	add_settings(in, job, ctx, &all);
	strbuf_addstr(&all, settings);
	add_file(out, in->kind, "settings", all.buf);
	strbuf_addf(out, "[ -n \"$_nodes\" ] || echo _local=1 >>%s-settings || unready # no Slurm around it\n\n",
		    in->kind);
	add_file(out, in->kind, "keeper", inner_keeper_text);
	add_file(out, in->kind, "node", inner_node_text);
	add_file(out, in->kind, "kind", in->kind_text);
	strbuf_addstr(&connect, inner_wait_text);
	strbuf_addstr(&connect, in->env_text);
	add_file(out, in->kind, "connect", connect.buf);
}

static void add_own(const struct inner *in, struct strbuf *body)
{
	strbuf_addf(body,
		    "_at=${0%%/job}/%s\n"
		    "rm -f \"$_at/state\"\n"
		    "if [ -z \"${BASH_VERSION:-}\" ]; then\n"
		    "\techo '%s: it needs bash on every node' | tee \"${0%%/job}/reason\" >&2\n"
		    "\techo %s >\"${0%%/job}/fault\"\n"
		    "\texit 78\n"
		    "fi\n"
		    "SLURMRAY_WORK=$PWD bash \"${0%%/job}/%s-keeper\" \"${0%%/job}\" run </dev/null >/dev/null "
		    "2>>\"${0%%/job}/%s.log\" &\n",
		    in->kind, in->name, in->kind, in->kind, in->kind);
}

static void add_none(const struct inner *in, struct strbuf *body)
{
	strbuf_addf(body,
		    "_own=${_own:-${0%%/job}}\n"
		    "[ -n \"${%s:-}\" ] || {\n"
		    "\techo '%s: its session has none (say %s=true there)' | tee \"$_own/reason\" >&2\n"
		    "\techo %s >\"$_own/fault\"\n"
		    "\texit 78\n"
		    "}\n",
		    in->session_variable, in->name, in->kind, in->kind);
}

void inner_connect(const struct inner *in, const struct job *job, bool must, struct strbuf *body)
{
	int64_t tenths = ((int64_t)in->start_timeout + 15) * 10;

	if (!job->session) {
		add_own(in, body);
		strbuf_addf(body, "_what=%s _must=1 _limit=%" PRId64 "\n. \"${0%%/job}/%s-connect\"\n", in->name,
			    tenths, in->kind);
		return;
	}
	if (must)
		add_none(in, body);
	strbuf_addf(body,
		    "if [ -n \"${%s:-}\" ]; then\n"
		    "\t_at=$%s _what=%s _must=%s _limit=%" PRId64 "\n"
		    "\t# shellcheck disable=SC1090,SC1091 # of the session\n"
		    "\t. \"$_at-connect\"\n"
		    "fi\n",
		    in->session_variable, in->session_variable, in->name, must ? "1" : "''", tenths);
}
