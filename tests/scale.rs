//! Images of many files and of many layers: all of it arrives, and nothing else.

use std::{fs, sync::LazyLock};

use fixtures::{
    Place, Registry, Sandbox,
    image::{Compression, Image, Layer, tiny_files},
    need,
    place::list,
    run,
};

struct Site {
    sandbox: Sandbox,
    registry: Registry,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    Site { sandbox, registry }
});

/// Pulls an image to the node.
fn pull(name: &str, image: &Image) -> Place {
    let place = Place::new(&SITE.sandbox, name);
    SITE.registry.push(&format!("{name}:1"), &image.build());
    let reference = SITE.registry.name(&format!("{name}:1"));
    run(place.command("shifter-pull", &["--to", "node", &reference])).success();
    place
}

#[test]
fn a_layer_of_100_000_files_is_all_there() {
    need!(root, registry);
    const FILES: usize = 100_000;
    let place = pull("files", &tiny_files(FILES, 1));
    let (root, mut count) = (place.rootfs(), 0);
    for dir in list(&root) {
        for file in list(&root.join(&dir)) {
            // Each holds its own name.
            let path = format!("{dir}/{file}");
            let content = fs::read_to_string(root.join(&path)).expect("a file can be read");
            assert_eq!(content, path);
            count += 1;
        }
    }
    assert_eq!(count, FILES);
}

/// Each layer has something to say to the one below: it replaces a file, removes one, empties a
/// directory, links to a file.
#[test]
fn a_stack_of_128_layers_is_applied_in_order() {
    need!(root, registry);
    const LAYERS: usize = 128;
    let layer = |n: usize| {
        let own = Layer::new()
            .file("version", 0o644, n.to_string())
            .file(&format!("kept/{n}"), 0o644, n.to_string())
            .file(&format!("short/{n}"), 0o644, "")
            .opaque("emptied")
            .file(&format!("emptied/{n}"), 0o644, "");
        match n.checked_sub(1) {
            None => own,
            Some(below) => own
                .whiteout(&format!("short/{below}"))
                .hardlink(&format!("linked/{n}"), &format!("kept/{below}")),
        }
    };
    let packed = [Compression::Gzip, Compression::Zstd, Compression::None];
    let image = (0..LAYERS)
        .fold(Image::new(), |image, n| image.layer_as(layer(n), packed[n % packed.len()]));
    let place = pull("layers", &image);
    let last = (LAYERS - 1).to_string();
    assert_eq!(place.read("version"), last);
    let names = |dir: &str| list(&place.rootfs().join(dir));
    assert_eq!(names(""), ["emptied", "kept", "linked", "short", "version"]);
    assert_eq!(names("emptied"), [last.as_str()]);
    assert_eq!(names("short"), [last.as_str()]);
    assert_eq!((names("kept").len(), names("linked").len()), (LAYERS, LAYERS - 1));
    for n in 0..LAYERS {
        assert_eq!(place.read(&format!("kept/{n}")), n.to_string());
    }
    for n in 1..LAYERS {
        assert_eq!(place.read(&format!("linked/{n}")), (n - 1).to_string());
    }
}
