//! `shifter-pull REF`: the same as `shifter pull REF`, under the name that sites know; and whatever else
//! `shifter` does not do itself.

fn main() -> std::process::ExitCode {
    shifter::main_pull()
}
