//! The options of `srun`, `sbatch` and `salloc` on a real Slurm, and what becomes of mistakes in them.

mod mistakes;
mod names;
mod record;
mod saved;
mod steps;

use std::{
    fs,
    ops::Deref,
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard},
};

use fixtures::{
    Outcome, image, need, run,
    site::{self, host_release, own_lines},
};

struct Site(fixtures::Site);

static SITE: LazyLock<Mutex<Site>> = LazyLock::new(|| Mutex::new(Site(fixtures::Site::start(2))));

fn site() -> MutexGuard<'static, Site> {
    let site = site::lock(&SITE);
    site.cluster.set_plugstack(&[&site.cluster.plugin_line()]);
    site.configure("");
    site
}

impl Deref for Site {
    type Target = fixtures::Site;

    fn deref(&self) -> &fixtures::Site {
        &self.0
    }
}

impl Site {
    /// An srun of one task in the image.
    fn srun(&self, args: &[&str]) -> Outcome {
        run(self.client("srun", &[&["-Q", &self.option()], args].concat()))
    }

    /// Runs a script under salloc, on the submit host.
    fn salloc(&self, args: &[&str], script: &str) -> Outcome {
        run(self.client("salloc", &[&["-Q"], args, &["sh", "-c", script]].concat()))
    }

    /// Runs a batch script; returns what it said.
    fn sbatch(&self, args: &[&str], script: &str) -> String {
        let job = self.cluster.sbatch(&self.user, args, script);
        let ended = self.cluster.wait_job(job);
        let said = self.cluster.job_output(job);
        assert_eq!(ended.state, "COMPLETED", "{ended:?}: {said}");
        said
    }

    fn shared(&self, name: &str) -> PathBuf {
        self.sandbox.make_dir(self.sandbox.shared().join(name), 0o777)
    }

    /// Nothing of ours has hurt the nodes, nor looks as if it had.
    fn assert_unharmed(&self) {
        self.0.assert_unharmed();
        for number in 1..=2 {
            let log = self.cluster.slurmd_log(number);
            let mut lines = log.lines().map(str::to_lowercase);
            let odd = lines.find(|line| line.contains("spank") && line.contains("error"));
            assert_eq!(odd, None, "an administrator would be alarmed");
        }
    }
}

/// busybox, with a file in its root.
fn with_file(name: &str, text: &str) -> image::Built {
    image::busybox().layer(image::Layer::new().file(name, 0o644, text)).build()
}

#[test]
fn help_names_the_options_as_slurm_does() {
    need!(root, slurm);
    let site = site();
    for program in ["srun", "sbatch", "salloc"] {
        let outcome = run(site.client(program, &["--help"]));
        assert_eq!(outcome.stderr, "", "{program}");
        let help = outcome.success();
        let own = help.split("Options provided by plugins:").nth(1).expect("a part for plugins");
        for option in ["--shifter=IMAGE", "--container-mounts=SRC", "--no-container-mount-home"] {
            assert!(own.contains(&format!("      {option}")), "{program} has no {option}: {own}");
        }
    }
}

#[test]
fn each_option_does_what_it_says() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.shared("mounts");
    site.sandbox.write(dir.join("file"), "from the host\n");
    let mounts =
        format!("--container-mounts={0}:/a:ro,\"type=bind,src={0},dst=/b\"", dir.display());
    let said = site.srun(&[&mounts, "sh", "-c", "cat /a/file /b/file; touch /a/x || echo ro"]);
    assert_eq!(said.success(), "from the host\nfrom the host\nro\n");
    let workdir = ["--container-workdir=/b", &mounts, "cat", "file"];
    assert_eq!(site.srun(&workdir).success(), "from the host\n");
    let env = ["--container-env=A=1,PATHS=/x:/y,GREETING-,HOME=/x", "sh", "-c"];
    let env = [&env[..], &["echo $A $PATHS $HOME ${GREETING-none}"]].concat();
    assert_eq!(site.srun(&env).success(), "1 /x:/y /x none\n");
    let touch = |option| site.srun(&[option, "sh", "-c", "touch /x && echo written"]).stdout;
    assert_eq!(touch("--container-readonly"), "");
    assert_eq!(touch("--container-writable"), "written\n");
    let id = |option| site.srun(&[option, "id", "-u"]).success();
    assert_eq!(id("--container-remap-root"), "0\n");
    assert_eq!(id("--no-container-remap-root"), format!("{}\n", site.user.uid));
    let home = site.user.home.to_string_lossy().into_owned();
    let look = ["--chdir=/tmp", "sh", "-c", "ls -d $0 2>/dev/null || echo absent", &home];
    assert_eq!(site.srun(&look).success(), format!("{home}\n"));
    assert_eq!(
        site.srun(&[&["--no-container-mount-home"], &look[..]].concat()).success(),
        "absent\n"
    );
    let entry = image::busybox().entrypoint(&["echo", "entered"]).build();
    site.registry.push("entry:1", &entry);
    let entry = format!("--container={}", site.registry.name("entry:1"));
    let with =
        |option: &str| run(site.client("srun", &["-Q", &entry, option, "echo", "x"])).success();
    assert_eq!(with("--container-entrypoint"), "entered echo x\n");
    assert_eq!(with("--no-container-entrypoint"), "x\n");
    site.assert_unharmed();
}

