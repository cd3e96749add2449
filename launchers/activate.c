/*
 * The environment of a job as shell text for the file `job`: modules, a directory (venv, conda prefix, unpacked
 * archive), a hook of the site's, a container around the command.
 *
 * Invariants: the command is never reached when a part failed, by whatever way: each part is checked for its effect and
 * not for its status alone, and a trap catches a shell that was ended; then `fault` in the attempt's directory says
 * `environment`, and `reason` has a sentence for the exit record. What activation prints goes to the file `activation`,
 * so that the command's streams are its own; after a failure it goes to stderr as well. Names begin with _. bash and
 * POSIX sh.
 */
#include "launchers/wrapper.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <string.h>

/* 78 is EX_CONFIG (sysexits.h). PATH as it was: what failed may have spoilt it. */
static const char head[] =
	"\n# What the command runs in. When it cannot be had, the command is not run.\n"
	"_home=${0%/job} _work=$PWD _path=$PATH\n"
	"rm -f \"$_home/reason\"\n"
	"_fail() {\n"
	"\ttrap - EXIT\n"
	"\tPATH=$_path\n"
	"\texec >&3 2>&4 3>&- 4>&-\n"
	"\tcat \"$_home/activation\" >&2\n"
	"\t_said=$(sed -n '/[^[:space:]]/h;${g;p;}' \"$_home/activation\" | cut -c 1-300)\n"
	"\tprintf 'environment %s: %s%s\\n' \"$_what\" \"$1\" \"${_said:+ ($_said)}\" >\"$_home/reason\"\n"
	"\tsed 's/^/slurmray: /' \"$_home/reason\" >&2\n"
	"\techo environment >\"$_home/fault\"\n"
	"\texit 78\n"
	"}\n"
	"exec 3>&1 4>&2 >\"$_home/activation\" 2>&1\n"
	"trap '_fail \"its activation ended the shell\"' EXIT\n";

static const char tail[] = "trap - EXIT\n"
			   "exec >&3 2>&4 3>&- 4>&-\n"
			   "cd \"$_work\" || _no_path workdir \"$_work\" 'Permission denied'\n";

/* Old releases of Environment Modules say 0 when they loaded nothing; each that loads something changes LOADEDMODULES.
 */
static const char modules[] =
	"if ! command -v module; then\n"
	"\tfor _f in \"${LMOD_PKG:-/usr/share/lmod/lmod}\" \"${MODULESHOME:-/usr/share/modules}\"; do\n"
	"\t\t_f=$_f/init/${BASH:+ba}sh\n"
	"\t\tif [ -r \"$_f\" ] && ! command -v module; then . \"$_f\"; fi\n"
	"\tdone\n"
	"fi\n"
	"_load() {\n"
	"\t_what=\"module $1\" _before=${LOADEDMODULES-}\n"
	"\tcommand -v module || _fail \"there is no command module on $(uname -n)\"\n"
	"\tmodule load \"$1\" || _fail 'it cannot be loaded'\n"
	"\tcase :${LOADEDMODULES-}: in\n"
	"\t:: | *:\"$1\":* | *:\"$1\"/*) ;;\n"
	"\t:\"$_before\":) _fail 'nothing was loaded' ;;\n"
	"\tesac\n"
	"}\n";

/*
 * A virtual environment knows its own path; one that was moved or copied puts a directory into PATH that is not there,
 * and the command would run with another python. `.` gets no arguments, for some scripts look at them.
 */
static const char inside[] =
	"_source() {\n"
	"\t_f=$1\n"
	"\tshift\n"
	"\t. \"$_f\"\n"
	"}\n"
	"_inside() {\n"
	"\tfor _f in python3 python; do\n"
	"\t\t[ -x \"$1/bin/$_f\" ] || continue\n"
	"\t\t_got=$(command -v \"$_f\")\n"
	"\t\t[ \"$(cd \"${_got%/*}\" && pwd -P)\" = \"$(cd \"$1/bin\" && pwd -P)\" ] ||\n"
	"\t\t\t_fail \"after it $_f is ${_got:-nowhere}: the directory was moved or copied; make it anew where it is\"\n"
	"\t\tbreak\n"
	"\tdone\n"
	"}\n"
	"_there() {\n"
	"\t[ ! -f \"$1\" ] || _fail 'it is a file, not a directory; a local archive is written archive:FILE'\n"
	"\t[ -d \"$1\" ] || _fail \"there is no such directory on $(uname -n)\"\n"
	"}\n";

static const char venv[] =
	"_venv() {\n"
	"\t[ -r \"$1/bin/activate\" ] || _fail 'it has no bin/activate: it is no virtual environment'\n"
	"\t[ -x \"$1/bin/python\" ] ||\n"
	"\t\t_fail 'its bin/python leads nowhere: the Python that it was made of is not on this node'\n"
	"\t_source \"$1/bin/activate\"\n"
	"\t_inside \"$1\"\n"
	"}\n";

