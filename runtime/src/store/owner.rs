//! Who a process is, in words that others can hold against what the kernel knows.

use std::{fs, os::unix::fs::MetadataExt, sync::LazyLock};

use nix::unistd::{Pid, gethostname};

use crate::sys::process::{is_there, start_time};

/// One process among all that share a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// Where its number means something: one run of one kernel, and one space of process numbers in
    /// it. Letters and digits; empty if it is not known.
    pub(super) place: String,
    /// Its number there.
    pub(super) pid: i32,
    /// When it started, in the kernel's ticks: numbers come again.
    pub(super) start: u64,
    /// The machine's name, for people.
    pub(super) host: String,
}

static OWN: LazyLock<Owner> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot: String = id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let numbers = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    let host = gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    let is_odd = |c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c));
    Owner {
        place: if boot.is_empty() { String::new() } else { format!("{boot}n{numbers}") },
        pid: Pid::this().as_raw(),
        start: start_time(Pid::this()).unwrap_or(0),
        host: host.filter(|name| !name.is_empty()).unwrap_or_default().replace(is_odd, "_"),
    }
});

impl Owner {
    /// The calling process.
    pub(super) fn own() -> &'static Owner {
        &OWN
    }

    /// Reads what [`Display`](std::fmt::Display) writes.
    pub(super) fn parse(line: &str) -> Option<Owner> {
        let mut words = line.split(' ');
        let owner = Owner {
            place: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            start: words.next()?.parse().ok()?,
            host: words.next()?.to_owned(),
        };
        words.next().is_none().then_some(owner)
    }

    /// Whether this process is there; `None` if only another machine can tell.
    pub(super) fn is_alive(&self, here: &Owner) -> Option<bool> {
        (!self.place.is_empty() && self.place == here.place)
            .then(|| is_there(Pid::from_raw(self.pid), Some(self.start)))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {}", self.place, self.pid, self.start, self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_shares_a_kernel_and_its_numbers_can_be_asked_for() {
        let own = Owner::own();
        assert_eq!(Owner::parse(&own.to_string()).as_ref(), Some(own));
        assert_eq!(own.is_alive(own), Some(true));
        let gone = Owner { pid: i32::MAX, ..own.clone() };
        assert_eq!(gone.is_alive(own), Some(false));
        let reused = Owner { start: own.start + 1, ..own.clone() };
        assert_eq!(reused.is_alive(own), Some(false), "another process has its number by now");
        let elsewhere = Owner { place: "another".to_owned(), ..gone };
        assert_eq!(elsewhere.is_alive(own), None, "its number says nothing here");
        assert_eq!(Owner::parse("a b c d"), None);
    }
}
