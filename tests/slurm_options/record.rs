//! What is known afterwards of who ran which image.

use std::{
    fs::Permissions,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::Duration,
};

use super::*;

/// Lines of a log that nobody has read yet.
fn lines(log: &UnixDatagram) -> Vec<(String, serde_json::Value)> {
    let mut lines = Vec::new();
    let mut buffer = [0; 1 << 16];
    while let Ok(length) = log.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (head, json) = text.split_once(' ').expect("a head, and the line");
        lines
            .push((head.to_owned(), serde_json::from_str::<serde_json::Value>(json).expect(&text)));
    }
    lines.sort_by_key(|(_, line)| line["node"].to_string());
    lines
}

#[test]
fn a_program_can_see_which_image_it_is_in() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let digest = site.registry.push("busybox:1", &image::busybox().build());
    let show = ["sh", "-c", "echo $SHIFTER_IMAGE $SHIFTER_IMAGE_DIGEST"];
    assert_eq!(site.srun(&show).success(), format!("{} {digest}\n", site.image()));
}

#[test]
fn the_sites_log_gets_a_line_for_each_step_and_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let path = site.sandbox.shared().join("log.socket");
    let log = UnixDatagram::bind(&path).expect("a socket");
    log.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("a socket");
    site.configure(&format!("step_log = {path:?}\nlocked = ['step_log']\n"));
    let name = site.registry.name("logged:1");
    let digest = site.registry.push("logged:1", &with_file("logged", "logged\n"));
    let option = format!("--container={name}");

    // The nodes of this cluster are one machine, with one directory for images.
    let run_it = || run(site.client("srun", &["-Q", "-N2", "-n6", &option, "true"]));
    run_it().success();
    let first = lines(&log);
    assert_eq!(first.len(), 2, "{first:?}");
    let mut cached = 0;
    for ((head, line), node) in first.iter().zip(["n1", "n2"]) {
        assert!(head.starts_with("<14>shifter[") && head.ends_with("]:"), "{head}");
        let job = line["job"].as_str().expect("a job");
        assert!(job.parse::<u32>().is_ok() && line["step"] == "0", "{line}");
        assert_eq!((&line["node"], &line["user"]), (&node.into(), &site.user.name.as_str().into()));
        assert_eq!((&line["uid"], &line["event"]), (&site.user.uid.into(), &"step".into()));
        assert_eq!(
            (&line["image"], &line["digest"]),
            (&name.as_str().into(), &digest.as_str().into())
        );
        assert!(line["pull_seconds"].is_f64() && line["setup_seconds"].is_f64(), "{line}");
        let is_cached = line["cached"].as_bool().expect("true or false");
        assert_eq!(is_cached, line["fetched"] == 0, "{line}");
        cached += u32::from(is_cached);
    }
    assert_eq!(cached, 1, "one has pulled for both: {first:?}");
    run_it().success();
    assert!(lines(&log).iter().all(|(_, line)| line["cached"] == true && line["bytes"] == 0));

    // What fails is there as well.
    site.srun(&["-n3", "--container-mounts=/no/such:/x", "true"]).failure(125);
    let failed = lines(&log);
    assert_eq!(failed.len(), 1, "{failed:?}");
    let error = failed[0].1["error"].as_str().expect("an error");
    assert!(error.contains("/no/such"), "{error}");

    // Who does not listen holds nobody up, nor does who is not there.
    drop(log);
    run_it().success();
    fs::remove_file(&path).expect("the socket");
    run_it().success();
    let mut off = site.client("srun", &["-Q", &option, "true"]);
    off.env("SHIFTER_STEP_LOG", "/dev/null");
    assert!(run(off).stderr.contains("step_log is locked by"), "users could turn it off");
    site.assert_unharmed();
}