/* What `conda activate` does, without a conda on the node. */
static const char prefix[] = "_prefix() {\n"
			     "\t[ -d \"$1/conda-meta\" ] || _fail 'it has no conda-meta: it is no conda environment'\n"
			     "\tPATH=$1/bin:$PATH CONDA_PREFIX=$1 CONDA_DEFAULT_ENV=${1##*/} CONDA_SHLVL=1\n"
			     "\texport PATH CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_SHLVL\n"
			     "\tfor _d in \"$1\"/etc/conda/activate.d/*.sh; do\n"
			     "\t\t[ ! -r \"$_d\" ] || _source \"$_d\"\n"
			     "\tdone\n"
			     "\t_inside \"$1\"\n"
			     "}\n";

static const char found[] = "_found() {\n"
			    "\tif [ -r \"$1/activate.sh\" ]; then\n"
			    "\t\t_source \"$1/activate.sh\"\n"
			    "\t\t_inside \"$1/env\"\n"
			    "\telif [ -e \"$1/pyvenv.cfg\" ]; then\n"
			    "\t\t_venv \"$1\"\n"
			    "\telif [ -d \"$1/conda-meta\" ]; then\n"
			    "\t\t_prefix \"$1\"\n"
			    "\telif [ -r \"$1/bin/activate\" ]; then\n"
			    "\t\t_source \"$1/bin/activate\"\n"
			    "\t\t_inside \"$1\"\n"
			    "\telse\n"
			    "\t\t_fail 'it has none of activate.sh, bin/activate, conda-meta'\n"
			    "\tfi\n"
			    "}\n";

/* Where conda keeps environments by name: its own settings, the usual installations, the list that it writes. */
static const char named[] =
	"_named() {\n"
	"\t_dir=$({\n"
	"\t\techo \"${CONDA_ENVS_DIRS-}:${CONDA_ENVS_PATH-}\" | tr : '\\n'\n"
	"\t\t_f=${CONDA_EXE:-$(command -v conda)}\n"
	"\t\tfor _d in \"${_f%/*/conda}\" \"${MAMBA_ROOT_PREFIX-}\" \"$HOME/.conda\" \"$HOME/miniforge3\" \\\n"
	"\t\t\t\"$HOME/mambaforge\" \"$HOME/miniconda3\" \"$HOME/anaconda3\" \"$HOME/micromamba\" /opt/conda; do\n"
	"\t\t\techo \"$_d/envs\"\n"
	"\t\tdone\n"
	"\t\tgrep \"/$1\\$\" \"$HOME/.conda/environments.txt\" 2>/dev/null | sed 's|/[^/]*$||'\n"
	"\t} | while IFS= read -r _d; do\n"
	"\t\tif [ -n \"$_d\" ] && [ -d \"$_d/$1/conda-meta\" ]; then\n"
	"\t\t\techo \"$_d/$1\"\n"
	"\t\t\tbreak\n"
	"\t\tfi\n"
	"\tdone)\n"
	"\t[ -n \"$_dir\" ] || _fail \"conda has no environment of this name on $(uname -n); a directory is found for certain\"\n"
	"}\n";

/* The link was made when the job was submitted; see backend/envs_shell.c for what is behind it. */
static const char packed[] = "_key=$(readlink \"$_home/" JOB_ENVIRONMENT_LINK "\")\n"
			     "[ -n \"$_key\" ] && [ -e \"$_key/complete\" ] ||\n"
			     "\t_fail 'the unpacked archive is not on the cluster any more; submit the run again'\n"
			     "touch \"$_key/last_used\"\n"
			     "_dir=$_key/root\n"
			     "[ ! -L \"$_dir\" ] || _dir=$_key/$(readlink \"$_dir\")\n"
			     "_found \"$_dir\"\n";

/* Libraries that were sent beside the environment. */
static const char library[] = "_library() {\n"
			      "\t_key=$(readlink \"$_home/$1\")\n"
			      "\t[ -n \"$_key\" ] && [ -e \"$_key/complete\" ] ||\n"
			      "\t\t_fail 'it is not on the cluster any more; submit the run again'\n"
			      "\ttouch \"$_key/last_used\"\n"
			      "\t_lib=$_key/$(readlink \"$_key/root\")\n"
			      "}\n";

/* Everything in PYTHONPATH comes before site-packages: so it is asked what is there already. */
static const char lacks_pipes[] =
	"_py=$(command -v python3 || command -v python) || _py=false\n"
	"\"$_py\" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(\"dagster_pipes\") is None)' "
	"</dev/null ||\n\t";

static void add_what(struct strbuf *body, const char *kind, const char *name)
{
	cleanup_strbuf struct strbuf what = STRBUF_INIT;

	strbuf_addf(&what, "%s %s", kind, name);
	strbuf_addstr(body, "_what=");
	quote_sh(body, what.buf);
	strbuf_addch(body, '\n');
}

static void call(struct strbuf *body, const char *function, const char *arg)
{
	strbuf_addf(body, "%s ", function);
	quote_sh_path(body, arg);
	strbuf_addch(body, '\n');
}

