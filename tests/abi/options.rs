//! What the options are, and what becomes of them.

use super::*;

#[test]
fn the_options_are_those_that_people_know() {
    let text = Host::new(Slurm::New, &["api=42", "context=local", "init", "options"]).run();
    let options: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("option: --")).collect();
    assert_eq!(
        options,
        [
            "shifter=IMAGE",
            "container-mounts=SRC[:DST[:ro]],…",
            "container-workdir=DIR",
            "container-env=NAME[=VALUE],…",
            "container-readonly",
            "container-writable",
            "container-remap-root",
            "no-container-remap-root",
            "container-entrypoint",
            "no-container-entrypoint",
            "no-container-mount-home",
            "container-mount-home",
            "container-gpu=auto|all|none|NAME",
            "container-mpi=auto|off|NAME",
            "container-name=NAME",
            "container-save=FILE",
            "container-batch=container|host",
            "container-refresh",
            "no-container-refresh",
        ]
    );
    // slurmstepd complains of options that it does not know, and slurmd has none.
    let words = ["api=42", "context=remote", "init", "options", "typed=container-mounts=x"];
    let text = Host::new(Slurm::New, &words).then("init_post_opt").run();
    assert_eq!(text.matches("option: --").count(), options.len(), "{text}");
    assert!(text.ends_with("init_post_opt: 0\n"), "root reads what users type: {text}");
    let text = Host::new(Slurm::New, &["api=42", "context=slurmd", "init", "options"]).run();
    assert_eq!(text, "init: 0\n");
}

/// For sites where another plugin has the usual ones.
#[test]
fn a_site_can_give_the_options_another_prefix() {
    let words = ["api=42", "context=local", "plugstack=prefix=ours", "init", "options"];
    let text = Host::new(Slurm::New, &words).run();
    let options = text.lines().filter_map(|line| line.strip_prefix("option: --"));
    let (ours, others): (Vec<_>, Vec<_>) = options.partition(|option| option.contains("ours-"));
    assert_eq!(others, ["shifter=IMAGE"]);
    assert!(ours.contains(&"ours-workdir=DIR") && ours.contains(&"no-ours-mount-home"), "{ours:?}");
    let client = |words: &[&str]| {
        let before = ["api=42", "context=local", "plugstack=prefix=ours", "init"];
        Host::new(Slurm::New, &[&before[..], words].concat()).then("init_post_opt")
    };
    let words = ["builtin=a", "typed=ours-workdir=/w", "typed=no-ours-mount-home"];
    let expected = r#"{"container":"docker.io/library/a:latest","asked":{"options":{"workdir":"/w","home":"left-out"}}}"#;
    assert_eq!(request(client(&words)), expected);
    is_refused(
        client(&["builtin=a", "typed=ours-workdir=w"]),
        "--ours-workdir: working directory \"w\": it must be an absolute path",
    );
    is_refused(
        client(&["typed=ours-workdir=/w"]),
        "--ours-workdir is for a container, and none is asked for; add --container=IMAGE",
    );
    is_refused(
        Host::client(&["plugstack=prefix=No", "builtin=a"]),
        "plugstack.conf: prefix=No: not a word of small letters (tell the administrator)",
    );
}

/// What a client of Slurm 24.11 writes as its request.
fn request(host: Host) -> String {
    let text = host.run();
    let lines = text.lines();
    let mut requests = lines.filter_map(|line| line.strip_prefix("SLURM_SPANK_SHIFTER_REQUEST="));
    let request = requests.next().unwrap_or_else(|| panic!("no request: {text}"));
    assert!(
        text.ends_with(&format!("init_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST={request}\n")),
        "{text}"
    );
    request.to_owned()
}

#[test]
fn options_are_carried() {
    let all = [
        "builtin=a",
        "typed=container-mounts=/x:/y:ro,/z",
        "typed=container-env=A=1,B",
        "typed=container-workdir=/w",
        "typed=container-readonly",
        "typed=container-remap-root",
        "typed=container-entrypoint",
        "typed=no-container-mount-home",
        "typed=container-name=lab",
        "typed=container-refresh",
    ];
    let expected = r#"{"container":"docker.io/library/a:latest","asked":{"options":{"mounts":["/x:/y:ro","/z:/z"],"env":["A=1","B"],"workdir":"/w","entrypoint":"image","root":"ro","ids":"root","home":"left-out","name":"lab"},"tag":"fresh"}}"#;
    assert_eq!(request(Host::client(&all)), expected);
    // Said twice: a script's lines come before the command line.
    let twice = [
        "builtin=a",
        "typed=container-mounts=/x",
        "typed=container-readonly",
        "typed=container-mounts=/y,/x",
        "typed=container-writable",
    ];
    let expected = r#"{"container":"docker.io/library/a:latest","asked":{"options":{"mounts":["/y:/y","/x:/x"],"root":"rw"}}}"#;
    assert_eq!(request(Host::client(&twice)), expected);
}

