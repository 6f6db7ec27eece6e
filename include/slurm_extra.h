/*
 * What the plugin uses of Slurm and slurm-spank does not declare.
 *
 * Most of it is in no installed header, and the rest not in those of every release, so it is
 * written down here, from the releases 20.11 to 26.05, each item with the file it is from.
 * Functions are given as types, not as functions: a program or release that lacks one must still
 * load the plugin, so they are looked up by name at run time and none is linked.
 *
 * No other header is needed: structures are opaque, and _Bool is C99's own.
 */

/* slurm/spank.h, every release. */
struct spank_handle;

/*
 * API_CURRENT << 16 of META, a number that grows by one with each release: 38 is 22.05, 39 is
 * 23.02, 40 is 23.11, 41 is 24.05. slurm/slurm.h, every release.
 */
typedef long slurm_api_version_f(void);

/*
 * The command line of srun, sbatch and salloc, once parsed: a global variable of theirs named
 * "opt" (src/srun/opt.c, src/sbatch/opt.c, src/salloc/opt.c), within reach because all three are
 * linked with -export-dynamic. Its layout differs from release to release: never look inside.
 * src/common/slurm_opt.h.
 */
struct slurm_opt;

/*
 * The value of the option `name` (without dashes) in memory of its own; NULL if it was not given or
 * there is no such option. src/common/slurm_opt.c, the same from 20.11 to 26.05.
 */
typedef char *slurm_option_get_f(struct slurm_opt *opt, const char *name);

/* Makes the option as if never given; false if there is no such option. Same file. */
typedef _Bool slurm_option_reset_f(struct slurm_opt *opt, const char *name);

/* Whether the option was given. Same file. */
typedef _Bool slurm_option_isset_f(struct slurm_opt *opt, const char *name);

/*
 * Puts copies of `argv` in front of the task's command, in task_init and task_init_privileged only.
 * Returns 0 on success. slurm/spank.h, since 23.11.
 */
typedef unsigned int spank_prepend_task_argv_f(struct spank_handle *spank, int argc,
					       const char *argv[]);

/* The ids of the steps that no srun made. slurm/slurm.h; INTERACTIVE since 20.11. */
#define SLURM_BATCH_SCRIPT 0xfffffffb
#define SLURM_EXTERN_CONT 0xfffffffc
#define SLURM_INTERACTIVE_STEP 0xfffffffa

/*
 * The value of a plugin's `int slurm_spank_init_failure_mode` that makes a failed slurm_spank_init
 * the fault of the job, not of the node. slurm/slurm_errno.h, since 25.05; older ones do not look.
 */
#define ESPANK_JOB_FAILURE 3012
