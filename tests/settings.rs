//! Settings as a site, a user and a shell make them together, and what the site has for all.

use std::{fs, process::Command, sync::LazyLock};

use fixtures::{
    Fault, Faulty, Outcome, Place, Sandbox,
    image::{Built, Image, Layer},
    need,
    place::{assert_says, list},
    run,
    sample::{assert_arrived, image},
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// Runs `shifter` where the site's file says this: its /etc has one more directory.
fn at_site(place: &Place, site: &str, args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let etc = place.store.with_file_name("etc");
    SANDBOX.make_dir(etc.join("shifter"), 0o755);
    SANDBOX.write(etc.join("shifter/shifter.toml"), site);
    let inner = place.command("shifter", args);
    let mut command = Command::new("unshare");
    let script = "mount -t overlay etc -o \"lowerdir=$0:/etc\" /etc && \
                  exec setpriv --reuid=\"$1\" --regid=\"$2\" --clear-groups shifter \"${@:3}\"";
    command.args(["--mount", "bash", "-c", script]).arg(etc);
    command.args([place.user.uid.to_string(), place.user.gid.to_string()]).args(args);
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // Those that a test's place sets are the user's own word.
    for name in ["SHIFTER_CONFIG", "SHIFTER_STORE"] {
        command.env_remove(name);
    }
    command.envs(env.iter().copied());
    run(command)
}

#[test]
fn the_site_the_user_and_the_shell_speak_in_turn() {
    need!(root, userns);
    let place = place("turns");
    let registry = Faulty::serve(&image());
    let base = place.store.parent().expect("it is in the place").to_owned();
    let store = |name: &str| base.join(name).to_string_lossy().into_owned();
    let line = |name: &str| format!("store = {:?}\n", store(name));
    let user = SANDBOX.write(base.join("user.toml"), line("users"));
    let user = user.to_string_lossy().into_owned();
    let pull = ["pull", "--to", "store", &registry.name()];
    at_site(&place, &line("sites"), &pull, &[]).success();
    assert!(list(&base).contains(&"sites".to_owned()), "{:?}", list(&base));
    at_site(&place, &line("sites"), &pull, &[("SHIFTER_CONFIG", &user)]).success();
    assert!(list(&base).contains(&"users".to_owned()), "{:?}", list(&base));
    let shell = store("shells");
    let env = [("SHIFTER_CONFIG", &*user), ("SHIFTER_STORE", &*shell)];
    at_site(&place, &line("sites"), &pull, &env).success();
    assert!(list(&base).contains(&"shells".to_owned()), "{:?}", list(&base));
}

#[test]
fn what_the_site_locks_cannot_be_changed() {
    need!(root, userns);
    let place = place("locked");
    let registry = Faulty::serve(&image());
    let site = "locked = [\"store\", \"network\"]\n[network]\ntries = 2\n";
    let pull = ["pull", &registry.name()];
    let user = SANDBOX.write(place.store.with_file_name("user.toml"), "[network]\ntries = 9\n");
    let user = user.to_string_lossy().into_owned();
    for (env, says) in [
        (("SHIFTER_STORE", "/tmp/mine"), "SHIFTER_STORE: store is locked by /etc/shifter/"),
        (("SHIFTER_NETWORK_TRIES", "9"), "SHIFTER_NETWORK_TRIES: network.tries is locked by /etc"),
        (("SHIFTER_CONFIG", &*user), "user.toml: network.tries is locked by /etc/shifter/shifter"),
    ] {
        let stderr = at_site(&place, site, &pull, &[env]).failure(125);
        assert_says(&stderr, &[says]);
    }
    assert_eq!(registry.requests().len(), 0, "it began all the same");
}

#[test]
fn a_wrong_setting_is_named_and_the_right_one_suggested() {
    let registry = Faulty::serve(&image());
    for (name, text, says) in [
        (
            "typo",
            "mount = []",
            &["typo/shifter.toml, line 1: unknown field `mount`; did you mean mounts?"][..],
        ),
        ("far", "image = 1", &["unknown field `image`", "expected one of", "correct it"]),
        ("typo-in-group", "[network]\ntry = 1", &["unknown field `try`"]),
        ("lock", "locked = [\"store\"]", &["only the site's file can lock settings"]),
    ] {
        let place = place(name).with_config(text);
        assert_says(&place.pull(&registry.name()).failure(125), says);
    }
    let mut command = place("variable").command("shifter", &["pull", &registry.name()]);
    command.env("SHIFTER_NETWORK_TRIES", "many");
    assert_says(&run(command).failure(125), &["SHIFTER_NETWORK_TRIES: \"many\" is not a number"]);
}

/// A place with a site's store of these images.
fn with_site_store(name: &str, images: &[(&str, &Built)]) -> Place {
    let place = place(name);
    let mut site = place.clone();
    site.store = place.store.with_file_name("site");
    for (reference, image) in images {
        let registry = Faulty::serve(image);
        site.shifter(&["pull", "--to", "store", &registry.name()]).success();
        // Known by another registry's name from now on.
        let index = site.store.join("index.json");
        let text = fs::read_to_string(&index).expect("the index");
        fs::write(&index, text.replace(&registry.name(), reference)).expect("the index");
    }
    // Nothing is written to a site's store: it may be on a file system that cannot be.
    let read_only = Command::new("chmod").args(["-R", "a-w"]).arg(&site.store).status();
    assert!(read_only.expect("chmod").success());
    place.with_config(&format!("shared_stores = [\"/nowhere\", {:?}]", site.store))
}

#[test]
fn what_the_site_has_is_not_pulled() {
    let image = image();
    let registry = Faulty::serve(&image);
    let place = with_site_store("site-has", &[(&registry.name(), &image)]);
    registry.fail("", 1000, Fault::status(500));
    place.shifter(&["run", "--dry-run", &registry.name()]).failure(125); // it names no command
    place.shifter(&["run", &registry.name(), "/nothing"]).failure(127);
    assert_eq!(place.read("etc/version"), "1");
    assert_eq!(registry.requests().len(), 0, "the registry was asked");
    assert!(!place.store.exists(), "there is nothing to keep");
}

#[test]
fn a_pull_of_what_the_site_has_keeps_nothing() {
    let image = image();
    let registry = Faulty::serve(&image);
    let place = with_site_store("site-pull", &[(&registry.name(), &image)]);
    assert_arrived(&place, place.pull(&registry.name()));
    assert_eq!(registry.count("blobs/"), 0, "{:?}", registry.requests());
    assert!(list(&place.store.join("blobs/sha256")).is_empty());
    let again = place.pull(&registry.name());
    assert!(again.stderr.contains("is up to date"), "{again}");
}

/// An image that was built on one of the site's.
#[test]
fn layers_that_the_site_has_are_read_there() {
    need!(skopeo);
    let base = Layer::new().file("base", 0o644, fixtures::sample::noise());
    let site = Image::new().layer(base);
    let users = site.clone().layer(Layer::new().file("own", 0o644, "own"));
    let users = users.build();
    let registry = Faulty::serve(&users);
    let place = with_site_store("site-base", &[("site.example/base:1", &site.build())]);
    place.pull(&registry.name()).success();
    assert_eq!(place.read("own"), "own");
    assert_eq!(registry.count(&users.blobs()[0].digest()), 0, "the site has it");
    assert_eq!(registry.count(&users.blobs()[1].digest()), 1);
    // The user's own store is whole: other tools read it.
    assert_eq!(list(&place.store.join("blobs/sha256")).len(), 4);
    let oci = format!("oci:{}:{}", place.store.display(), registry.name());
    run(place.command("skopeo", &["inspect", &oci])).success();
}

#[test]
fn a_damaged_store_of_the_sites_is_passed_over() {
    let image = image();
    let registry = Faulty::serve(&image);
    let place = with_site_store("site-damaged", &[(&registry.name(), &image)]);
    let hex = image.blobs()[0].digest()["sha256:".len()..].to_owned();
    let blob = place.store.with_file_name("site").join("blobs/sha256").join(hex);
    let mut bytes = fs::read(&blob).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).expect("root may");
    let outcome = place.shifter(&["pull", "--to", "node", &registry.name()]);
    for text in ["is damaged; tell the administrator", "pulled"] {
        assert!(outcome.stderr.contains(text), "no {text:?}: {outcome}");
    }
    assert_arrived(&place, outcome);
    assert_eq!(registry.count(&image.blobs()[0].digest()), 1);

    let place = with_site_store("site-unreadable", &[(&registry.name(), &image)]);
    fs::write(place.store.with_file_name("site").join("index.json"), "{").expect("root may");
    let outcome = place.shifter(&["run", &registry.name(), "/nothing"]);
    for text in ["site/index.json", "pulled"] {
        assert!(outcome.stderr.contains(text), "no {text:?}: {outcome}");
    }
}