#[test]
fn a_variable_stands_for_an_option_that_is_not_given() {
    let client = |words: &[&str]| {
        Host::client(words)
            .env("SHIFTER_CONTAINER_MOUNTS", "/x")
            .env("SHIFTER_CONTAINER_READONLY", "yes")
            .env("SHIFTER_CONTAINER_REMAP_ROOT", "false")
            .env("SHIFTER_CONTAINER_WORKDIR", "")
    };
    let expected = r#"{"container":"docker.io/library/a:latest","asked":{"options":{"mounts":["/x:/x"],"root":"ro","ids":"own"}}}"#;
    assert_eq!(request(client(&["builtin=a"])), expected);
    let words = ["builtin=a", "typed=container-mounts=/y", "typed=container-writable"];
    let expected = r#"{"container":"docker.io/library/a:latest","asked":{"options":{"mounts":["/y:/y"],"root":"rw","ids":"own"}}}"#;
    assert_eq!(request(client(&words)), expected);
    // A default is no wish.
    assert_eq!(request(client(&[])), "none");
    assert_eq!(request(client(&["builtin=none"])), "none");
    is_refused(
        Host::client(&["builtin=a"]).env("SHIFTER_CONTAINER_READONLY", "maybe"),
        "SHIFTER_CONTAINER_READONLY: switch \"maybe\": expected true or false",
    );
    assert_eq!(request(Host::client(&[]).env("SHIFTER_CONTAINER_READONLY", "maybe")), "none");
}

#[test]
fn a_variable_names_the_image_of_new_jobs() {
    let a = r#"{"container":"docker.io/library/a:latest"}"#;
    let default = |host: Host| host.env("SHIFTER_CONTAINER", "a");
    assert_eq!(request(default(Host::client(&[]))), a);
    assert_eq!(request(default(Host::client(&["builtin=none"]))), "none");
    assert_eq!(
        request(default(Host::client(&["builtin=b"]))),
        r#"{"container":"docker.io/library/b:latest"}"#
    );
    assert_eq!(
        request(default(Host::client(&["typed=shifter=b"]))),
        r#"{"container":"docker.io/library/b:latest"}"#
    );
    // A job without a container has said so; a new one from in it has not.
    let job = |host: Host, carrier: &str| {
        default(host).env("SLURM_JOB_ID", "7").env("SLURM_SPANK_SHIFTER_REQUEST", carrier)
    };
    assert_eq!(request(job(Host::client(&[]), "none")), "none");
    let text = job(Host::submitter(&[]), "none").run();
    assert!(text.ends_with(&format!("\nSLURM_SPANK_SHIFTER_REQUEST={a}\n")), "{text}");
    is_refused(
        Host::client(&[]).env("SHIFTER_CONTAINER", "A"),
        "image reference \"A\": repository must be lower-case (position 0); write \
         SHIFTER_CONTAINER=[REGISTRY/]NAME[:TAG], or SHIFTER_CONTAINER=none for no container",
    );
}

#[test]
fn another_option_names_the_image_where_salloc_has_none() {
    let b = r#"{"container":"docker.io/library/b:latest"}"#;
    assert_eq!(request(Host::client(&["typed=shifter=b"])), b);
    assert_eq!(request(Host::client(&["builtin=b", "typed=shifter=b"])), b);
    assert_eq!(request(Host::client(&["typed=shifter=a", "typed=shifter=b"])), b);
    assert_eq!(request(Host::client(&["typed=shifter=none"])), "none");
    is_refused(
        Host::client(&["builtin=a", "typed=shifter=b"]),
        "--container=\"a\" and --shifter=\"b\" are two; say one of them",
    );
    is_refused(
        Host::client(&["typed=shifter="]),
        "--shifter is empty; name an image, or say --shifter=none for no container",
    );
}

