//! From a squashfs file to a layer's archive, by `unsquashfs`.
//!
//! A squashfs is hostile input to a program in C, which has followed names out of its directory
//! before (CVE-2021-40153, CVE-2021-41072; of singularity's use of it, CVE-2020-15229). It runs
//! where that directory is all that can be written to.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Error, Made, Options,
    input::{Input, failed},
    made,
    pack::Workshop,
    tree::{self, LeftOut, Owner},
};
use crate::{
    config::Config,
    digest::Digest,
    oci::{Platform, RunConfig},
    pull::{self, Event, Summary, To},
    squashfs,
    store::{Lock, Node, ROOTFS, Room, Stage},
    sys::confine::{Identity, confine},
};

const PROGRAM: &str = "unsquashfs";
const PACKAGE: &str = "squashfs-tools";
/// How often the program is looked after.
const TICK: Duration = Duration::from_millis(20);
/// Memory that is left free.
const RESERVE: u64 = 64 << 20;

/// Makes a layer of a squashfs file.
pub(super) fn pack(input: &Input, workshop: &Workshop<'_>) -> Result<Made, Error> {
    let node = Node::open(&workshop.config.node_dir).map_err(pull::Error::Node)?;
    // Whoever imports the same file at the same time waits.
    let key = Digest::of(format!("import {}", input.path.display()).as_bytes());
    let lock = node.lock(&key, || workshop.say("waiting for another import of the same file"));
    let lock = lock.map_err(pull::Error::Node)?;
    let stage = node.stage(&lock).map_err(pull::Error::Node)?;
    workshop.check()?;
    let (dir, devices) = unpack(input, &node, &stage, workshop)?;
    let left_out = LeftOut { devices, ..LeftOut::default() };
    let made = tree::pack(&dir, Owner::Us, left_out, workshop)?;
    Ok(Made {
        created: made::time_of(&input.path, input.is_stdin),
        run: run_config(input)?,
        ..made
    })
}

/// How it is run, where that is written behind it.
pub(super) fn run_config(input: &Input) -> Result<RunConfig, Error> {
    let file = File::open(&input.path).map_err(failed("open", &input.path))?;
    Ok(squashfs::config(&file).unwrap_or_default())
}

/// Makes the tree of an image of a squashfs file. `check` has the last word before others see it.
pub(super) fn expand(
    input: &Input,
    digest: &Digest,
    node: &Node,
    lock: &Lock,
    check: impl Fn() -> Result<(), Error>,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    let began = Instant::now();
    let (size, room) = (input.whole()?.size, node.room().map_err(pull::Error::Node)?);
    // The packed size is all that is known before: less than that is never enough.
    if room.free < size {
        return Err(pull::no_space(node.path(), "SHIFTER_NODE_DIR", size, room).into());
    }
    tell(Event::Begin { digest, layers: 1, bytes: size });
    let options = Options { to: To::Node, platform: Platform::host(), run: RunConfig::default() };
    let workshop = Workshop::open(input, &options, config, tell);
    let stage = node.stage(lock).map_err(pull::Error::Node)?;
    unpack(input, node, &stage, &workshop)?;
    workshop.check()?;
    check()?;
    stage.commit().map_err(pull::Error::Node)?;
    let summary =
        Summary { bytes: size, fetched: size, total: began.elapsed(), ..Summary::default() };
    workshop.tell(Event::End(&summary));
    Ok(())
}

/// Unpacks a squashfs into a new directory of a stage's, and returns that and how many devices are
/// not in it.
fn unpack(
    input: &Input,
    node: &Node,
    stage: &Stage<'_>,
    workshop: &Workshop<'_>,
) -> Result<(PathBuf, u64), Error> {
    let system = |error| failed("unpack", &input.path)(error);
    let dir = stage.path().join(ROOTFS);
    let log = stage.path().join("said");
    let said = File::create_new(&log).map_err(failed("create", &log))?;
    let mut command = Command::new(PROGRAM);
    command
        .args(["-no-progress", "-quiet", "-user-xattrs", "-dest"])
        .arg(&dir)
        .arg(std::path::absolute(&input.path).map_err(system)?)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said);
    confine(&mut command, stage.path(), Identity::Own).map_err(system)?;
    let begun = node.room().map_err(pull::Error::Node)?;
    let child = command.spawn().map_err(|source| Error::NoProgram {
        program: PROGRAM,
        package: PACKAGE,
        source,
    })?;
    let status = watch(child, node, begun, workshop)?;
    let text = fs::read(&log).map_err(failed("read", &log))?;
    fs::remove_file(&log).map_err(failed("remove", &log))?;
    let devices = judge(status, &String::from_utf8_lossy(&text)).map_err(|said| {
        match said.contains("No space left on device") {
            true => pull::no_space(node.path(), "SHIFTER_NODE_DIR", begun.free, begun).into(),
            false => Error::Program { program: PROGRAM, file: input.shown.clone(), said },
        }
    })?;
    Ok((dir, devices))
}

/// Waits for the program to end; ends it when a signal comes, or before it takes the memory that
/// others need.
fn watch(
    mut child: Child,
    node: &Node,
    begun: Room,
    workshop: &Workshop<'_>,
) -> Result<ExitStatus, Error> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => sleep(TICK),
            Err(source) => return Err(failed("wait for", Path::new(PROGRAM))(source)),
        }
        let room = node.room().map_err(pull::Error::Node);
        let is_full = room.as_ref().is_ok_and(|room| room.free < RESERVE);
        if let Err(error) = workshop.check().and(room.map_err(Error::from))
            && end(&mut child)
        {
            return Err(error);
        }
        if let Some(needed) = is_full.then_some(begun.free)
            && end(&mut child)
        {
            return Err(pull::no_space(node.path(), "SHIFTER_NODE_DIR", needed, begun).into());
        }
    }
}

fn end(child: &mut Child) -> bool {
    // It may have ended by itself; either way it is gone.
    let _ = child.kill();
    let _ = child.wait();
    true
}

/// How many devices it could not make, as nobody but root can; or what went wrong.
fn judge(status: ExitStatus, said: &str) -> Result<u64, String> {
    let is_device = |line: &&str| line.contains("device") && line.starts_with("create_inode: ");
    // In its user namespace root is nobody to the others; and not every file system has attributes.
    let is_owner = |line: &&str| line.contains("failed to change uid");
    let is_attribute = |line: &&str| line.starts_with("write_xattr: ");
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let devices = said.lines().filter(is_device).count() as u64;
    let trouble = lines.find(|line| !is_device(line) && !is_owner(line) && !is_attribute(line));
    match (status.code(), trouble) {
        (Some(0), _) | (Some(2), None) => Ok(devices),
        (_, Some(line)) => Err(line.trim().to_owned()),
        (_, None) => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn devices_are_no_failure_and_all_else_is() {
        let device = "create_inode: could not create character device /x/null, because you're not \
                      superuser!\n";
        let full = "write_file: failed to write file /x/a, because No space left on device\n";
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(judge(ended(0), ""), Ok(0));
        assert_eq!(judge(ended(2), &device.repeat(3)), Ok(3));
        assert_eq!(judge(ended(2), &[device, full].concat()), Err(full.trim().to_owned()));
        let fatal = "FATAL ERROR: File system corrupted\n";
        assert_eq!(judge(ended(1), fatal), Err(fatal.trim().to_owned()));
        assert!(judge(ExitStatus::from_raw(9), "").is_err_and(|said| said.contains("signal")));
    }
}
