//! Which Slurm this is.
//!
//! From 22.05 on Slurm loads a plugin only if the release in its `plugin_version` is Slurm's own,
//! so one file for all of them has to say whatever it is asked for. The number of Slurm's
//! programming interface, which is there at run time, tells the release.

/// The newest interface whose release is known, not computed: 26.05.
const NEWEST_KNOWN: u32 = 45;

/// Returns the `SLURM_VERSION_NUMBER` of an interface's release, its last part 0 since SPANK
/// plugins are not held to it; 0 for interfaces too old to tell.
pub(crate) fn version_number(api: u32) -> u32 {
    let (year, month) = match api {
        36 => (20, 11),
        37 => (21, 8),
        38 => (22, 5),
        39 => (23, 2),
        40 => (23, 11),
        // Two releases a year, in May and November, since then.
        41..=400 => (24 + (api - 41) / 2, if api % 2 == 1 { 5 } else { 11 }),
        _ => return 0,
    };
    year << 16 | month << 8
}

/// Tells whether the release is newer than this plugin, and its number therefore a guess.
pub(crate) fn is_guess(api: u32) -> bool {
    api > NEWEST_KNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_its_number() {
        for (api, version) in [
            (35, 0),
            (36, 0x14_0b_00),
            (37, 0x15_08_00),
            (38, 0x16_05_00),
            (39, 0x17_02_00),
            (40, 0x17_0b_00),
            (41, 0x18_05_00),
            (42, 0x18_0b_00),
            (43, 0x19_05_00),
            (44, 0x19_0b_00),
            (45, 0x1a_05_00),
            (46, 0x1a_0b_00),
            (u32::MAX, 0),
        ] {
            assert_eq!(version_number(api), version, "interface {api}");
        }
        assert!(!is_guess(45) && is_guess(46));
    }
}
