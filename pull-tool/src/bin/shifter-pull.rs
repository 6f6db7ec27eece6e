//! `shifter-pull REF`: the same as `shifter pull REF`, under the name that sites know.

fn main() -> std::process::ExitCode {
    shifter::main_pull()
}
