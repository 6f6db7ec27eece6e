//! The host's Slurm in scripts that run in containers.

mod ends;
mod terminal;

use std::{
    fs,
    ops::Deref,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use fixtures::{
    eventually, image, need,
    site::{self, host_release},
};

struct Site(fixtures::Site);

static SITE: LazyLock<Mutex<Site>> = LazyLock::new(|| Mutex::new(Site(fixtures::Site::start(1))));

fn site() -> MutexGuard<'static, Site> {
    let site = site::lock(&SITE);
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
    /// Runs a batch script in the image to its end; returns how it ended, and what it said besides a
    /// pull.
    fn batch(&self, args: &[&str], script: &str) -> (String, String) {
        let script = format!("#!/bin/sh\n{script}\n");
        let job = self.cluster.sbatch(&self.user, &[&[&*self.option()], args].concat(), &script);
        let ended = self.cluster.wait_job(job);
        let said = self.cluster.job_output(job);
        let said = said.lines().filter(|line| !line.contains(": pull"));
        (ended.exit_code, said.map(|line| format!("{line}\n")).collect())
    }

    #[track_caller]
    fn says(&self, script: &str) -> String {
        let (exit, said) = self.batch(&[], script);
        assert_eq!(exit, "0:0", "{said}");
        said
    }

    /// Lets scripts in containers call `probe`, which is this script on the host.
    fn set_probe(&self, script: &str) {
        let script = format!("#!/bin/sh\n{script}\n");
        self.sandbox.write_script(self.sandbox.prefix().join("bin/probe"), script);
        self.configure("[relay]\ncommands = ['probe', 'srun']\n");
    }

    /// Waits until no process of ours is left.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let is_ours = |line: &String| line.contains("/bin/shifter") || line.contains("/bin/probe");
        eventually(Duration::from_secs(10), "the relay's end", || {
            (!self.sandbox.processes().iter().any(is_ours)).then_some(())
        });
    }
}

#[test]
fn a_script_in_a_container_starts_steps_in_it_and_on_the_host() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let said = site.says(
        "cat /etc/os-release; srun -Q cat /etc/os-release; \
         srun -Q --container=none cat /etc/os-release",
    );
    let (inside, outside) = (image::OS_RELEASE, host_release());
    assert_eq!(said, format!("{inside}{inside}{outside}"));
    // All of them are there, and tell of this job.
    let said = site.says(
        "squeue --noheader --format=%A --jobs=$SLURM_JOB_ID; \
         scontrol show job $SLURM_JOB_ID | grep -o JobState=RUNNING; sinfo --noheader --format=%D; \
         for name in srun sbatch scancel sacct sattach sbcast salloc sstat; do command -v $name; done",
    );
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok() && lines[1] == "JobState=RUNNING", "{said}");
    assert_eq!(lines[2], "1", "{said}");
    assert_eq!(lines.len(), 11, "{said}");
    assert!(lines[3..].iter().all(|line| line.starts_with("/.shifter/bin/s")), "{said}");
    // A login shell of most distributions sets PATH anew.
    let said = site.says("export PATH=/usr/local/bin:/usr/bin:/bin; srun -Q echo there");
    assert_eq!(said, "there\n");
    // Another job, from a script that is the container's to make.
    let said = site.says(
        "cat >/job <<END\n#!/bin/sh\n#SBATCH --container=none --output=/dev/null\ntrue\nEND\n\
         sbatch --parsable --wait </job && echo done",
    );
    assert!(said.ends_with("done\n"), "{said}");
}

#[test]
fn a_command_has_of_its_caller_all_that_it_would_have() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.set_probe("case $1 in error) echo said >&2; exit 7;; run) shift; exec \"$@\";; esac");
    // Streams, and the exit status.
    let said = site.says(
        "echo in | probe run cat | tr a-z A-Z; probe error 2>&1 >/dev/null; echo $?; \
         probe run echo x <&-; probe run true >&- 2>&-; echo $?; umask 027; ulimit -n 77; \
         probe run sh -c 'umask; ulimit -n'; trap '' USR1; probe run grep SigIgn /proc/self/status",
    );
    let expected = "IN\nsaid\n7\nx\n0\n0027\n77\nSigIgn:\t0000000000000200\n";
    assert_eq!(said, expected);
    // Arguments of any bytes, and more of them, and of variables, than a socket holds.
    let said = site.says(
        "probe run printf '%s|' '' \"$(printf 'a\\377 \\nb')\" '*' | od -An -tx1; \
         long=$(head -c 120000 /dev/zero | tr '\\0' x); export LONG=$long MORE=$long; \
         probe run sh -c 'echo ${#1} ${#2} ${#LONG} ${#MORE}' sh $long $long; \
         srun -Q --container=none sh -c 'echo ${#1} ${#LONG} ${#MORE}' sh $long",
    );
    let expected =
        " 7c 61 ff 20 0a 62 7c 2a 7c\n120000 120000 120000 120000\n120000 120000 120000\n";
    assert_eq!(said, expected);
}