static void add_modules(const struct environment *env, struct strbuf *body)
{
	add_what(body, "module", env->modules[0]);
	strbuf_addstr(body, modules);
	for (char **m = env->modules; *m; m++) {
		strbuf_addstr(body, "_load ");
		quote_sh(body, *m);
		strbuf_addch(body, '\n');
	}
}

static void add_conda(const struct environment *env, struct strbuf *body)
{
	strbuf_addstr(body, prefix);
	if (strchr(env->where, '/')) {
		call(body, "_there", env->where);
		call(body, "_prefix", env->where);
		return;
	}
	strbuf_addstr(body, named);
	call(body, "_named", env->where);
	strbuf_addstr(body, "_prefix \"$_dir\"\n");
}

static void add_directory(const struct environment *env, struct strbuf *body)
{
	static const char *const words[] = { [ENV_PATH] = "path",
					     [ENV_VENV] = "venv",
					     [ENV_CONDA] = "conda",
					     [ENV_ARCHIVE] = "archive",
					     [ENV_BUILD] = "build" };

	add_what(body, words[env->kind], env->where);
	strbuf_addstr(body, inside);
	switch (env->kind) {
	case ENV_VENV:
		strbuf_addstr(body, venv);
		call(body, "_there", env->where);
		call(body, "_venv", env->where);
		break;
	case ENV_CONDA:
		add_conda(env, body);
		break;
	case ENV_PATH:
	case ENV_ARCHIVE:
	case ENV_BUILD:
		strbuf_addstr(body, venv);
		strbuf_addstr(body, prefix);
		strbuf_addstr(body, found);
		if (env->kind != ENV_PATH) {
			strbuf_addstr(body, packed);
			break;
		}
		call(body, "_there", env->where);
		call(body, "_found", env->where);
		break;
	case ENV_NONE:
		break;
	}
}

static void add_libraries(const struct environment *env, struct strbuf *body)
{
	size_t n = 0;

	strbuf_addstr(body, library);
	while (env->wheels && env->wheels[n])
		n++;
	while (n--) { /* the first of the list ends up in front */
		add_what(body, "wheel", env->wheels[n]);
		strbuf_addf(body, "_library " JOB_WHEEL_LINK "\n", n);
		strbuf_addstr(body, "export PYTHONPATH=\"$_lib${PYTHONPATH:+:$PYTHONPATH}\"\n");
	}
	if (!env->pipes)
		return;
	add_what(body, "pipes", env->pipes);
	strbuf_addstr(body, "_library " JOB_PIPES_LINK "\n");
	if (!env->container) /* what is in one cannot be asked from outside */
		strbuf_addstr(body, lacks_pipes);
	strbuf_addstr(body, "export PYTHONPATH=\"${PYTHONPATH:+$PYTHONPATH:}$_lib\"\n");
}

/* In this shell, so that what it exports stays. */
static void add_hook(const struct environment *env, struct strbuf *body)
{
	cleanup_free char *first = xstrndup(env->hook, strcspn(env->hook, "\n"));

	if (strlen(first) > 60)
		first[60] = '\0';
	add_what(body, "hook", first);
	strbuf_addstr(body, "eval ");
	quote_sh(body, env->hook);
	strbuf_addstr(body, " || _fail \"it ended with code $?\"\n");
}

static void add_container(const struct environment *env, struct strbuf *body)
{
	add_what(body, "container", env->container);
	strbuf_addstr(body, "_box=$(command -v apptainer || command -v singularity) ||\n"
			    "\t_fail \"neither apptainer nor singularity is on $(uname -n)\"\n");
	if (strstr(env->container, "://"))
		return;
	strbuf_addstr(body, "[ -e ");
	quote_sh_path(body, env->container);
	strbuf_addstr(body, " ] || _fail \"there is no such image on $(uname -n)\"\n");
}

void wrap_activate(const struct environment *env, struct strbuf *body)
{
	if (!job_environment_is_set(env))
		return;
	strbuf_addstr(body, head);
	if (env->modules)
		add_modules(env, body);
	if (env->kind != ENV_NONE)
		add_directory(env, body);
	if (env->hook)
		add_hook(env, body);
	if (env->wheels || env->pipes)
		add_libraries(env, body);
	if (env->container)
		add_container(env, body);
	strbuf_addstr(body, tail);
}

/* The attempt's directory and what it links to are there in the container as outside; so is where the job stands. */
void wrap_container(const struct environment *env, struct strbuf *body)
{
	if (!env->container)
		return;
	strbuf_addstr(body, " \"$_box\" exec --bind \"$_home\" --bind \"$(cd \"$_home/results\" && pwd -P)\" \\\n"
			    "\t--bind \"$PWD\" --pwd \"$PWD\"");
	if (env->wheels || env->pipes)
		strbuf_addstr(body, " --bind \"${_key%/*}\"");
	for (char **o = env->options; o && *o; o++) {
		strbuf_addch(body, ' ');
		quote_sh(body, *o);
	}
	strbuf_addch(body, ' ');
	quote_sh_path(body, env->container);
}
