//! Mounts as people write them.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// Flags of mounts that say what is so anyway: nothing that is mounted inside is seen outside.
const VAIN_FLAGS: [&str; 6] = ["bind", "private", "rbind", "rprivate", "rslave", "slave"];

/// What a mount in docker's long form may say.
const KEYS: &str = "expected type, source, target, readonly, tmpfs-size, tmpfs-mode or noexec";

/// Whether what is mounted can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// As far as its own permissions go.
    #[serde(rename = "rw")]
    ReadWrite,
    /// Never.
    #[serde(rename = "ro")]
    ReadOnly,
}

/// Whether programs can be started from what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exec {
    /// As far as their modes go.
    Allowed,
    /// Never.
    Refused,
}

/// A mount as people write it: `SRC[:DST[:ro|rw]]`, or docker's list of `key=value`.
///
/// ```
/// use runtime::options::MountSpec;
///
/// let spec: MountSpec = "/scratch:/data:ro".parse()?;
/// assert_eq!(spec, "type=bind,source=/scratch,target=/data,readonly".parse()?);
/// assert_eq!(spec.to_string(), "/scratch:/data:ro");
/// # Ok::<(), runtime::options::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MountSpec {
    /// A file or directory of the host.
    Bind(Bind),
    /// Memory.
    Tmpfs(Tmpfs),
}

/// A file or directory of the host, with all that is mounted below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) access: Access,
}

/// Memory, empty at first and gone with the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    pub(crate) target: String,
    /// Most bytes in it; the kernel's default is half of the node's memory.
    pub(crate) size: Option<u64>,
    /// Mode of its root; everybody's, with the sticky bit, by default.
    pub(crate) mode: Option<u32>,
    pub(crate) exec: Exec,
}

impl MountSpec {
    /// Reads what somebody types who stands in `cwd`: the source may be relative, or begin with
    /// `~` for `home`.
    pub fn typed(
        text: &str,
        cwd: Option<&Path>,
        home: Option<&Path>,
    ) -> Result<MountSpec, ParseError> {
        let source = |source: &str| absolute(source, cwd, home);
        read(text, source).map_err(|problem| ParseError::new("mount", text, problem))
    }

    /// Reads docker's `--tmpfs`: `DST[:size=SIZE,mode=MODE,noexec]`.
    pub fn tmpfs(text: &str) -> Result<MountSpec, ParseError> {
        let refuse = |problem| ParseError::new("tmpfs", text, problem);
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let mut spec = Tmpfs::at(target);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match spec.set(option).map_err(refuse)? {
                Known::Yes => {}
                Known::No => {
                    return Err(refuse("expected size=SIZE, mode=MODE or noexec after the colon"));
                }
            }
        }
        check_target(target).map_err(refuse)?;
        Ok(MountSpec::Tmpfs(spec))
    }
}

impl FromStr for MountSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<MountSpec, ParseError> {
        let source = |source: &str| Ok(source.to_owned());
        read(text, source).map_err(|problem| ParseError::new("mount", text, problem))
    }
}

/// Whether an option of a mount is one of those that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    No,
}

impl Tmpfs {
    pub(crate) fn at(target: &str) -> Tmpfs {
        Tmpfs { target: target.to_owned(), size: None, mode: None, exec: Exec::Allowed }
    }

    /// Takes an option as mount(8) and docker have it.
    pub(crate) fn set(&mut self, option: &str) -> Result<Known, &'static str> {
        match option.split_once('=') {
            Some(("size", size)) => self.size = Some(parse_size(size)?),
            Some(("mode", mode)) => self.mode = Some(parse_mode(mode)?),
            None if option == "noexec" => self.exec = Exec::Refused,
            // So it is.
            None if ["rw", "exec", "nosuid", "nodev"].contains(&option) => {}
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }
}

type Resolve<'a> = &'a dyn Fn(&str) -> Result<String, &'static str>;

fn read(
    text: &str,
    resolve: impl Fn(&str) -> Result<String, &'static str>,
) -> Result<MountSpec, &'static str> {
    if text.contains('\0') {
        return Err("it holds a NUL byte");
    }
    match is_long(text) {
        true => long(text, &resolve),
        false => short(text, &resolve),
    }
}

fn is_long(text: &str) -> bool {
    let first = text.split([',', '=']).next().unwrap_or_default();
    let is_key = !first.is_empty() && first.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    text.contains('=') && (is_key || text.starts_with('"'))
}

