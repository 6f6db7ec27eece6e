//! Hooks of CDI files, done here instead of run.
//!
//! A hook is a program of the host that changes a container's tree from outside. Those of NVIDIA do
//! few things, all of which are data: links, directories for the linker, a file that is shown with
//! another content (nvidia-container-toolkit, `cmd/nvidia-cdi-hook`). Whatever else there is can do
//! anything, as nobody knows who: it is refused by its name.

use std::path::{Path, PathBuf};

use super::{
    super::{Edits, Error, Link, gpu::nvidia},
    spec::Hook,
};
use crate::options::check_target;

/// Programs that these hooks belong to; the second was the first's name once.
const PROGRAMS: [&str; 3] = ["nvidia-cdi-hook", "nvidia-ctk", "nvidia-ctk-hook"];

/// What a hook does.
pub(super) fn edits(hook: &Hook, by: &Path, ignored: &[String]) -> Result<Edits, Error> {
    let program = Path::new(&hook.path).file_name().unwrap_or_default().to_string_lossy();
    let mut arguments = hook.args.iter().skip(1).map(String::as_str).peekable();
    let is_nvidias = PROGRAMS.contains(&&*program);
    // nvidia-ctk has other commands.
    arguments.next_if(|word| is_nvidias && *word == "hook");
    let name = arguments.peek().copied().filter(|_| is_nvidias).unwrap_or(&program).to_owned();
    if ignored.contains(&name) {
        return Ok(Edits::default());
    }
    let unknown = || Error::Hook { hook: name.clone(), by: by.to_owned() };
    if !is_nvidias {
        return Err(unknown());
    }
    let arguments: Vec<&str> = arguments.skip(1).collect();
    let mut edits = Edits::default();
    match name.as_str() {
        "create-symlinks" => {
            for text in values(&arguments, "link") {
                let parts = text.split_once("::").filter(|(target, _)| !target.is_empty());
                let (target, path) = parts.ok_or_else(unknown)?;
                if let Err(problem) = check_target(path) {
                    let problem = format!("link {path:?}: {problem}");
                    return Err(Error::File { path: by.to_owned(), line: None, problem });
                }
                edits.symlinks.push(Link { path: path.into(), target: target.into() });
            }
        }
        // Names by which libraries are asked for are always made into links where they lie.
        "update-ldcache" | "create-soname-symlinks" => {
            let folders = values(&arguments, "folder").map(PathBuf::from);
            edits.ld_dirs = folders.filter(|dir| dir.is_absolute()).collect();
        }
        "enable-cuda-compat" => {
            let mut version = values(&arguments, "host-driver-version");
            edits.cuda_compat = version.next().map(str::to_owned);
        }
        "disable-device-node-modification" => {
            edits.masks = nvidia::params(Path::new(nvidia::PARAMS))
        }
        // Directories of devices are the host's; profiles are of OpenGL.
        "chmod" | "update-application-profile" => {}
        _ => return Err(unknown()),
    }
    Ok(edits)
}

/// Values of a flag: `--flag VALUE`, `--flag=VALUE`, with one dash or two.
fn values<'a>(arguments: &'a [&str], flag: &'a str) -> impl Iterator<Item = &'a str> {
    arguments.iter().enumerate().filter_map(move |(at, word)| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        match word.strip_prefix(flag)? {
            "" => arguments.get(at + 1).copied(),
            rest => rest.strip_prefix('='),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str]) -> Hook {
        let json = serde_json::json!({"hookName": "createContainer", "path": path, "args": args});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn nvidias_hooks_are_edits() {
        let do_it = |path: &str, args: &[&str]| edits(&hook(path, args), Path::new("/f"), &[]);
        for (path, words) in [
            ("/usr/bin/nvidia-cdi-hook", &["nvidia-cdi-hook"][..]),
            ("/usr/bin/nvidia-ctk", &["nvidia-ctk", "hook"]),
        ] {
            let args = |rest: &[&'static str]| [words, rest].concat();
            let links = ["create-symlinks", "--link", "a.so.1::/l/a.so", "--link=b::/l/c"];
            let made = do_it(path, &args(&links)).unwrap().symlinks;
            let link = |path: &str, target: &str| Link { path: path.into(), target: target.into() };
            assert_eq!(made, [link("/l/a.so", "a.so.1"), link("/l/c", "b")]);
            let folders = ["update-ldcache", "--folder", "/l", "--ldconfig-path", "/x"];
            assert_eq!(do_it(path, &args(&folders)).unwrap().ld_dirs, [Path::new("/l")]);
            let compat = ["enable-cuda-compat", "--host-driver-version=999.88.77"];
            let compat = do_it(path, &args(&compat)).unwrap().cuda_compat;
            assert_eq!(compat.as_deref(), Some("999.88.77"));
            let chmod = ["chmod", "--mode", "755", "--path", "/dev/dri"];
            assert_eq!(do_it(path, &args(&chmod)).unwrap(), Edits::default());
            do_it(path, &args(&["disable-device-node-modification"])).unwrap();
            let odd = do_it(path, &args(&["format-disk"])).unwrap_err().to_string();
            assert_eq!(odd, "use CDI file /f: its hook \"format-disk\" is not supported");
            do_it(path, &args(&["create-symlinks", "--link", "a::b"])).unwrap_err();
        }
    }

    #[test]
    fn other_hooks_are_refused_or_passed_over_by_name() {
        let other = hook("/opt/vendor/setup", &["setup", "create-symlinks", "--link", "a::/b"]);
        let refused = edits(&other, Path::new("/f"), &[]).unwrap_err().to_string();
        assert!(refused.contains("\"setup\" is not supported"), "{refused}");
        let passed = edits(&other, Path::new("/f"), &["setup".to_owned()]).unwrap();
        assert_eq!(passed, Edits::default());
    }
}
