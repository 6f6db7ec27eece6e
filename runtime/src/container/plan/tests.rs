//! Plans, without a tree or a host.

use super::*;
use crate::Options;

fn image(run: &str) -> Image {
    Image {
        source: "busybox".parse().unwrap(),
        digest: Digest::of(b""),
        config: serde_json::from_str(&format!(r#"{{"config":{run}}}"#)).unwrap(),
        rootfs: "/shm/trees/e3b0".into(),
        form: Form::Tree,
        hold: Default::default(),
    }
}

fn config(mounts: &[&str]) -> Config {
    let text = format!("store = \"/store\"\nnode_dir = \"/shm\"\nmounts = {mounts:?}");
    Config::parse(&text).expect("good settings")
}

fn host(cwd: &str) -> Host {
    Host {
        uid: Uid::from_raw(1234),
        gid: Gid::from_raw(100),
        user: "ada".into(),
        home: Some("/home/ada".into()),
        shell: "/bin/zsh".into(),
        groups: vec![(Gid::from_raw(100), "users".into())],
        cwd: Some(cwd.into()),
        files: vec![("/etc/hosts".into(), b"127.0.0.1 localhost\n".into())],
    }
}

fn asked(command: Command) -> Run {
    Run { command, script: None, relay: None, options: Options::default() }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn given(argv: &[&str]) -> Run {
    asked(Command::Given(words(argv)))
}

fn composed(image: &Image, run: &Run, host: &Host, env: &[(&str, &str)]) -> Plan {
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    compose(image, run, &config(&[]), host, env, &Facts::default()).unwrap()
}

/// What is bound, in order.
fn targets(plan: &Plan) -> Vec<&str> {
    fn target(mount: &Mount) -> Option<&str> {
        match mount {
            Mount::Bind { target, .. } => target.to_str(),
            Mount::Tmpfs(spec) => Some(spec.target.as_str()),
            _ => None,
        }
    }
    plan.mounts.iter().filter_map(target).collect()
}

#[test]
fn a_plan_reads_well() {
    let image = image(r#"{"Env":["PATH=/bin"],"Cmd":["sh"],"WorkingDir":"/work"}"#);
    let env = [("SLURM_JOB_ID", "17"), ("LD_PRELOAD", "/x.so"), ("NOTE", "two words\u{1b}[1m")];
    let mut run = given(&["./a.out", "-n", "two words", ""]);
    run.script = Some("/var/spool/job00017/slurm_script".into());
    let site = config(&["/sw:/opt/site:ro", "/scratch"]);
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let host = host("/scratch/ada");
    let plan = compose(&image, &run, &site, &host, env, &Facts::default()).unwrap();
    assert_eq!(
        plan.to_string(),
        r#"image    docker.io/library/busybox:latest (sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855)
ids      uid 1234 gid 100, as on the host
root     /shm/trees/e3b0, changes go to memory and end with it
file     /etc/hosts (20 bytes)
file     /etc/nsswitch.conf (132 bytes)
file     /etc/passwd (37 bytes)
file     /etc/group (16 bytes)
mount    /proc
mount    /sys, read-only
mount    /dev
mount    /tmp, if there
mount    /home/ada, if there
mount    /scratch/ada, if there
mount    /var/spool/job00017/slurm_script, read-only
mount    /opt/site from /sw, read-only, if there
mount    /scratch, if there
env      HOME=/home/ada
env      NOTE="two words\u{1b}[1m"
env      PATH=/bin
env      SHELL=/bin/sh
env      SHIFTER_IMAGE=docker.io/library/busybox:latest
env      SHIFTER_IMAGE_DIGEST=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
env      SLURM_JOB_ID=17
workdir  /scratch/ada, else /work, else /
command  ./a.out -n "two words" ""
"#
    );
}

#[test]
fn the_working_directory_is_mounted_once_and_hides_nothing() {
    let system = ["/proc", "/sys", "/dev", "/tmp", "/home/ada"];
    for (cwd, is_taken, mounted) in [
        ("/scratch/x", false, Some("/scratch/x")),
        ("/scratch/x", true, None),
        ("/home/ada/x", false, None),
        ("/home", false, Some("/home")),
        ("/tmp", false, None),
        ("/dev/shm/x", false, None),
        ("/", false, None),
    ] {
        let facts = Facts { cwd_is_taken: is_taken, ..Facts::default() };
        let host = host(cwd);
        let plan =
            compose(&image("{}"), &given(&["a"]), &config(&[]), &host, vec![], &facts).unwrap();
        let expected: Vec<&str> = system.into_iter().chain(mounted).collect();
        assert_eq!(targets(&plan), expected, "{cwd}");
    }
}

#[test]
fn pmix_gets_its_directory() {
    let env = [("PMIX_SERVER_TMPDIR", "/var/spool/slurmd/pmix.17.0")];
    let plan = composed(&image("{}"), &given(&["a"]), &host("/"), &env);
    assert_eq!(targets(&plan).last(), Some(&"/var/spool/slurmd/pmix.17.0"));
    let plan = composed(&image("{}"), &given(&["a"]), &host("/"), &[(PMIX_DIR_VAR, "/tmp/x")]);
    assert_eq!(targets(&plan).last(), Some(&"/home/ada"));
}

#[test]
fn commands_are_slurms_or_dockers() {
    let full = image(r#"{"Entrypoint":["/init","--"],"Cmd":["serve"]}"#);
    let plain = image(r#"{"Cmd":["sh"]}"#);
    for (label, image, command, argv) in [
        ("srun", &full, Command::Given(words(&["a", "b"])), Some(vec!["a", "b"])),
        ("docker run", &full, Command::Image(vec![]), Some(vec!["/init", "--", "serve"])),
        ("docker run a", &full, Command::Image(words(&["a"])), Some(vec!["/init", "--", "a"])),
        ("no entrypoint", &plain, Command::Image(words(&["a"])), Some(vec!["a"])),
        ("Cmd alone", &plain, Command::Image(vec![]), Some(vec!["sh"])),
        ("nothing at all", &image("{}"), Command::Image(vec![]), None),
        ("srun without", &full, Command::Given(vec![]), None),
    ] {
        let run = asked(command);
        let host = host("/");
        match compose(image, &run, &config(&[]), &host, vec![], &Facts::default()) {
            Ok(plan) => assert_eq!(Some(words(&argv.unwrap())), Some(plan.argv), "{label}"),
            Err(e) => {
                assert!(argv.is_none() && matches!(e, Error::NoCommand { .. }), "{label}")
            }
        }
    }
}

#[test]
fn home_is_the_callers_if_it_is_mounted() {
    let home_of = |plan: &Plan| {
        plan.env.iter().find(|(name, _)| name == "HOME").map(|(_, home)| home.clone())
    };
    let (bare, own) = (image("{}"), image(r#"{"Env":["HOME=/root"]}"#));
    let mut homeless = host("/");
    homeless.home = None;
    for (image, host, expected) in
        [(&own, &host("/"), "/home/ada"), (&bare, &homeless, "/"), (&own, &homeless, "/root")]
    {
        let plan = composed(image, &given(&["a"]), host, &[("HOME", "/home/ada")]);
        assert_eq!(home_of(&plan), Some(expected.into()));
    }
}

#[test]
fn nul_bytes_are_refused() {
    let own = r#"{"Env":["A=\u0000"]}"#;
    let facts = Facts::default();
    for (image, run) in [(image(own), given(&["a"])), (image("{}"), given(&["a\0"]))] {
        let plan = compose(&image, &run, &config(&[]), &host("/"), vec![], &facts);
        assert!(matches!(plan, Err(Error::Nul { .. })));
    }
}

#[test]
fn an_entrypoint_that_is_asked_for_takes_no_arguments_from_the_image() {
    let full = image(r#"{"Entrypoint":["/init"],"Cmd":["serve"]}"#);
    let given = || Entrypoint::Given(vec!["sh".into(), "-c".into()]);
    for (command, entrypoint, argv) in [
        (Command::Image(vec![]), given(), Some(&["sh", "-c"][..])),
        (Command::Image(words(&["a"])), given(), Some(&["sh", "-c", "a"])),
        (Command::Image(words(&["a"])), Entrypoint::Off, Some(&["a"])),
        (Command::Image(vec![]), Entrypoint::Off, None),
        (Command::Given(words(&["a"])), Entrypoint::Image, Some(&["/init", "a"])),
        (Command::Given(words(&["a"])), given(), Some(&["sh", "-c", "a"])),
    ] {
        let mut run = asked(command);
        run.options.entrypoint = Some(entrypoint);
        let host = host("/");
        let plan = compose(&full, &run, &config(&[]), &host, vec![], &Facts::default());
        assert_eq!(plan.ok().map(|plan| plan.argv), argv.map(words), "{run:?}");
    }
}

#[test]
fn variables_that_are_asked_for_win() {
    let mut run = given(&["a"]);
    for (text, expected) in [
        ("A=asked", Some("asked")),
        ("A-", None),
        ("A", Some("caller")),
        ("B", Some("image")),
        ("HOME=/x", Some("/x")),
        ("SHELL-", None),
        ("SLURM_JOB_ID=1", Some("1")),
    ] {
        let spec: EnvSpec = text.parse().unwrap();
        run.options.env = vec![spec.clone()];
        let image = image(r#"{"Env":["A=image","B=image"]}"#);
        let env = [("A", "caller"), ("SLURM_JOB_ID", "7")];
        let plan = composed(&image, &run, &host("/"), &env);
        let mut found = plan.env.iter().filter(|(name, _)| name == spec.name());
        assert_eq!(found.next().map(|(_, v)| v.to_str().unwrap()), expected, "{text}");
        assert!(found.next().is_none(), "{text}: twice");
    }
}

#[test]
fn what_is_asked_for_is_mounted_last_and_directories_before_what_is_in_them() {
    let mut run = given(&["a"]);
    let specs = ["/x:/a/b/c", "type=tmpfs,target=/a", "/y:/a/b", "/z:/home/ada"];
    run.options.mounts = specs.iter().map(|spec| spec.parse().unwrap()).collect();
    run.options.devices = vec!["/dev/fuse".parse().unwrap()];
    let plan = composed(&image("{}"), &run, &host("/"), &[("HOME", "/home/ada")]);
    let last = ["/home/ada", "/a", "/a/b", "/home/ada", "/a/b/c", "/dev/fuse"];
    assert_eq!(targets(&plan)[4..], last);
    assert!(plan.env.contains(&("HOME".into(), "/home/ada".into())), "another home is a home");
}

#[test]
fn what_devices_need_is_mounted_before_what_the_user_asks_for() {
    let bind = |path: &str| inject::Bind {
        source: path.into(),
        target: path.into(),
        access: Access::ReadOnly,
    };
    let link = |path: &str| Link { path: path.into(), target: "x".into() };
    let device = |source: &str, target: &str| inject::Device {
        source: source.into(),
        target: target.into(),
    };
    let edits = inject::Edits {
        mounts: vec![bind("/usr/lib64/libcuda.so.1"), bind("/home/ada/lib/libx.so")],
        devices: vec![device("/dev/null", "/dev/null"), device("/dev/null", "/other")],
        env: vec![("CUDA_VISIBLE_DEVICES".into(), "9".into()), ("NEW".into(), "1".into())],
        masks: vec![inject::Mask { path: "/proc/x".into(), content: b"y".into() }],
        ..inject::Edits::default()
    };
    let facts = Facts {
        injection: Injection {
            edits,
            told: vec!["a.com/b=c".into()],
            warnings: vec!["missing".into()],
        },
        applied: Applied {
            files: vec![("/etc/ld.so.cache".into(), b"z".to_vec())],
            links: vec![link("/usr/lib64/libcuda.so"), link("/home/ada/lib/x")],
            library_path: vec!["/usr/lib64".into()],
            libcuda: None,
            warnings: vec!["musl".into()],
        },
        ..Facts::default()
    };
    let mut run = given(&["a"]);
    run.options.mounts = vec!["/mine:/usr/lib64".parse().unwrap()];
    let env = [("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_JOB_ID", "1")];
    let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let own = image(r#"{"Env":["LD_LIBRARY_PATH=/own"]}"#);
    let plan = compose(&own, &run, &config(&[]), &host("/"), env, &facts).unwrap();
    let text = plan.to_string();
    // What the host's directories have in them is there; the rest comes in this order.
    let order = [
        "mount    /home/ada, if there",
        "mount    /other from /dev/null",
        "mount    /usr/lib64/libcuda.so.1, read-only",
        "link     /usr/lib64/libcuda.so to x",
        "file     /etc/ld.so.cache (1 bytes)",
        "mask     /proc/x with other content (1 bytes)",
        "mount    /usr/lib64 from /mine",
        "env      CUDA_VISIBLE_DEVICES=0",
    ];
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| *line == order[0]).unwrap();
    assert_eq!(lines[at..at + order.len()], order, "{text}");
    for line in ["devices  a.com/b=c", "env      NEW=1", "env      LD_LIBRARY_PATH=/usr/lib64:/own"]
    {
        assert!(lines.contains(&line), "no {line} in {text}");
    }
    assert_eq!(plan.warnings(), ["missing", "musl"]);
}

#[test]
fn home_that_is_left_out_is_nowhere() {
    let mut run = given(&["a"]);
    run.options.home = Some(Home::LeftOut);
    for (ids, home) in [(Ids::Own, "/"), (Ids::Root, "/root")] {
        run.options.ids = Some(ids);
        for cwd in ["/home/ada", "/home/ada/work"] {
            let plan = composed(&image("{}"), &run, &host(cwd), &[("HOME", "/home/ada")]);
            assert!(!targets(&plan).contains(&"/home/ada"), "{cwd}");
            assert_eq!(targets(&plan).contains(&cwd), cwd != "/home/ada");
            assert!(plan.env.contains(&("HOME".into(), home.into())), "{:?}", plan.env);
        }
    }
}

#[test]
fn root_inside_is_the_caller_and_apt_is_told() {
    let mut run = given(&["a"]);
    run.options.ids = Some(Ids::Root);
    let facts = Facts { has_apt: true, ..Facts::default() };
    let host = host("/");
    let plan = compose(&image("{}"), &run, &config(&[]), &host, vec![], &facts).unwrap();
    let file = |path: &str| {
        plan.mounts.iter().find_map(|mount| match mount {
            Mount::File { target, content } if target == Path::new(path) => {
                Some(String::from_utf8_lossy(content).into_owned())
            }
            _ => None,
        })
    };
    assert_eq!(file("/etc/passwd").unwrap(), "root:x:0:0:root:/home/ada:/bin/sh\n");
    assert_eq!(file("/etc/group").unwrap(), "root:x:0:root\n");
    assert!(file(APT_FILE.0).unwrap().contains("Sandbox"));
    assert_eq!((plan.uid, plan.gid), (host.uid, host.gid));
    let plan = compose(&image("{}"), &given(&["a"]), &config(&[]), &host, vec![], &facts);
    assert!(!plan.unwrap().to_string().contains("apt"));
}