/// Takes a list of mounts apart. One in docker's long form stands alone, or in quotes.
pub(super) fn split(text: &str) -> Result<Vec<String>, ParseError> {
    if is_long(text) && !text.starts_with('"') {
        return Ok(vec![text.to_owned()]);
    }
    comma_separated(text).map_err(|problem| ParseError::new("mounts", text, problem))
}

fn short(text: &str, resolve: Resolve<'_>) -> Result<MountSpec, &'static str> {
    let mut fields = text.split(':');
    let source = resolve(fields.next().unwrap_or_default())?;
    let target = fields.next().map_or_else(|| source.clone(), str::to_owned);
    let flags = fields.next().unwrap_or("rw").split(['+', ',']);
    let mut access = Access::ReadWrite;
    for flag in flags.filter(|flag| !VAIN_FLAGS.contains(flag)) {
        access = match flag {
            "rw" => Access::ReadWrite,
            "ro" => Access::ReadOnly,
            "z" | "Z" => return Err("labels stay as they are; leave them out"),
            _ => return Err("expected ro or rw after the second colon"),
        }
    }
    if fields.next().is_some() {
        return Err("expected SOURCE[:TARGET[:ro|rw]]");
    }
    check_path(&source)?;
    check_target(&target)?;
    Ok(MountSpec::Bind(Bind { source, target, access }))
}

/// docker's `--mount`: a line of comma-separated values.
fn long(text: &str, resolve: Resolve<'_>) -> Result<MountSpec, &'static str> {
    let (mut kind, mut source, mut target) = (None, None, None);
    let (mut access, mut spec) = (Access::ReadWrite, Tmpfs::at(""));
    for field in comma_separated(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (&*field, None),
        };
        match (key, value) {
            ("type", Some(value)) => kind = Some(value.to_owned()),
            ("source" | "src", Some(value)) => source = Some(value.to_owned()),
            ("target" | "dst" | "destination", Some(value)) => target = Some(value.to_owned()),
            ("readonly" | "ro", None | Some("true" | "1")) => access = Access::ReadOnly,
            ("readonly" | "ro", Some("false" | "0")) => access = Access::ReadWrite,
            ("tmpfs-size", Some(value)) => spec.size = Some(parse_size(value)?),
            ("tmpfs-mode", Some(value)) => spec.mode = Some(parse_mode(value)?),
            ("noexec", None) => spec.exec = Exec::Refused,
            _ => return Err(KEYS),
        }
    }
    let is_tmpfs = match kind.as_deref() {
        None | Some("bind") => false,
        Some("tmpfs") => true,
        Some("volume") => return Err("there are no volumes; bind a directory of the host"),
        Some(_) => return Err("expected type=bind or type=tmpfs"),
    };
    let has_own = spec.size.is_some() || spec.mode.is_some() || spec.exec == Exec::Refused;
    match (is_tmpfs, source) {
        (true, Some(_)) => Err("memory has no source"),
        (true, None) if access == Access::ReadOnly => Err("memory that is read-only stays empty"),
        (true, None) => {
            let target = target.ok_or("it says no target")?;
            check_target(&target)?;
            Ok(MountSpec::Tmpfs(Tmpfs { target, ..spec }))
        }
        (false, _) if has_own => Err("size, mode and noexec are for type=tmpfs"),
        (false, None) => Err("it says no source"),
        (false, Some(source)) => {
            let source = resolve(&source)?;
            let target = target.unwrap_or_else(|| source.clone());
            check_path(&source)?;
            check_target(&target)?;
            Ok(MountSpec::Bind(Bind { source, target, access }))
        }
    }
}

/// Splits as RFC 4180 has it: a field in quotes may hold commas, and quotes twice.
pub(super) fn comma_separated(line: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = vec![];
    let mut rest = Some(line);
    while let Some(text) = rest {
        let Some(mut quoted) = text.strip_prefix('"') else {
            let (field, after) = text.split_once(',').map_or((text, None), |(f, a)| (f, Some(a)));
            fields.push(field.to_owned());
            rest = after;
            continue;
        };
        let mut field = String::new();
        loop {
            let (part, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    quoted = after;
                }
                None => {
                    rest = match after.strip_prefix(',') {
                        Some(after) => Some(after),
                        None if after.is_empty() => None,
                        None => return Err("expected a comma after the quote"),
                    };
                    break;
                }
            }
        }
        fields.push(field);
    }
    Ok(fields)
}

