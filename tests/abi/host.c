/*
 * A Slurm that is none: loads the plugin as Slurm does, has the symbols that it may use, calls the
 * hooks that it is told to, and prints all that the plugin did. abi.rs compiles and runs it.
 *
 *   host PLUGIN WORD...
 *
 *   api=N            slurm_api_version; also whether there is a built-in --container (37 on)
 *   context=NAME     local, allocator, remote, slurmd
 *   plugstack=ARG    an argument in plugstack.conf
 *   builtin=VALUE    what Slurm parsed as its own --container; sets SLURM_CONTAINER as it does
 *   typed=NAME[=VALUE]    an option of the plugin's that the user gave
 *   options          prints the options that the plugin has registered
 *   multi-prog       srun --multi-prog
 *   stuck            Slurm's option cannot be reset
 *   env=NAME=VALUE   a variable of the task
 *   step=N, task=N   the step's id, the task's local id
 *   arg=WORD         a word of the task's command
 *   no-builtin       the next component of a heterogeneous job, without --container
 *   init, init_post_opt, task_init    calls that hook, with everything said so far
 *
 * Compiled with -DHIDDEN there is no `opt` (a client not linked with -export-dynamic), and with
 * -DPREPEND there is spank_prepend_task_argv (23.11 and later).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 64 };

struct spank_option {
	const char *name, *arginfo, *usage;
	int has_arg, val;
	int (*cb)(int val, const char *arg, int remote);
};
struct list { int n; char *word[MAX + 1]; };

static long api = 45;
static int context = 1, handle = 4711;
static unsigned step = 0;
static int task = 0;
static bool multi_prog, stuck;
static char *builtin;
static struct list plugstack, env, args;
static struct spank_option registered[MAX];
static int n_registered;

static void add(struct list *list, const char *word)
{
	if (list->n < MAX)
		list->word[list->n++] = strdup(word);
}

static void check_handle(void *spank)
{
	if (spank != &handle)
		abort();
}

/* slurm/slurm.h */
long slurm_api_version(void) { return api << 16; }

/* Logging. */
static void say(const char *level, const char *format, va_list ap)
{
	printf("%s: ", level);
	vprintf(format, ap);
	printf("\n");
}
#define LOG(function, level) \
	void function(const char *format, ...) \
	{ va_list ap; va_start(ap, format); say(level, format, ap); va_end(ap); }
LOG(slurm_error, "error")
LOG(slurm_info, "info")
LOG(slurm_verbose, "verbose")
LOG(slurm_debug, "debug")
LOG(slurm_debug2, "debug2")
LOG(slurm_debug3, "debug3")
LOG(slurm_spank_log, "user")

/* src/common/slurm_opt.h */
#ifndef HIDDEN
int opt;
#endif

static bool has_builtin(void *o, const char *name)
{
#ifndef HIDDEN
	if (o != &opt)
		abort();
#endif
	return api >= 37 && !strcmp(name, "container");
}

char *slurm_option_get(void *o, const char *name)
{
	return has_builtin(o, name) && builtin ? strdup(builtin) : NULL;
}

bool slurm_option_reset(void *o, const char *name)
{
	if (!has_builtin(o, name) || stuck)
		return false;
	builtin = NULL;
	return true;
}

bool slurm_option_isset(void *o, const char *name)
{
	if (!strcmp(name, "multi-prog"))
		return multi_prog;
	return has_builtin(o, name) && builtin;
}

/* slurm/spank.h. The error numbers are those of 21.08 and later. */
int spank_context(void) { return context; }
const char *spank_strerror(int error) { return error ? "an error" : "Success"; }

int spank_option_register(void *spank, struct spank_option *option)
{
	check_handle(spank);
	if (n_registered == MAX)
		abort();
	registered[n_registered] = *option;
	registered[n_registered].arginfo = option->has_arg ? strdup(option->arginfo) : NULL;
	registered[n_registered++].name = strdup(option->name);
	return 0;
}

int spank_option_getopt(void *spank, struct spank_option *option, char **arg) { return 3000; }

static char **find(const char *name)
{
	size_t n = strlen(name);
	char **var = env.word;
	while (*var && (strncmp(*var, name, n) || (*var)[n] != '='))
		var++;
	return var;
}

int spank_getenv(void *spank, const char *name, char *buf, int len)
{
	check_handle(spank);
	char **var = find(name);
	if (context != 2)
		return 3006;
	if (!*var)
		return 3004;
	return snprintf(buf, len, "%s", *var + strlen(name) + 1) < len ? 0 : 3005;
}

int spank_setenv(void *spank, const char *name, const char *value, int overwrite)
{
	check_handle(spank);
	if (context != 2)
		return 3006;
	char **var = find(name);
	if (*var && !overwrite)
		return 3003;
	if (!*var)
		env.n++;
	return asprintf(var, "%s=%s", name, value) < 0;
}

int spank_unsetenv(void *spank, const char *name)
{
	check_handle(spank);
	if (context != 2)
		return 3006;
	char **var = find(name);
	if (*var) {
		*var = env.word[--env.n];
		env.word[env.n] = NULL;
	}
	return 0;
}

