//! What the fixtures promise, held against real daemons.

use std::{fs, path::Path, thread, time::Duration};

use fixtures::{
    Cluster, Registry, Sandbox, Setup, User, eventually,
    image::{self, Compression, Entry, Image, Layer},
    need, run,
};

fn layered() -> Image {
    let below =
        Layer::new().dir("etc", 0o755).file("etc/motd", 0o644, "below").file("old", 0o644, "");
    let long = "d/".repeat(60) + "file";
    let above = Layer::new()
        .file("etc/motd", 0o600, "above")
        .whiteout("old")
        .file(&long, 0o644, "long")
        .symlink("link", "etc/motd")
        .hardlink("hard", "etc/motd");
    Image::new().layer(below).layer_as(above, Compression::None).env("A=1").cmd(&["/bin/true"])
}

/// Lists the processes with these words in their command lines. A dead one has none: it does not
/// matter how soon init takes notice.
fn living(words: &str) -> String {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let lines = entries.map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(words)).collect()
}

#[test]
fn a_sandbox_leaves_nothing_behind() {
    need!(root);
    let sandbox = Sandbox::new();
    let user = User::ordinary();
    let dir = sandbox.dir().to_owned();
    // A time that nobody else on the machine sleeps for.
    let nap = format!("sleep 1000.{}", std::process::id());
    // One that runs away from its parent, and one that sheds its environment.
    for line in [format!("setsid {nap} &"), format!("env -i sh -c '{nap}; :' & {nap}")] {
        let mut shell = user.command(&sandbox, "sh");
        let quiet = format!("exec >/dev/null 2>&1; {line}");
        thread::spawn(move || shell.args(["-c", &quiet]).status());
    }
    eventually(Duration::from_secs(5), "the processes", || {
        (sandbox.processes().len() >= 3).then_some(())
    });
    drop(sandbox);
    assert!(!dir.exists(), "the directory is still there");
    let name = dir.file_name().expect("it has a name");
    assert!(!Path::new("/dev/shm").join(name).exists(), "the node directory is still there");
    assert_eq!(living(&nap), "", "a process of the sandbox is still there");
}

#[test]
fn an_ordinary_user_has_no_more_than_that() {
    need!(root);
    let sandbox = Sandbox::new();
    let mut id = User::ordinary().command(&sandbox, "sh");
    id.args(["-c", "id -G; cd && touch . && mkdir $SHIFTER_NODE_DIR $SHIFTER_STORE; env | wc -l"]);
    let said = run(id).success();
    let (groups, variables) = said.trim().split_once('\n').expect("two lines");
    assert_eq!(groups, User::ordinary().gid.to_string(), "it has supplementary groups");
    assert!(variables.parse::<u32>().expect("a number") < 15, "it has the tests' environment");
}

#[test]
fn tools_read_the_images_as_they_are_meant() {
    need!(root, registry, skopeo, umoci);
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox);
    let image = layered().build();
    let digest = registry.push("test/layered:1", &image);
    let (name, layout) = (registry.name("test/layered:1"), sandbox.dir().join("layout"));
    let (from, to) = (format!("docker://{name}"), format!("oci:{}:1", layout.display()));
    let exactly = ["--src-tls-verify=false", "--preserve-digests", &from, &to];
    registry.skopeo_copy(&exactly).success();
    assert!(layout.join("blobs/sha256").join(&digest["sha256:".len()..]).exists());

    let bundle = sandbox.dir().join("bundle");
    let mut umoci = User::current().command(&sandbox, "umoci");
    umoci.args(["unpack", "--image"]).arg(format!("{}:1", layout.display())).arg(&bundle);
    run(umoci).success();
    let root = bundle.join("rootfs");
    let read = |path: &str| fs::read_to_string(root.join(path)).expect(path);
    assert_eq!(read("etc/motd"), "above");
    assert_eq!(read("link"), "above");
    assert_eq!(read("hard"), "above");
    assert_eq!(read(&("d/".repeat(60) + "file")), "long");
    assert!(!root.join("old").exists(), "the whiteout was not followed");

    // The layout that we write is as good as the one that skopeo wrote.
    let ours = sandbox.dir().join("ours");
    image.write_layout(&ours, "1");
    registry.push_layout("test/again:1", &format!("{}:1", ours.display()));
    let asked = format!("/v2/test/again/manifests/{digest}");
    registry.clear_accesses();
    let again = format!("docker://{}@{digest}", registry.name("test/again"));
    let copy = format!("oci:{}:1", sandbox.dir().join("copy").display());
    registry.skopeo_copy(&["--src-tls-verify=false", &again, &copy]).success();
    assert!(registry.accesses().iter().any(|access| access.path == asked && access.status == 200));
}