#[test]
fn a_step_lays_its_options_over_its_jobs() {
    let carrier = r#"{"container":"docker.io/library/a:latest","options":{"workdir":"/file"},"asked":{"options":{"mounts":["/x:/x"],"root":"ro","name":"lab"},"batch":"host","tag":"fresh"},"file":"/f.toml"}"#;
    let step = |words: &[&str]| {
        Host::client(words)
            .env("SLURM_JOB_ID", "7")
            .env("SLURM_SPANK_SHIFTER_REQUEST", carrier)
            .env("SHIFTER_CONTAINER_MOUNTS", "/default")
            // What Slurm makes of sbatch's options, which it would read after this.
            .env("SLURM_SPANK__SLURM_SPANK_OPTION_shifter_container_mounts", "/x")
    };
    assert_eq!(request(step(&[])), carrier);
    let over = carrier.replace(r#"["/x:/x"],"#, r#"["/x:/x","/y:/y"],"workdir":"/w","#);
    let words = ["typed=container-mounts=/y", "typed=container-workdir=/w"];
    assert_eq!(request(step(&words)), over);
    // Another image: what its job's file said goes with the file, and a container is of one image.
    let other = r#"{"container":"docker.io/library/b:latest","asked":{"options":{"mounts":["/x:/x"],"root":"ro"},"batch":"host","tag":"fresh"}}"#;
    assert_eq!(request(step(&["builtin=b"])), other);
    assert_eq!(request(step(&["builtin=none", "typed=container-readonly"])), "none");
    // One in a job without a container begins anew.
    let host = Host::client(&["builtin=b"]).env("SLURM_JOB_ID", "7");
    let host =
        host.env("SLURM_SPANK_SHIFTER_REQUEST", "none").env("SHIFTER_CONTAINER_WORKDIR", "/w");
    assert_eq!(
        request(host),
        r#"{"container":"docker.io/library/b:latest","asked":{"options":{"workdir":"/w"}}}"#
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let none =
        "--container-mounts is for a container, and none is asked for; add --container=IMAGE";
    let alone = ["typed=container-mounts=/x", "typed=container-readonly"];
    is_refused(Host::client(&alone), none);
    is_refused(Host::submitter(&alone), none);
    for (option, why) in [
        (
            "container-mounts=x:y",
            "--container-mounts: mount \"x:y\": the target must be an absolute path",
        ),
        (
            "container-mounts=",
            "--container-mounts: mount \"\": the source must be an absolute path",
        ),
        (
            "container-env=A=1,2",
            "--container-env: variables \"A=1,2\": a value with a comma takes quotes around it all: \
             \"NAME=A,B\"",
        ),
        (
            "container-workdir=x",
            "--container-workdir: working directory \"x\": it must be an absolute path",
        ),
        (
            "container-name=a/b",
            "--container-name: container name \"a/b\": it may hold letters, digits, _, . and -",
        ),
        (
            "container-name=a@3",
            "container name a@3: a container is its job's own; leave out what is behind the name",
        ),
        (
            "container-batch=host",
            "--container-batch is for sbatch and salloc: an srun has no script; leave it out",
        ),
    ] {
        is_refused(Host::client(&["builtin=a", &format!("typed={option}")]), why);
    }
    is_refused(
        Host::submitter(&["builtin=a", "typed=container-batch=node"]),
        "--container-batch: place \"node\": expected container or host",
    );
    let bundle = tempfile::tempdir().expect("a directory");
    std::fs::write(bundle.path().join("config.json"), "{}").expect("a bundle");
    is_refused(
        Host::client(&[
            &format!("builtin={}", bundle.path().display()),
            "typed=container-readonly",
        ]),
        "--container-readonly is not for OCI bundles, which Slurm runs itself; leave it out",
    );
}

#[test]
fn the_site_says_where_scripts_run_if_the_job_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("site.toml");
    let site = format!("plugstack=config={}", file.display());
    std::fs::write(&file, "container_batch = 'host'").expect("a file");
    let host = r#"{"container":"docker.io/library/a:latest","asked":{"batch":"host"}}"#;
    let carried = |words: &[&str]| {
        let text = Host::submitter(&[&["builtin=a", &site], words].concat()).run();
        text.lines().last().expect("a request").replace("SLURM_SPANK_SHIFTER_REQUEST=", "")
    };
    assert_eq!(carried(&[]), host);
    assert_eq!(
        carried(&["typed=container-batch=container"]),
        r#"{"container":"docker.io/library/a:latest"}"#
    );
    std::fs::write(&file, "container_batc = 'host'").expect("a file");
    let why = format!(
        "read configuration {}, line 1: unknown field `container_batc`; did you mean container_batch?",
        file.display()
    );
    is_refused(Host::submitter(&["builtin=a", &site]), &why);
    is_refused(Host::client(&["builtin=a", &site]), &why);
    prints(Host::client(&[&site]), "init: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST=none\n");
}