/// The absolute path that somebody means by `source`.
pub(crate) fn absolute(
    source: &str,
    cwd: Option<&Path>,
    home: Option<&Path>,
) -> Result<String, &'static str> {
    let path = if source.is_empty() || source.starts_with('/') {
        return Ok(source.to_owned());
    } else if let Some(rest) = source.strip_prefix('~') {
        let rest = match rest.strip_prefix('/') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err("only your own home directory can be written as ~"),
        };
        home.ok_or("you have no home directory")?.join(rest)
    } else {
        let mut dir: PathBuf = cwd.ok_or("the working directory is gone")?.to_owned();
        let mut rest = Path::new(source).components().peekable();
        // The kernel gives the working directory without links: its parents are those that it has.
        while let Some(part) =
            rest.next_if(|part| matches!(part, Component::ParentDir | Component::CurDir))
        {
            if part == Component::ParentDir {
                dir.pop();
            }
        }
        dir.extend(rest);
        dir
    };
    // Without the slash that joining nothing leaves.
    let path: PathBuf = path.components().collect();
    path.into_os_string().into_string().map_err(|_| "the path is not text")
}

pub(super) fn check_path(path: &str) -> Result<(), &'static str> {
    let path = Path::new(path);
    if !path.is_absolute() {
        return Err("the source must be an absolute path");
    }
    // Which directory `..` means depends on links of the image.
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("a path with .. in it is not taken");
    }
    Ok(())
}

pub(crate) fn check_target(path: &str) -> Result<(), &'static str> {
    if !Path::new(path).is_absolute() {
        return Err("the target must be an absolute path");
    }
    check_path(path)?;
    match Path::new(path).parent() {
        Some(_) => Ok(()),
        None => Err("nothing can be mounted over the root"),
    }
}

/// As docker: a number, and for more than bytes one of `k`, `m`, `g` and `t`.
fn parse_size(text: &str) -> Result<u64, &'static str> {
    let problem = "a size is a number of bytes, or one with k, m, g or t";
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let digits = number.trim_end_matches(['k', 'm', 'g', 't']);
    let shift = match &number[digits.len()..] {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(problem),
    };
    let digits: u64 = digits.parse().map_err(|_| problem)?;
    // To tmpfs, 0 means without limit.
    digits.checked_mul(1 << shift).filter(|size| *size > 0).ok_or(problem)
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o1777 => Ok(mode),
        _ => Err("a mode is an octal number up to 1777"),
    }
}

impl fmt::Display for MountSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountSpec::Bind(Bind { source, target, access }) => {
                let is_readonly = *access == Access::ReadOnly;
                if source.contains(':') || target.contains(':') {
                    let (source, target) = (Quoted("source", source), Quoted("target", target));
                    write!(f, "type=bind,{source},{target}")?;
                    return f.write_str(if is_readonly { ",readonly" } else { "" });
                }
                write!(f, "{source}:{target}")?;
                f.write_str(if is_readonly { ":ro" } else { "" })
            }
            MountSpec::Tmpfs(Tmpfs { target, size, mode, exec }) => {
                write!(f, "type=tmpfs,{}", Quoted("target", target))?;
                if let Some(size) = size {
                    write!(f, ",tmpfs-size={size}")?;
                }
                if let Some(mode) = mode {
                    write!(f, ",tmpfs-mode={mode:o}")?;
                }
                f.write_str(if *exec == Exec::Refused { ",noexec" } else { "" })
            }
        }
    }
}