#[test]
fn what_a_script_changes_in_its_environment_reaches_its_steps() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let own = image::busybox().env("IMAGE_OWN=image").env("SHARED=image").build();
    site.registry.push("env:1", &own);
    let image = format!("--container={}", site.registry.name("env:1"));
    let export = "--export=ALL,SHARED=job,JOB=job,LD_LIBRARY_PATH=/host/lib";
    let none = "srun -Q --container=none sh -c";
    let show = "'echo $IMAGE_OWN,$SHARED,$JOB,$NEW,$LD_LIBRARY_PATH,$SHIFTER_IMAGE'";
    let script = format!(
        "#!/bin/sh\necho $SHARED; {none} {show}; srun -Q sh -c {show}\n\
         export NEW=new SHARED=script LD_LIBRARY_PATH=/in/image; unset JOB SLURM_EXPORT_ENV\n\
         {none} {show}; {none} 'echo $PATH' | grep -c /.shifter; {none} 'echo $HOME $PWD'\n"
    );
    let job = site.cluster.sbatch(&site.user, &[&image, export], &script);
    assert_eq!(site.cluster.wait_job(job).exit_code, "0:0", "{}", site.cluster.job_output(job));
    let said = site.cluster.job_output(job);
    let said: Vec<_> = said.lines().filter(|line| !line.contains(": pull")).collect();
    let name = site.registry.name("env:1");
    let home = site.user.home.display();
    let expected = [
        "image".to_owned(),
        ",job,job,,/host/lib,".to_owned(),
        format!("image,image,job,,,{name}"),
        ",script,,new,/host/lib,".to_owned(),
        "0".to_owned(),
        format!("{home} {home}"),
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_directory_that_only_the_container_has_is_told() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let shared = site.sandbox.shared();
    let none = "srun -Q --container=none pwd";
    let said = site.says(&format!(
        "cd {0}; {none}; mkdir /own; cd /own; {none}; {none}; cd /usr; {none}",
        shared.display()
    ));
    let lines: Vec<_> = said.lines().collect();
    let home = site.user.home.display().to_string();
    assert_eq!(lines[0], shared.to_string_lossy(), "{said}");
    let told =
        format!("shifter: srun: /own is the container's own: on the host, it starts in {home}");
    assert_eq!(lines[1..4], [&told, &home, &home], "{said}");
    // The host has a directory of that name: it is another one.
    assert!(lines[4].starts_with("shifter: srun: /usr is the container's own"), "{said}");
    assert_eq!(lines[5..], [&home], "{said}");
}

#[test]
fn a_hundred_calls_and_many_at_once_are_answered() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.set_probe("echo called");
    let said = site.says(
        "i=0; while [ $i -lt 100 ]; do probe >/dev/null || echo failed; i=$((i+1)); done\n\
         i=0; while [ $i -lt 40 ]; do probe >/many-$i & i=$((i+1)); done; wait\n\
         cat /many-* | grep -c called",
    );
    assert_eq!(said, "40\n");
}

#[test]
fn any_container_has_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    // No shell, no libc, nothing but the one program that the script is run by.
    let busybox = fixtures::need::find("busybox").expect("needed above");
    let program = fs::read(busybox).expect("it can be read");
    let bare = image::Layer::new().file("busybox", 0o755, program);
    let bare = bare.file("etc/os-release", 0o644, image::OS_RELEASE);
    site.registry.push("bare:1", &image::Image::new().layer(bare).build());
    let bare = format!("--container={}", site.registry.name("bare:1"));
    let step = "srun -Q /busybox head -1 /etc/os-release\n";
    let shell = format!("#!/bin/sh\n{}", step.replace("/busybox ", ""));
    let submit = |options: &[&str], script: &str| {
        (site.cluster.sbatch(&site.user, options, script), options.join(" "))
    };
    let mut jobs = vec![submit(&[&bare], &format!("#!/busybox sh\n{step}"))];
    for option in [
        "--container-readonly",
        "--container-remap-root",
        "--container-name=kept",
        "--no-container-mount-home",
        "--export=NONE",
        // What somebody has where a login shell looks stays there.
        "--container-mounts=/usr/local:/usr/local:ro",
    ] {
        jobs.push(submit(&[&site.option(), option], &shell));
    }
    let expected = image::OS_RELEASE.lines().next().expect("a line");
    for (job, options) in jobs {
        let ended = site.cluster.wait_job(job);
        let said = site.cluster.job_output(job);
        assert_eq!(ended.exit_code, "0:0", "{options}: {said}");
        let said: Vec<_> = said.lines().filter(|line| !line.contains(": pull")).collect();
        assert_eq!(said, [expected], "{options}");
    }
}

#[test]
fn a_site_can_do_without_or_choose() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let names = "command -v srun; command -v squeue; true";
    site.configure("[relay]\nenabled = false\n");
    assert_eq!(site.says(names), "");
    site.configure("[relay]\ncommands = ['squeue', 'no-such-command']\n");
    assert_eq!(site.says(names), "/.shifter/bin/squeue\n");
    // By another name it is none of them.
    let (exit, said) = site.batch(&[], "ln -s /.shifter/bin/CALLER /srun; /srun true");
    assert_eq!(exit, "127:0", "{said}");
    assert!(said.starts_with("shifter: run \"srun\" on the host: not one of"), "{said}");
    // Steps have none: they are not what starts others.
    let step = site.srun(&["-Q", &site.option(), "sh", "-c", "command -v squeue"]);
    assert_eq!(step.stdout, "");
}
