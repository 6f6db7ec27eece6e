//! What an image says that it wants of NVIDIA's driver, and whether this one has it.
//!
//! ```text
//! NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=535,driver<536
//! ```
//!
//! - As nvidia-container-toolkit reads it (`internal/requirements`): a space is "or", a comma "and", and
//!   all variables of that kind have to hold. An image that has none but a `CUDA_VERSION` wants that one.
//! - Which GPUs there are (`brand`, `arch`) only the driver's own libraries know. What is not known, or
//!   not understood, is taken to hold.
//! - It is a warning and no error, whoever asked: within a major version, CUDA's programs run on older
//!   drivers than their image was made for.

use std::{cmp::Ordering, ffi::OsString};

use super::super::{Applied, Injection};
use crate::report::printable;

const PREFIX: &str = "NVIDIA_REQUIRE_";
const CUDA: &str = "NVIDIA_REQUIRE_CUDA";
/// Of another kind of machines, by another kind of versions.
const JETPACK: &str = "NVIDIA_REQUIRE_JETPACK";
/// What the images of before `NVIDIA_REQUIRE_CUDA` have.
const VERSION: &str = "CUDA_VERSION";
/// By which whoever knows better ends the warning.
const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";

/// From which driver on which CUDA is in it (CUDA's release notes, table "CUDA Toolkit and
/// Corresponding Driver Versions").
const DRIVERS: [(u32, [u32; 2]); 26] = [
    (384, [9, 0]),
    (390, [9, 1]),
    (396, [9, 2]),
    (410, [10, 0]),
    (418, [10, 1]),
    (440, [10, 2]),
    (450, [11, 0]),
    (455, [11, 1]),
    (460, [11, 2]),
    (465, [11, 3]),
    (470, [11, 4]),
    (495, [11, 5]),
    (510, [11, 6]),
    (515, [11, 7]),
    (520, [11, 8]),
    (525, [12, 0]),
    (530, [12, 1]),
    (535, [12, 2]),
    (545, [12, 3]),
    (550, [12, 4]),
    (555, [12, 5]),
    (560, [12, 6]),
    (565, [12, 7]),
    (570, [12, 8]),
    (575, [12, 9]),
    (580, [13, 0]),
];

/// What there is on this node, for this image.
#[derive(Debug, Clone, Copy)]
struct Driver<'a> {
    /// The driver's version.
    version: &'a str,
    /// That of the libcuda which programs load: the driver's, or a newer one of the image's.
    libcuda: &'a str,
}

/// What to say about an image of these variables, in a container with those.
pub(crate) fn warning(
    image: &[String],
    env: &[(OsString, OsString)],
    injection: &Injection,
    applied: &Applied,
) -> Option<String> {
    let version = injection.edits.cuda_compat.as_ref()?;
    let driver = Driver { version, libcuda: applied.libcuda.as_ref()? };
    let is_disabled = |(name, value): &(OsString, OsString)| {
        name == DISABLE && value.to_str().is_some_and(is_true)
    };
    if env.iter().any(is_disabled) { None } else { unmet(image, driver) }
}

/// As Go's `strconv.ParseBool` has it.
fn is_true(value: &str) -> bool {
    ["1", "t", "T", "TRUE", "true", "True"].contains(&value)
}

fn unmet(env: &[String], driver: Driver<'_>) -> Option<String> {
    let variables = env.iter().filter_map(|entry| entry.split_once('='));
    let is_wanted = |name: &str| name.starts_with(PREFIX) && !name.starts_with(JETPACK);
    let stated = variables.clone().filter(|(name, _)| is_wanted(name));
    let stated = stated.map(|(name, text)| (name, text.to_owned()));
    let is_stated = variables.clone().any(|(name, text)| name == CUDA && !text.is_empty());
    let old = variables.filter(|(name, _)| *name == VERSION && !is_stated);
    let old = old.filter_map(|(name, text)| {
        let version: Vec<_> = text.split('.').take(2).collect();
        Version::parse(&version.join(".")).map(|_| (name, format!("cuda>={}", version.join("."))))
    });
    let (name, text) = stated.chain(old).find(|(_, text)| driver.any(text) == Some(false))?;
    let mut terms = text.split_whitespace();
    let more = if terms.clone().count() > 1 { " …" } else { "" };
    let first = printable(terms.next().unwrap_or_default());
    let has = match cuda(driver.libcuda) {
        Some((Version(cuda), Limit::Exact)) => format!(" has CUDA {}.{}", cuda[0], cuda[1]),
        _ => " does not have that".to_owned(),
    };
    Some(format!(
        "the image requires {first}{more} ({name}), and NVIDIA's driver {}{has}: its programs may \
         fail; use an older image, or ask for a newer driver; {DISABLE}=1 ends this warning",
        printable(driver.version)
    ))
}