/// A key and its value, as a field of a comma-separated line.
struct Quoted<'a>(&'static str, &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Quoted(key, value) = self;
        match value.contains([',', '"']) {
            true => write!(f, "\"{key}={}\"", value.replace('"', "\"\"")),
            false => write!(f, "{key}={value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_they_are_written() {
        for (spec, expected) in [
            ("/a", "/a:/a"),
            ("/a:/b", "/a:/b"),
            ("/a:/b:ro", "/a:/b:ro"),
            ("/a:/b:rw", "/a:/b"),
            ("/a:/b:ro+rprivate", "/a:/b:ro"),
            ("/a:/b:rslave,ro", "/a:/b:ro"),
            ("/a:/b:bind", "/a:/b"),
            ("/a:/b/", "/a:/b/"),
            ("/a=b:/c", "/a=b:/c"),
            ("type=bind,source=/a,target=/b", "/a:/b"),
            ("readonly,src=/a,dst=/b", "/a:/b:ro"),
            ("type=bind,src=/a,destination=/b,ro=true", "/a:/b:ro"),
            ("source=/a,readonly=false", "/a:/a"),
            ("source=/a:b,target=/c", "type=bind,source=/a:b,target=/c"),
            (
                r#""source=/a,""b"":",ro,"target=/,""#,
                r#"type=bind,"source=/a,""b"":","target=/,",readonly"#,
            ),
            ("type=tmpfs,target=/t", "type=tmpfs,target=/t"),
            (
                "type=tmpfs,dst=/t,tmpfs-size=64M,tmpfs-mode=0700,noexec",
                "type=tmpfs,target=/t,tmpfs-size=67108864,tmpfs-mode=700,noexec",
            ),
        ] {
            let read: MountSpec = spec.parse().unwrap();
            assert_eq!(read.to_string(), expected);
            assert_eq!(expected.parse(), Ok(read), "it is not read as it was written");
        }
    }

    #[test]
    fn what_is_no_mount_is_refused() {
        for (spec, problem) in [
            ("", "absolute"),
            ("a:/b", "absolute"),
            ("/a:b", "absolute"),
            ("/a:", "absolute"),
            ("/a:/", "over the root"),
            ("/", "over the root"),
            ("/a:/b:rx", "ro or rw"),
            ("/a:/b:Z", "labels"),
            ("/a:/b:ro:x", "SOURCE[:TARGET"),
            ("/a:/b/../c", ".."),
            ("/a\0:/b", "NUL"),
            ("type=volume,source=x,target=/x", "no volumes"),
            ("type=npipe,target=/x", "type=bind"),
            ("typ=bind,source=/a", "expected type, source"),
            ("source=/a,bind-propagation=shared", "expected type, source"),
            ("type=bind,target=/x", "no source"),
            ("type=tmpfs", "no target"),
            ("type=tmpfs,target=/", "over the root"),
            ("type=tmpfs,source=/a,target=/b", "no source"),
            ("type=tmpfs,target=/b,readonly", "stays empty"),
            ("source=/a,target=/b,tmpfs-size=1m", "for type=tmpfs"),
            ("\"source=/a,target=/b", "not closed"),
            ("\"source=/a\"target=/b", "a comma after"),
        ] {
            let error = spec.parse::<MountSpec>().expect_err(spec).to_string();
            assert!(error.contains(problem), "{spec:?}: {error}");
        }
    }

    #[test]
    fn a_source_may_be_typed_relative_to_where_one_stands() {
        let typed = |text, cwd, home| {
            MountSpec::typed(text, cwd, home)
                .map(|spec| spec.to_string())
                .map_err(|e| e.to_string())
        };
        let (cwd, home) = (Some(Path::new("/w/x")), Some(Path::new("/home/ada")));
        for (text, expected) in [
            ("a", "/w/x/a:/w/x/a"),
            ("a:/b", "/w/x/a:/b"),
            (".:/b:ro", "/w/x:/b:ro"),
            (".", "/w/x:/w/x"),
            ("../y:/b", "/w/y:/b"),
            ("./../../z/", "/z:/z"),
            ("~:/b", "/home/ada:/b"),
            ("~/c:/b", "/home/ada/c:/b"),
            ("/a:/b", "/a:/b"),
            ("type=bind,src=./a,dst=/b", "/w/x/a:/b"),
        ] {
            assert_eq!(typed(text, cwd, home).as_deref(), Ok(expected), "{text}");
        }
        for (text, cwd, home, problem) in [
            ("a:b", cwd, home, "absolute"),
            ("a/../b:/c", cwd, home, ".."),
            ("../..", cwd, home, "over the root"),
            (":/b", cwd, home, "absolute"),
            ("~bob/x:/b", cwd, home, "your own"),
            ("~:/b", cwd, None, "no home"),
            ("a:/b", None, home, "is gone"),
        ] {
            let error = typed(text, cwd, home).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn memory_has_size_and_mode() {
        for (text, expected) in [
            ("/t", "type=tmpfs,target=/t"),
            ("/t:size=65536k", "type=tmpfs,target=/t,tmpfs-size=67108864"),
            (
                "/t:size=2GiB,mode=1777",
                "type=tmpfs,target=/t,tmpfs-size=2147483648,tmpfs-mode=1777",
            ),
            ("/t:rw,noexec,nosuid,size=7", "type=tmpfs,target=/t,tmpfs-size=7,noexec"),
        ] {
            assert_eq!(
                MountSpec::tmpfs(text).map(|spec| spec.to_string()).as_deref(),
                Ok(expected)
            );
        }
        for (text, problem) in [
            ("t", "absolute"),
            ("/", "over the root"),
            ("/t:size=x", "a size is"),
            ("/t:size=0", "a size is"),
            ("/t:size=-1", "a size is"),
            ("/t:size=1kk", "a size is"),
            ("/t:size=20000000t", "a size is"),
            ("/t:mode=9", "octal"),
            ("/t:mode=4755", "octal"),
            ("/t:uid=3", "expected size=SIZE"),
        ] {
            let error = MountSpec::tmpfs(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
