//! What others do to have an image's files on this node.

use std::path::{Path, PathBuf};

use fixtures::{User, need};

use crate::{
    images::{Images, Source},
    meter::{Bench, Row},
    setting,
};

/// Another tool.
struct Peer {
    /// How BENCH_PEERS calls it.
    key: &'static str,
    name: &'static str,
    programs: &'static [&'static str],
    /// It wants to be root.
    root: bool,
    /// It takes only Docker manifests, at the tag `v2s2`: to a HEAD request that does not say what
    /// is wanted, Debian's registry answers that there is no OCI manifest.
    docker: bool,
    /// `$REPOSITORY` (with TLS: `$TLS_REPOSITORY`, `$CA_FILE`) is the image, `$DIR` an empty
    /// directory on tmpfs where everything goes, temporary files too.
    script: &'static str,
}

/// Leaves the image in `$DIR/b/rootfs`.
pub(crate) const UNPACK: &str = "skopeo copy -q --src-tls-verify=false docker://$REPOSITORY oci:$DIR/o:i && \
     umoci unpack --rootless --image $DIR/o:i $DIR/b";

const PEERS: [Peer; 4] = [
    Peer {
        key: "skopeo",
        name: "skopeo copy, umoci unpack",
        programs: &["skopeo", "umoci"],
        root: false,
        docker: false,
        script: UNPACK,
    },
    Peer {
        key: "podman",
        name: "podman pull, overlay, as root",
        programs: &["podman"],
        root: true,
        docker: false,
        // Its mounts end with the namespace.
        script: "unshare --mount podman --root $DIR/r --runroot $DIR/rr --storage-driver overlay \
                 pull -q --tls-verify=false $REPOSITORY",
    },
    Peer {
        key: "ch-image",
        name: "ch-image pull, TLS",
        programs: &["ch-image"],
        root: false,
        docker: true,
        script: "REQUESTS_CA_BUNDLE=$CA_FILE CH_IMAGE_STORAGE=$DIR/ch \
                 ch-image --no-cache pull $TLS_REPOSITORY:v2s2 x",
    },
    Peer {
        key: "enroot",
        name: "enroot load, as root",
        programs: &[],
        root: true,
        docker: true,
        script: "mkdir $DIR/cfg && PATH=$ENROOT:$PATH ENROOT_ALLOW_HTTP=y \
                 ENROOT_CACHE_PATH=$DIR/cache ENROOT_DATA_PATH=$DIR/data \
                 ENROOT_RUNTIME_PATH=$DIR/run ENROOT_TEMP_PATH=$DIR ENROOT_CONFIG_PATH=$DIR/cfg \
                 enroot load -n x docker://$REPOSITORY:v2s2",
    },
];

impl Bench {
    /// The peers' rows for an image, and a line for each peer that is left out.
    pub(crate) fn peers(
        &self,
        image: &Source,
        images: &Images,
        rounds: usize,
    ) -> (Vec<Row>, Vec<String>) {
        let chosen = setting("BENCH_PEERS", "skopeo podman ch-image enroot");
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        for key in chosen.split_whitespace().filter(|key| *key != "none") {
            let known = PEERS.iter().find(|peer| peer.key == key);
            let peer = known.unwrap_or_else(|| panic!("BENCH_PEERS: {key}: no such peer"));
            match self.peer(peer, image, images, rounds) {
                Ok(row) => rows.push(row),
                Err(why) => left_out.push(format!("Left out: {key}: {why}")),
            }
        }
        (rows, left_out)
    }

    fn peer(
        &self,
        peer: &Peer,
        image: &Source,
        images: &Images,
        rounds: usize,
    ) -> Result<Row, String> {
        let enroot = images.dir.join("enroot/bin");
        let missing = peer.programs.iter().find(|program| need::find(program).is_none());
        if let Some(program) = missing {
            return Err(format!("{program} is not installed"));
        }
        if peer.key == "enroot" && !enroot.join("enroot").exists() {
            return Err("no enroot/bin/enroot in BENCH_DIR".into());
        }
        if peer.docker && image.is_zstd() {
            return Err("a Docker manifest has no layers of zstd".into());
        }
        let dir = self.by_hand();
        let user = if peer.root { &User::current() } else { &self.user };
        // Debian's Python before any other: its modules are what Debian's ch-image needs.
        let script = format!("PATH=/usr/bin:$PATH && mkdir $DIR && {}", peer.script);
        let step = self
            .step_as(user, "sh", &["-c", &script])
            .env("DIR", &dir)
            .env("TMPDIR", &dir)
            .env("REPOSITORY", &image.repository)
            .env("TLS_REPOSITORY", &image.tls_repository)
            .env("CA_FILE", images.ca_file())
            .env("ENROOT", enroot);
        Ok(Row::new(peer.name, step).fresh(&[&dir]).peer(rounds))
    }

    /// A directory on tmpfs for what is not shifter's.
    pub(crate) fn by_hand(&self) -> PathBuf {
        let node = self.sandbox.node_dir(&self.user);
        node.parent().map(Path::to_owned).expect("it is in the sandbox").join("by-hand")
    }
}
