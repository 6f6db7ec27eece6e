//! Limits to what a user may store, in words.

use std::{fs, path::PathBuf, process::Command};

use fixtures::{Place, need, place::assert_says, run};

use crate::{SITE, names, small};

/// A file system of its own, mounted until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Of which the place's user may have 8 MiB.
    fn with_quota(place: &Place) -> Disk {
        let image = place.store.with_file_name("disk");
        let file = fs::File::create(&image).expect("create");
        file.set_len(256 << 20).expect("a sparse file");
        let mount = place.store.with_file_name("mount");
        fs::create_dir(&mount).expect("create");
        let (image, at) = (image.display().to_string(), mount.display().to_string());
        let tell = |program: &str, args: &[&str]| {
            let mut command = Command::new(fixtures::need::find(program).expect(program));
            command.args(args);
            run(command).success()
        };
        tell("mkfs.btrfs", &["-q", &image]);
        tell("mount", &["-o", "loop", &image, &at]);
        let disk = Disk(mount);
        tell("btrfs", &["quota", "enable", &at]);
        tell("btrfs", &["qgroup", "limit", "8M", &at]);
        tell("chmod", &["1777", &at]);
        disk
    }

    fn full(place: &Place) -> Disk {
        let mount = place.store.with_file_name("mount");
        fs::create_dir(&mount).expect("create");
        let mut command = Command::new(fixtures::need::find("mount").expect("mount"));
        command.args(["-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs"]).arg(&mount);
        run(command).success();
        Disk(mount)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut command = Command::new(fixtures::need::find("umount").expect("umount"));
        command.arg(&self.0);
        assert_eq!(run(command).code, 0, "the disk stays mounted");
    }
}

/// Bytes that no compression makes fewer.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_quota_is_called_the_users() {
    need!(root, registry, quota);
    let mut place = SITE.place("quota");
    let disk = Disk::with_quota(&place);
    place.store = disk.0.join("store");
    let fits =
        small("fits", 0).layer(fixtures::image::Layer::new().file("n", 0o644, noise(1 << 20)));
    let (fits, _) = SITE.push("quota:fits", &fits);
    let large = fixtures::image::Layer::new().file("n", 0o644, noise(12 << 20));
    let (large, _) = SITE.push("quota:large", &fixtures::image::Image::new().layer(large));
    place.shifter(&["pull", "--to", "store", &fits]).success();
    let stderr = place.shifter(&["pull", "--to", "store", &large]).failure(125);
    let mount = disk.0.to_string_lossy().into_owned();
    let says = format!("your quota on {mount} is used up; remove images");
    assert_says(&stderr, &[&large, &format!("write {mount}/store: {says}")]);
    assert_eq!(names(&place, &[]), std::slice::from_ref(&fits));
    // To the last byte: it can be removed all the same.
    let filler = disk.0.join("filler");
    let script =
        format!("cat /dev/zero > {0}; for i in $(seq 40); do echo > {0}$i; done", filler.display());
    run(place.command("sh", &["-c", &script]));
    place.shifter(&["rmi", &fits]).success();
    assert!(names(&place, &[]).is_empty() && crate::blobs(&place).is_empty());
}

#[test]
fn a_full_disk_is_called_full() {
    need!(root, registry);
    let mut place = SITE.place("full");
    let disk = Disk::full(&place);
    place.store = disk.0.join("store");
    place.shifter(&["images"]).success();
    let (name, _) = SITE.push("full:1", &small("full", 0));
    let fill = disk.0.join("filler");
    place.shifter(&["pull", "--to", "store", &name]).success();
    let command = format!("cat /dev/zero > {}", fill.display());
    run(place.command("sh", &["-c", &command]));
    let (other, _) = SITE.push("full:2", &small("full 2", 0));
    let stderr = place.shifter(&["pull", "--to", "store", &other]).failure(125);
    assert_says(&stderr, &[&other, "is full"]);
    place.shifter(&["rmi", &name]).success();
    assert!(names(&place, &[]).is_empty());
}

#[test]
fn a_store_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    need!(root, registry);
    let place = SITE.place("closed");
    let (name, _) = SITE.push("closed:1", &small("closed", 0));
    place.pull(&name).success();
    for dir in ["", "blobs", "blobs/sha256", "partial", "locks"] {
        let mode = fs::metadata(place.store.join(dir)).expect(dir).permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{dir}");
    }
}