/// Relative sources begin where the job is submitted, and not on the node.
#[test]
fn what_a_job_was_given_holds_for_its_steps() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.shared("job");
    site.sandbox.write(dir.join("file"), "from the host\n");
    let other = site.registry.name("other:1");
    site.registry.push("other:1", &with_file("other", "other\n"));
    let script = "#!/bin/sh\n#SBATCH --container-mounts=.:/data\n\
                  #SBATCH --container-env=A=script\n\
                  echo script $A; cat /data/file\n";
    let script = site.sandbox.write(dir.join("job.sh"), script);
    let submit = |args: &[&str], script: &str| {
        let out = dir.join("out");
        let output = format!("--output={}", out.display());
        let mut sbatch = site.client("sbatch", &["--wait", &output]);
        sbatch.current_dir(&dir).args(args).arg(script);
        run(sbatch).success();
        fs::read_to_string(out).expect("its output")
    };
    let script = script.to_string_lossy().into_owned();
    let said = submit(&[&site.option()], &script);
    assert!(said.ends_with("script script\nfrom the host\n"), "{said}");
    // As for Slurm's own options, the command line goes over the script.
    let said = submit(&["--export=NONE", &site.option(), "--container-env=A=typed"], &script);
    assert!(said.ends_with("script typed\nfrom the host\n"), "{said}");

    let steps = format!(
        "cd /; srun -Q sh -c 'cat /data/file; id -u; echo $A'; \
         srun -Q --container={other} --no-container-remap-root --container-env=B=2 \
              sh -c 'cat /other /data/file; id -u; echo $A $B'; \
         srun -Q --container=none cat /etc/os-release"
    );
    let mut salloc = site.client("salloc", &["-Q", &site.option(), "--container-remap-root"]);
    salloc.args(["--container-mounts=./:/data", "--container-env=A=1", "sh", "-c", &steps]);
    salloc.current_dir(&dir);
    let uid = site.user.uid;
    let expected =
        format!("from the host\n0\n1\nother\nfrom the host\n{uid}\n1 2\n{}", host_release());
    assert_eq!(run(salloc).success(), expected);
    site.assert_unharmed();
}

#[test]
fn a_variable_stands_for_an_option() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let client = |program: &str, args: &[&str]| {
        let mut client = site.client(program, args);
        client.env("SHIFTER_CONTAINER_ENV", "A=default").env("SHIFTER_CONTAINER_REMAP_ROOT", "1");
        client
    };
    let show = ["sh", "-c", "id -u; echo $A"];
    let srun = |args: &[&str]| run(client("srun", &[&["-Q"], args, &show].concat())).success();
    let uid = site.user.uid;
    assert_eq!(srun(&[&site.option()]), "0\ndefault\n");
    let typed = ["--no-container-remap-root", "--container-env=A=typed"];
    assert_eq!(srun(&[&[&*site.option()], &typed[..]].concat()), format!("{uid}\ntyped\n"));
    // Without a container there is nothing that a default could be for.
    assert_eq!(srun(&[]), format!("{uid}\n\n"));
    // What a job was given goes before what its user has by default.
    let mut salloc = client("salloc", &["-Q", &site.option(), "--container-env=A=job"]);
    salloc.args(["sh", "-c", "srun -Q sh -c 'id -u; echo $A'"]);
    assert_eq!(run(salloc).success(), "0\njob\n");

    let mut all = client("srun", &["-Q", "cat", "/etc/os-release"]);
    all.env("SHIFTER_CONTAINER", site.image());
    assert_eq!(run(all).success(), image::OS_RELEASE);
    let mut salloc = client("salloc", &["-Q", "--container=none", "sh", "-c"]);
    salloc.env("SHIFTER_CONTAINER", site.image()).arg("srun -Q cat /etc/os-release");
    assert_eq!(run(salloc).success(), host_release(), "the job is to have no container");
    site.assert_unharmed();
}