impl Driver<'_> {
    /// Whether one of the terms holds; `None` if that cannot be known.
    fn any(&self, text: &str) -> Option<bool> {
        let mut holds = text.split_whitespace().map(|term| self.all(term)).peekable();
        holds.peek()?;
        holds.try_fold(false, |any, holds| Some(any | holds?)).or(Some(true))
    }

    fn all(&self, term: &str) -> Option<bool> {
        let factors = term.split(',').filter(|factor| !factor.is_empty());
        let held: Vec<_> = factors.map(|factor| self.holds(factor)).collect();
        match () {
            () if held.contains(&Some(false)) => Some(false),
            () if held.contains(&None) => None,
            () => Some(true),
        }
    }

    fn holds(&self, factor: &str) -> Option<bool> {
        let at = factor.find(['<', '>', '=', '!'])?;
        let (property, rest) = factor.split_at(at);
        let operators = ["!=", "<=", ">=", "=", "<", ">"];
        let operator = operators.iter().find(|operator| rest.starts_with(**operator))?;
        let (own, limit) = match property {
            "driver" => (Version::parse(self.version)?, Limit::Exact),
            "cuda" => cuda(self.libcuda)?,
            _ => return None,
        };
        let wanted = Version::parse(&rest[operator.len()..])?;
        let order = own.cmp(&wanted);
        // A driver that came after the table may have any later CUDA.
        if limit == Limit::AtLeast && order == Ordering::Less {
            return None;
        }
        Some(match *operator {
            "!=" => order.is_ne(),
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "=" => order.is_eq(),
            "<" => order.is_lt(),
            _ => order.is_gt(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Exact,
    AtLeast,
}

/// The CUDA of a driver.
fn cuda(driver: &str) -> Option<(Version, Limit)> {
    let Version([major, ..]) = Version::parse(driver)?;
    let (from, [first, second]) = DRIVERS.iter().rev().find(|(from, _)| *from <= major)?;
    let is_known = *from == major || DRIVERS.last().is_some_and(|(last, _)| last > from);
    let limit = if is_known { Limit::Exact } else { Limit::AtLeast };
    Some((Version([*first, *second, 0]), limit))
}

/// Numbers with dots between them; those that are not said are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version([u32; 3]);

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let mut version = Version([0; 3]);
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > version.0.len() {
            return None;
        }
        for (number, part) in version.0.iter_mut().zip(parts) {
            *number = part.parse().ok()?;
        }
        Some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(env: &[&str], version: &str, libcuda: &str) -> Option<String> {
        let env: Vec<_> = env.iter().map(|&entry| entry.to_owned()).collect();
        unmet(&env, Driver { version, libcuda })
    }

    /// As nvidia/cuda:12.4 has it, but for some of its brands.
    const REAL: &str = "NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470,driver<471 \
                        brand=unknown,driver>=470,driver<471 brand=tesla,driver>=535,driver<536";

    #[test]
    fn a_space_is_or_and_a_comma_is_and() {
        for (driver, holds) in [
            ("550.54.15", true),
            ("535.54.03", true),
            ("470.199.02", true),
            ("545.23.08", false),
            ("525.60.13", false),
            ("460.27.04", false),
            // Later than what is known here.
            ("610.11", true),
        ] {
            assert_eq!(said(&[REAL], driver, driver).is_none(), holds, "{driver}");
        }
        let text = said(&[REAL], "525.60.13", "525.60.13").unwrap();
        assert!(text.starts_with("the image requires cuda>=12.4 … (NVIDIA_REQUIRE_CUDA), and"));
        assert!(text.contains("NVIDIA's driver 525.60.13 has CUDA 12.0: "), "{text}");
        assert!(text.contains("NVIDIA_DISABLE_REQUIRE=1"), "{text}");
    }

    #[test]
    fn each_operator_is_what_it_says() {
        let driver = "535.54.03";
        for (text, holds) in [
            ("cuda>=12.2", true),
            ("cuda>12.2", false),
            ("cuda<=12.2", true),
            ("cuda<12.2", false),
            ("cuda=12.2", true),
            ("cuda!=12.2", false),
            ("cuda>=12", true),
            ("cuda<13", true),
            ("driver>=535.54.3", true),
            ("driver>=535.104", false),
            ("driver<536,driver>=536", false),
            ("driver<530 driver>540", false),
            // What is not known or understood speaks against nobody.
            ("brand=tesla", true),
            ("arch>=9.0", true),
            ("brand=tesla,cuda>=13.0", false),
            ("cuda>=13.0 brand=tesla", true),
            ("cuda", true),
            ("cuda>=soon", true),
            ("cuda>=1.2.3.4", true),
            ("", true),
            (" , ", true),
        ] {
            let entry = format!("NVIDIA_REQUIRE_X={text}");
            assert_eq!(said(&[&entry], driver, driver).is_none(), holds, "{text}");
        }
    }

    #[test]
    fn all_variables_have_to_hold_and_old_images_have_another() {
        let driver = "535.54.03";
        let is_met = |env: &[&str]| said(env, driver, driver).is_none();
        assert!(!is_met(&["NVIDIA_REQUIRE_CUDA=cuda>=12.0", "NVIDIA_REQUIRE_DRIVER=driver>=540"]));
        assert!(is_met(&["NVIDIA_REQUIRE_JETPACK=cuda>=99"]));
        assert!(is_met(&["CUDA_VERSION=12.2.140"]));
        let text = said(&["CUDA_VERSION=12.4.1"], driver, driver).unwrap();
        assert!(text.contains("requires cuda>=12.4 (CUDA_VERSION)"), "{text}");
        assert!(is_met(&["CUDA_VERSION=12.4.1", "NVIDIA_REQUIRE_CUDA=cuda>=12.0"]));
        assert!(is_met(&["CUDA_VERSION=newest"]));
    }

    #[test]
    fn a_newer_libcuda_of_the_images_counts() {
        let wanted = ["NVIDIA_REQUIRE_CUDA=cuda>=12.4"];
        assert!(said(&wanted, "535.54.03", "535.54.03").is_some());
        assert!(said(&wanted, "535.54.03", "550.54.15").is_none());
        assert!(said(&["NVIDIA_REQUIRE_X=driver>=550"], "535.54.03", "550.54.15").is_some());
        assert!(is_true("true") && !is_true("yes") && !is_true(""));
    }
}