#[test]
fn the_registry_can_be_broken_and_mended() {
    need!(root, registry, skopeo);
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox);
    let image = layered().docker().build();
    registry.push("test/broken:1", &image);
    let from = format!("docker://{}", registry.name("test/broken:1"));
    let pull = |number: u32| {
        let to = format!("oci:{}:1", sandbox.dir().join(format!("pulled-{number}")).display());
        registry.skopeo_copy(&["--src-tls-verify=false", &from, &to])
    };
    let damaged = registry.corrupt(&image.blobs()[0].digest());
    let refused = pull(1).failure(1);
    assert!(refused.contains("did not match"), "skopeo took a corrupt blob: {refused}");
    drop(damaged);
    pull(2).success();
    registry.stop();
    pull(3).failure(1);
    registry.resume();
    pull(4).success();
    registry.delete("test/broken:1");
    pull(5).failure(1);
}

#[test]
fn a_registry_can_want_a_password_and_speak_tls() {
    need!(root, registry, skopeo, htpasswd, openssl);
    let sandbox = Sandbox::new();
    let credentials = Some(("alice".into(), "secret".into()));
    let registry =
        Registry::start_with(&sandbox, Setup { credentials, tls: true, ..Setup::default() });
    registry.push("test/private:1", &layered().build());
    let from = format!("docker://{}/test/private:1", registry.tls_address());
    let certificates = sandbox.make_dir("certs", 0o755);
    fs::copy(registry.ca_file(), certificates.join("ca.crt")).expect("the certificate is there");
    let trust = format!("--src-cert-dir={}", certificates.display());
    let pull = |args: &[&str]| {
        let to = format!("oci:{}:1", sandbox.dir().join("pulled").display());
        registry.skopeo_copy(&[args, &[&from, &to]].concat())
    };
    assert!(pull(&[&trust]).failure(1).contains("unauthorized"));
    assert!(pull(&["--src-creds=alice:secret"]).failure(1).contains("x509"));
    pull(&[&trust, "--src-creds=alice:secret"]).success();
    assert!(registry.accesses().iter().any(|access| access.status == 401));
}

#[test]
fn an_index_offers_a_platform_each() {
    need!(root, registry, skopeo);
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox);
    let other = layered().architecture("arm/v7").env("OTHER=1");
    registry.push("test/many:1", &image::index(&[other, layered()]));
    let from = format!("docker://{}", registry.name("test/many:1"));
    let inspect = |args: &[&str]| {
        let mut skopeo = User::current().command(&sandbox, "skopeo");
        skopeo.args(args).args(["inspect", "--tls-verify=false", "--config", &from]);
        run(skopeo).success()
    };
    assert!(!inspect(&[]).contains("OTHER=1"));
    let arm = ["--override-arch", "arm", "--override-variant", "v7"];
    assert!(inspect(&arm).contains("OTHER=1"));
}

#[test]
fn a_layer_holds_any_bytes() {
    let pax: &[(&str, &[u8])] = &[("SCHILY.xattr.user.color", b"blue")];
    let entry = Entry { name: b"../\xff", content: b"x", pax, ..Entry::default() };
    let archive = Layer::new().entry(&entry).to_tar();
    let mut archive = tar::Archive::new(&*archive);
    let mut entries = archive.entries().expect("an archive");
    let mut entry = entries.next().expect("an entry").expect("it is sound");
    assert_eq!(&*entry.path_bytes(), b"../\xff");
    let records = entry.pax_extensions().expect("it is sound").expect("it has some");
    let records: Vec<_> = records.map(|record| record.expect("it is sound")).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].value_bytes(), b"blue");
}

