//! How commands end, and the relay with the script.

use std::{
    fs,
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use fixtures::{eventually, need, run};

use crate::site;

/// Writes down each signal that it gets.
fn recorder(file: &Path) -> String {
    format!(
        "for s in HUP INT QUIT TERM USR1 USR2; do trap \"echo $s >>{0}\" $s; done\n\
         trap 'echo TERM >>{0}; exit 3' TERM\n\
         echo ready >>{0}\nwhile :; do sleep 0.05; done",
        file.display()
    )
}

fn content(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

#[track_caller]
fn wait_for(file: &Path, line: &str) {
    eventually(Duration::from_secs(60), line, || {
        content(file).lines().any(|other| other == line).then_some(())
    });
}

#[test]
fn signals_reach_the_command_and_its_end_the_caller() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let file = site.file("signals");
    site.set_probe(&recorder(&file));
    let wait = |line| format!("until grep -qs {line} {0}; do sleep 0.05; done", file.display());
    let said = site.says(&format!(
        "probe & {}; for s in HUP USR1 INT USR2 TERM; do kill -$s $!; test $s = INT || {}; done; \
         wait $!; echo $?",
        wait("ready"),
        wait("$s"),
    ));
    // A shell starts what is in the background with interrupts ignored, and so it began here.
    assert_eq!(content(&file), "ready\nHUP\nUSR1\nUSR2\nTERM\n");
    assert_eq!(said, "3\n");
    site.set_probe("kill -KILL $$");
    let (exit, said) = site.batch(&[], "probe; echo $?; exec probe");
    assert!(said.contains("137"), "{said}");
    // The script was the caller: it has ended by that signal.
    assert_eq!(exit, "0:9", "{said}");
    site.assert_nothing_left();
}

#[test]
fn a_command_is_ended_with_who_has_called_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let file = site.file("caller");
    site.set_probe(&recorder(&file));
    let said = site.says(&format!(
        "probe & until grep -qs ready {0}; do sleep 0.05; done; kill -KILL $!; wait $!; \
         until grep -qs TERM {0}; do sleep 0.05; done; echo ended",
        file.display()
    ));
    assert!(said.ends_with("ended\n"), "{said}");
    assert_eq!(content(&file), "ready\nHUP\nTERM\n");
    site.assert_nothing_left();
}

/// However the script ends, the relay does, and what it runs is told.
#[test]
fn nothing_outlives_the_script() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for (end, exit) in [("exit 0", "0:0"), ("kill -KILL $$", "0:9"), ("cancelled", "0:15")] {
        let file = site.file("left");
        site.set_probe(&recorder(&file));
        let shown = file.display();
        let script =
            format!("#!/bin/sh\nprobe & until grep -qs ready {shown}; do sleep 0.05; done\n");
        let script = match end {
            "cancelled" => script + "wait\n",
            end => format!("{script}{end}\n"),
        };
        let job = site.cluster.sbatch(&site.user, &[&site.option()], &script);
        if end == "cancelled" {
            wait_for(&file, "ready");
            let mut scancel = site.cluster.command(&site.user, "scancel");
            scancel.arg(job.to_string());
            run(scancel).success();
        }
        let ended = site.cluster.wait_job(job);
        assert!(end == "cancelled" || ended.exit_code == exit, "{end}: {ended:?}");
        site.assert_nothing_left();
        site.cluster.wait_idle();
    }
}

#[test]
fn the_way_out_is_its_users_alone() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let file = site.file("private");
    let script = format!(
        "#!/bin/sh\ntouch {0}\nwhile test -e {0}; do sleep 0.05; done\nls -ld /.shifter/relay\n",
        file.display()
    );
    let job = site.cluster.sbatch(&site.user, &[&site.option()], &script);
    eventually(Duration::from_secs(60), "the script", || file.exists().then_some(()));
    let steps = fs::read_dir(site.sandbox.node_dir(&site.user).join("steps")).expect("steps");
    let own = format!("{job}.batch-");
    let mut steps = steps.flatten().map(|step| step.path());
    let is_own = |step: &PathBuf| {
        step.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&own))
    };
    let dir = steps.find(is_own).expect("the step's directory").join("relay");
    let mode = fs::metadata(&dir).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // Who may open all directories is another user all the same: nothing is run for root, which this
    // test is.
    let mut intruder = UnixStream::connect(dir.join("socket")).expect("root may connect");
    let answer = intruder.read(&mut [0; 8]);
    assert!(matches!(answer, Ok(0)) || answer.is_err(), "root is answered: {answer:?}");
    fs::remove_file(&file).expect("the script has made it");
    assert_eq!(site.cluster.wait_job(job).exit_code, "0:0");
    site.assert_nothing_left();
}
