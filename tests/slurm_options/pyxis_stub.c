/*
 * A stub of pyxis, for tests: registers options of the same names, in all the contexts that pyxis
 * registers them in, and says which it was given.
 */
#include <stdio.h>

typedef struct spank_handle *spank_t;
struct spank_option {
	const char *name, *arginfo, *usage;
	int has_arg, val;
	int (*cb)(int val, const char *arg, int remote);
};
int spank_option_register(spank_t spank, struct spank_option *option);
long slurm_api_version(void);

const char plugin_name[] = "pyxis_stub";
const char plugin_type[] = "spank";
unsigned plugin_version;

static int take(int val, const char *arg, int remote);

static struct spank_option options[] = {
	{ "container-image", "IMAGE", "[pyxis-stub] image", 1, 0, take },
	{ "container-mounts", "SRC:DST", "[pyxis-stub] mounts", 1, 1, take },
	{ "container-workdir", "PATH", "[pyxis-stub] workdir", 1, 2, take },
	{ "container-name", "NAME", "[pyxis-stub] name", 1, 3, take },
	{ "container-save", "PATH", "[pyxis-stub] save", 1, 4, take },
	{ "container-mount-home", NULL, "[pyxis-stub] home", 0, 5, take },
	{ "no-container-mount-home", NULL, "[pyxis-stub] home", 0, 6, take },
	{ "container-remap-root", NULL, "[pyxis-stub] root", 0, 7, take },
	{ "no-container-remap-root", NULL, "[pyxis-stub] root", 0, 8, take },
	{ "container-entrypoint", NULL, "[pyxis-stub] entrypoint", 0, 9, take },
	{ "no-container-entrypoint", NULL, "[pyxis-stub] entrypoint", 0, 10, take },
	{ "container-writable", NULL, "[pyxis-stub] writable", 0, 11, take },
	{ "container-readonly", NULL, "[pyxis-stub] readonly", 0, 12, take },
	{ "container-env", "NAME", "[pyxis-stub] env", 1, 13, take },
};
enum { N = sizeof(options) / sizeof(options[0]) };

static int take(int val, const char *arg, int remote)
{
	if (!remote)
		fprintf(stderr, "pyxis-stub: %s=%s\n", options[val].name, arg ? arg : "");
	return 0;
}

/* As shifter's own: one file for every release from 22.05 on. */
__attribute__((constructor)) static void fill_in_version(void)
{
	long api = slurm_api_version() >> 16;
	long year = api < 41 ? (api == 38 ? 22 : 23) : 24 + (api - 41) / 2;
	long month = api < 41 ? (api == 40 ? 11 : api == 39 ? 2 : 5) : (api % 2 ? 5 : 11);

	plugin_version = year << 16 | month << 8;
}

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	for (int i = 0; i < N; i++)
		spank_option_register(spank, &options[i]);
	return 0;
}
