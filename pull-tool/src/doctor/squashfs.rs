//! What images as single files take, where somebody wants them.

use runtime::{
    container::fuse::{self, DEVICE, Lack},
    report::chain,
    squashfs,
};

use super::{Finding, State, Who, checks::find_program};

pub(super) fn check() -> Vec<Finding> {
    vec![mount(), write()]
}

fn mount() -> Finding {
    const WHAT: &str = "FUSE";
    const LOSS: &str = "an image that is a squashfs is expanded into memory";
    let lack = match fuse::check() {
        Ok(()) => {
            let program = find_program(fuse::PROGRAM);
            let program = program.map_or(String::new(), |path| path.display().to_string());
            return Finding::new(WHAT, State::Works, format!("{DEVICE}, {program}"));
        }
        Err(lack) => lack,
    };
    let says = format!("{}: {LOSS}", chain(&lack));
    let remedy = match lack {
        Lack::Device(_) => format!("chmod 666 {DEVICE}, as udev does where it knows of it"),
        Lack::Program => format!("install {}", fuse::PACKAGE),
    };
    Finding::new(WHAT, State::Absent, says).mend(Who::Admin, remedy)
}

fn write() -> Finding {
    match find_program(squashfs::PROGRAM) {
        Some(path) => Finding::new(squashfs::PROGRAM, State::Works, path.display().to_string()),
        None => {
            let says = "not found: no pull can write a squashfs, and no container can be saved";
            let remedy = format!("install {}", squashfs::PACKAGE);
            Finding::new(squashfs::PROGRAM, State::Absent, says).mend(Who::Admin, remedy)
        }
    }
}