#[test]
fn a_cluster_runs_jobs_of_an_ordinary_user() {
    need!(root, slurm);
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 2);
    let user = User::ordinary();

    let show = "echo $SLURMD_NODENAME $SLURM_PROCID $(id -u)";
    let said = cluster.srun(&user, &["-N2", "--ntasks-per-node=2", "sh", "-c", show]).success();
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort();
    let uid = user.uid;
    let expected = ["n1 0", "n1 1", "n2 2", "n2 3"].map(|task| format!("{task} {uid}"));
    assert_eq!(lines, expected);
    assert_eq!(cluster.srun(&user, &["sh", "-c", "exit 7"]).code, 7);

    let script = "#!/bin/sh\n#SBATCH -N2\necho batch on $SLURMD_NODENAME\nsrun sh -c 'echo step'\n";
    let job = cluster.wait_job(cluster.sbatch(&user, &["--comment=x"], script));
    let output = cluster.job_output(job.id);
    assert_eq!((&*job.state, &*job.exit_code), ("COMPLETED", "0:0"), "{output}");
    assert_eq!(output, "batch on n1\nstep\nstep\n");
    let job = cluster.wait_job(cluster.sbatch(&user, &[], "#!/bin/sh\nexit 3\n"));
    assert_eq!((&*job.state, &*job.exit_code), ("FAILED", "3:0"));

    let mut salloc = cluster.command(&user, "salloc");
    salloc.args(["srun", "echo", "allocated"]);
    assert_eq!(run(salloc).success(), "allocated\n");

    cluster.set_task_prolog(Some("#!/bin/sh\necho export FROM_PROLOG=yes\n"));
    let greet = ["sh", "-c", "echo prolog: ${FROM_PROLOG-none}"];
    assert_eq!(cluster.srun(&user, &greet).success(), "prolog: yes\n");
    cluster.set_task_prolog(None);
    assert_eq!(cluster.srun(&user, &greet).success(), "prolog: none\n");
    cluster.restart();
    assert_eq!(cluster.srun(&user, &["echo", "again"]).success(), "again\n");

    // What a test that ends early leaves behind.
    let stray = "#!/bin/sh\nsetsid env -i sleep 1001 &\nsrun sleep 1002\n";
    let job = cluster.sbatch(&user, &[], stray);
    eventually(Duration::from_secs(10), "the job to run", || {
        let all = sandbox.processes();
        all.iter().any(|line| line.ends_with("sleep 1002")).then_some(())
    });
    assert_eq!(cluster.job(job).state, "RUNNING");
    drop((cluster, sandbox));
    assert_eq!(living("sleep 1001") + &living("sleep 1002"), "", "a task is still there");
}

/// What the plugin has to be better than (Slurm 22.05 to 26.05 agree): without oci.conf the command
/// runs on the host, with it the step is killed before any plugin is asked.
#[test]
fn slurm_itself_takes_container_for_a_bundle() {
    need!(root, slurm);
    let sandbox = Sandbox::new();
    let cluster = Cluster::start(&sandbox, 1);
    let user = User::ordinary();
    let args = ["--container=alpine:3", "sh", "-c", "echo ran with $SLURM_CONTAINER"];
    assert_eq!(cluster.srun(&user, &args).success(), "ran with alpine:3\n");
    cluster
        .set_oci_conf(Some("RunTimeRun=\"runc run %n -b %b\"\n\
         RunTimeQuery=\"runc state %n\"\nRunTimeKill=\"runc kill %n\"\nRunTimeDelete=\"runc delete %n\"\n"));
    let outcome = cluster.srun(&user, &args);
    assert_eq!(outcome.stdout, "", "{outcome}");
    assert_ne!(outcome.code, 0, "{outcome}");
    cluster.set_oci_conf(None);
    cluster.srun(&user, &args).success();
    cluster.wait_idle();
}