#[test]
fn scripts_run_on_the_host_if_that_is_asked_for() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.srun(&["true"]).success();
    let script = "#!/bin/sh\ncat /etc/os-release; srun -Q cat /etc/os-release\n";
    let expected = format!("{}{}", host_release(), image::OS_RELEASE);
    for export in ["--export=ALL", "--export=NONE"] {
        let said = site.sbatch(&[export, &site.option(), "--container-batch=host"], script);
        assert!(said.ends_with(&expected), "{said}");
    }
    site.configure("container_batch = 'host'\n");
    assert!(site.sbatch(&[&site.option()], script).ends_with(&expected));
    let inside = ["--container-batch=container", &site.option()];
    let said = site.sbatch(&inside, "#!/bin/sh\ncat /etc/os-release\n");
    assert!(said.ends_with(image::OS_RELEASE), "{said}");
    site.assert_unharmed();
}

/// salloc's shell on a node is a script that somebody types.
#[test]
fn a_shell_of_sallocs_runs_where_scripts_do() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let typed = site.sandbox.write(
        site.sandbox.shared().join("typed"),
        "head -1 /etc/os-release; srun -Q head -1 /etc/os-release\n\
         echo REQUEST=$SLURM_SPANK_SHIFTER_REQUEST\n",
    );
    // A shell that reads what is typed from a file.
    let step = format!("\"--interactive --preserve-env sh {}\"", typed.display());
    site.cluster.set("InteractiveStepOptions", &step);
    site.cluster.reconfigure();
    let shell = |args: &[&str]| run(site.client("salloc", &[&["-Q"], args].concat())).to_string();
    let inside = image::OS_RELEASE.lines().next().expect("a line");
    let outside = host_release().lines().next().expect("a line").to_owned();
    for option in [site.option(), format!("--shifter={}", site.image())] {
        let said = shell(&[&option]);
        assert!(said.contains(inside) && !said.contains(&outside), "{option}: {said}");
        // There is no srun in this image; in one that has it, it finds this.
        assert!(said.contains("REQUEST={\"container\""), "{option}: {said}");
        let said = shell(&[&option, "--container-batch=host"]);
        assert!(said.contains(inside) && said.contains(&outside), "{option}: {said}");
    }
    site.cluster.unset("InteractiveStepOptions");
    site.cluster.reconfigure();
    site.assert_unharmed();
}

/// A site without interactive steps: Slurm's salloc refuses its own option there.
#[test]
fn salloc_has_another_option_where_slurm_has_none() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.cluster.unset("LaunchParameters");
    site.cluster.reconfigure();
    let refused = site.salloc(&[&site.option()], "true");
    let image = format!("--shifter={}", site.image());
    let step = "srun -Q cat /etc/os-release; srun -Q --shifter=none cat /etc/os-release";
    let outcome = site.salloc(&[&image], step);
    site.cluster.set("LaunchParameters", "use_interactive_step");
    site.cluster.reconfigure();
    assert_ne!(refused.code, 0, "if Slurm allows it, this option is not needed: {refused}");
    let expected = format!("{}{}", image::OS_RELEASE, host_release());
    assert_eq!(outcome.success(), expected);
    assert_eq!(
        run(site.client("srun", &["-Q", &image, "cat", "/etc/os-release"])).success(),
        image::OS_RELEASE
    );
    let script = format!("#!/bin/sh\n#SBATCH {image}\ncat /etc/os-release\n");
    assert!(site.sbatch(&[], &script).ends_with(image::OS_RELEASE));
    site.assert_unharmed();
}

#[test]
fn a_tag_is_asked_for_anew() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let name = site.registry.name("moving:1");
    let push = |text: &str| {
        site.registry.push("moving:1", &with_file("which", text));
    };
    push("old\n");
    run(site.client("shifter", &["pull", &name])).success();
    push("new\n");
    let option = format!("--container={name}");
    let which = |args: &[&str]| {
        run(site.client("srun", &[&["-Q", &option], args, &["cat", "/which"]].concat())).success()
    };
    assert_eq!(which(&[]), "old\n", "what the user's store has under the name is used");
    assert_eq!(which(&["--container-refresh"]), "new\n");
    assert_eq!(which(&[]), "old\n", "the store has changed");
    let job = site.salloc(
        &[&option, "--container-refresh"],
        "srun -Q cat /which; srun -Q --no-container-refresh cat /which",
    );
    assert_eq!(job.success(), "new\nold\n");
    site.assert_unharmed();
}
