//! What goes over whose link.

use fixtures::{Links, Setup};

use super::*;

/// Each node gets the image once, and one of them gets it from the registry.
#[test]
fn each_node_gets_the_image_once() {
    need!(root, slurm, registry, busybox, userns, links);
    let sandbox = Sandbox::new().with_programs();
    let user = User::ordinary();
    let own = node_file_system(&sandbox, &user);
    let links = Links { node: 100, registry: 100 };
    let cluster = Cluster::start_linked(&sandbox, NODES, &own, links).with_plugin();
    let setup = Setup { host: Some(cluster.host()), ..Setup::default() };
    let registry = Registry::start_with(&sandbox, setup);
    let settings = format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", registry.address());
    sandbox.write(sandbox.config(), settings);
    let site = Site { sandbox, registry, cluster, user };
    for way in WAYS {
        // It need not be there.
        let _ = fs::remove_dir_all(site.sandbox.store(&site.user));
        let image = site.image(&format!("links-{way}"));
        let received = || (1..=NODES).map(|node| site.cluster.bytes(node).0).collect::<Vec<_>>();
        let before = received();
        run(site.srun(way, NODES, &image, &["true"])).success();
        let received: Vec<_> = before.iter().zip(received()).map(|(a, b)| b - a).collect();
        let size: u64 =
            site.registry.accesses_to(&format!("links-{way}")).iter().map(|a| a.bytes).sum();
        let once = size..size + size / 4;
        assert!(size > 2_500_000 && once.contains(&received[0]), "{size} bytes: {received:?}");
        for followed in &received[1..] {
            match way {
                // It is read from a directory, which has no link here.
                "store" => assert!(*followed < size / 4, "{size} bytes: {received:?}"),
                _ => assert!(once.contains(followed), "{size} bytes: {received:?}"),
            }
        }
    }
}