int spank_job_control_setenv(void *spank, const char *name, const char *value, int overwrite)
{
	check_handle(spank);
	if (context != 1 && context != 3)
		return 3010;
	printf("job control: %s=%s\n", name, value);
	return 0;
}

int spank_get_item(void *spank, int item, ...)
{
	va_list ap;
	check_handle(spank);
	va_start(ap, item);
	switch (item) {
	case 3:
		*va_arg(ap, unsigned *) = step;
		break;
	case 9:
		*va_arg(ap, int *) = args.n;
		*va_arg(ap, char ***) = args.n ? args.word : NULL;
		break;
	case 10:
		*va_arg(ap, char ***) = env.word;
		break;
	case 11:
		*va_arg(ap, int *) = task;
		break;
	default:
		printf("spank_get_item: item %d is not expected\n", item);
		return 3001;
	}
	va_end(ap);
	return 0;
}

#ifdef PREPEND
int spank_prepend_task_argv(void *spank, int argc, const char *argv[])
{
	struct list all = { 0 };
	check_handle(spank);
	for (int i = 0; i < argc; i++)
		add(&all, argv[i]);
	for (int i = 0; i < args.n; i++)
		add(&all, args.word[i]);
	args = all;
	return 0;
}
#endif

static void show_var(const char *name)
{
	char *value = getenv(name);
	if (value)
		printf("%s=%s\n", name, value);
}

static void call(void *plugin, const char *hook)
{
	char name[64];
	snprintf(name, sizeof(name), "slurm_spank_%s", hook);
	int (*function)(void *, int, char **) = dlsym(plugin, name);
	if (!function) {
		printf("%s: no such hook\n", hook);
		return;
	}
	fflush(stdout);
	int rc = function(&handle, plugstack.n, plugstack.word);
	printf("%s: %d\n", hook, rc);
}

static const char *after(const char *word, const char *key)
{
	size_t n = strlen(key);
	return strncmp(word, key, n) ? NULL : word + n;
}

int main(int argc, char **argv)
{
	const char *value;
	void *plugin;

	setvbuf(stdout, NULL, _IONBF, 0);
	for (int i = 2; i < argc; i++)
		if ((value = after(argv[i], "api=")))
			api = atol(value);

	if (!(plugin = dlopen(argv[1], RTLD_LAZY))) {
		printf("dlopen: %s\n", dlerror());
		return 1;
	}
	const char *name = dlsym(plugin, "plugin_name"), *type = dlsym(plugin, "plugin_type");
	unsigned *version = dlsym(plugin, "plugin_version");
	int *failure_mode = dlsym(plugin, "slurm_spank_init_failure_mode");
	if (argc == 3)
		printf("%s %s %06x %d\n", name, type, *version, *failure_mode);

	for (int i = 2; i < argc; i++) {
		if (after(argv[i], "api="))
			;
		else if ((value = after(argv[i], "context=")))
			context = !strcmp(value, "local") ? 1 : !strcmp(value, "remote") ? 2 :
				  !strcmp(value, "allocator") ? 3 : 4;
		else if ((value = after(argv[i], "plugstack=")))
			add(&plugstack, value);
		else if ((value = after(argv[i], "builtin="))) {
			builtin = strdup(value);
			setenv("SLURM_CONTAINER", value, 0);
		} else if (!strcmp(argv[i], "no-builtin"))
			builtin = NULL;
		else if ((value = after(argv[i], "typed="))) {
			size_t n = strcspn(value, "=");
			const char *arg = value[n] ? value + n + 1 : NULL;
			int j = 0;
			while (j < n_registered && (strlen(registered[j].name) != n ||
						    strncmp(registered[j].name, value, n)))
				j++;
			if (j == n_registered || !arg != !registered[j].has_arg)
				printf("no such option: %s\n", value);
			else
				registered[j].cb(registered[j].val, arg, context == 2);
		} else if (!strcmp(argv[i], "options")) {
			for (int j = 0; j < n_registered; j++)
				printf("option: --%s%s%s\n", registered[j].name,
				       registered[j].arginfo ? "=" : "",
				       registered[j].arginfo ? registered[j].arginfo : "");
		} else if (!strcmp(argv[i], "multi-prog"))
			multi_prog = true;
		else if (!strcmp(argv[i], "stuck"))
			stuck = true;
		else if ((value = after(argv[i], "env=")))
			add(&env, value);
		else if ((value = after(argv[i], "step=")))
			step = strtoul(value, NULL, 0);
		else if ((value = after(argv[i], "task=")))
			task = atoi(value);
		else if ((value = after(argv[i], "arg=")))
			add(&args, value);
		else
			call(plugin, argv[i]);
	}

	if (builtin)
		printf("builtin: %s\n", builtin);
	show_var("SLURM_CONTAINER");
	show_var("SLURM_SPANK_SHIFTER_REQUEST");
	for (int i = 0; i < env.n; i++)
		printf("task env: %s\n", env.word[i]);
	if (args.n) {
		printf("task argv:");
		for (int i = 0; i < args.n; i++)
			printf(" %s", args.word[i]);
		printf("\n");
	}
	return 0;
}
