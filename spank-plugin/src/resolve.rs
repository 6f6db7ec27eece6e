//! What an image's name stands for when the job is submitted.
//!
//! All of its nodes then run the same image, though the tag may move while the job waits; none of them
//! asks the registry for it; and a name that is wrong is told at once. The launcher asks: the plugin has
//! no network. Only clients do this, as the user: nothing is started in slurmd or slurmstepd.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant},
};

use runtime::{Digest, Reference, options::Tag, request::Resolved};

use crate::{client::lock, log, settings::Settings};

/// Longest wait for the launcher, which itself waits for less.
const PATIENCE: Duration = Duration::from_secs(12);
const TICK: Duration = Duration::from_millis(1);

/// What was found out for an earlier component of a heterogeneous job: theirs is the same image.
static KNOWN: Mutex<Option<(Reference, Digest)>> = Mutex::new(None);

/// Finds out what a name stands for; `None` if that cannot be found out here. `Err` says why no node
/// could have the image.
pub(crate) fn resolve(
    reference: &Reference,
    tag: Option<Tag>,
    settings: &Settings,
) -> Result<Option<Digest>, String> {
    if let Some((_, digest)) = lock(&KNOWN).as_ref().filter(|(known, _)| known == reference) {
        return Ok(Some(digest.clone()));
    }
    match ask(reference, tag, settings) {
        Some(Resolved::Digest(digest)) => {
            *lock(&KNOWN) = Some((reference.clone(), digest.clone()));
            Ok(Some(digest))
        }
        Some(Resolved::Refused(why)) => Err(why),
        Some(Resolved::Unknown(why)) => {
            log::notice(&format!("{why}; the job's first node will ask again"));
            Ok(None)
        }
        // Where jobs are submitted it need not be installed.
        None => Ok(None),
    }
}

fn ask(reference: &Reference, tag: Option<Tag>, settings: &Settings) -> Option<Resolved> {
    let mut command = Command::new(&settings.launcher);
    command.arg("resolve").arg(reference.to_string());
    command.args((tag == Some(Tag::Fresh)).then_some("--fresh"));
    command.args(settings.config.iter().flat_map(|site| ["--site".as_ref(), site.as_os_str()]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if began.elapsed() < PATIENCE => sleep(TICK),
            _ => {
                // It may have ended by now.
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
        }
    }
    // One short line, which the pipe holds.
    let mut line = Vec::new();
    child.stdout.take()?.read_to_end(&mut line).ok()?;
    Resolved::from_line(&line)
}
