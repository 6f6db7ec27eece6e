//! What `--dry-run` shows of a plan.

use std::fmt;

use super::{Mount, Plain, Plan, Presence, Workdir};
use crate::{
    image::Form,
    kept,
    options::{Access, Exec, Ids, Tmpfs},
    report::printable,
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::InPlace => writeln!(f, "image    {}", Plain(self.image.to_string()))?,
            _ => writeln!(f, "image    {} ({})", Plain(self.image.to_string()), self.digest)?,
        }
        match self.options.ids {
            Some(Ids::Root) => {
                writeln!(f, "ids      root, uid {} gid {} on the host", self.uid, self.gid)?;
            }
            _ => writeln!(f, "ids      uid {} gid {}, as on the host", self.uid, self.gid)?,
        }
        write!(f, "root     {}, ", Plain(&self.rootfs))?;
        if self.form == Form::Squashfs {
            f.write_str("mounted by squashfuse_ll, ")?;
        }
        match (&self.options.name, self.options.root) {
            (_, Some(Access::ReadOnly)) => f.write_str("read-only\n")?,
            (None, _) => f.write_str("changes go to memory and end with it\n")?,
            (Some(_), _) => f.write_str("changes stay\n")?,
        }
        if let Some(name) = &self.options.name {
            let place = kept::place(&self.node_dir, name);
            writeln!(f, "name     {name}, what is written in it is in {}", Plain(place))?;
        }
        for line in &self.injected {
            writeln!(f, "devices  {}", printable(line))?;
        }
        for mount in &self.mounts {
            match mount {
                Mount::Bind { source, target, access, presence } => {
                    write!(f, "mount    {}", Plain(target))?;
                    if source != target {
                        write!(f, " from {}", Plain(source))?;
                    }
                    if *access == Access::ReadOnly {
                        f.write_str(", read-only")?;
                    }
                    f.write_str(if *presence == Presence::Optional { ", if there" } else { "" })?;
                    f.write_str("\n")?;
                }
                Mount::Tmpfs(Tmpfs { target, size, mode, exec }) => {
                    write!(f, "memory   {}", Plain(target))?;
                    if let Some(size) = size {
                        write!(f, ", {size} bytes at most")?;
                    }
                    if let Some(mode) = mode {
                        write!(f, ", mode {mode:04o}")?;
                    }
                    f.write_str(if *exec == Exec::Refused { ", no programs" } else { "" })?;
                    f.write_str("\n")?;
                }
                Mount::File { target, content } => {
                    writeln!(f, "file     {} ({} bytes)", Plain(target), content.len())?;
                }
                Mount::Program { target, content } => {
                    writeln!(f, "program  {} ({} bytes)", Plain(target), content.len())?;
                }
                Mount::Link(link) => {
                    writeln!(f, "link     {} to {}", Plain(&link.path), Plain(&link.target))?;
                }
                Mount::Mask { target, content } => {
                    let bytes = content.len();
                    writeln!(f, "mask     {} with other content ({bytes} bytes)", Plain(target))?;
                }
            }
        }
        for (name, value) in &self.env {
            writeln!(f, "env      {}={}", Plain(name), Plain(value))?;
        }
        match &self.workdir {
            Workdir::Exactly(dir) => writeln!(f, "workdir  {}", Plain(dir))?,
            Workdir::FirstOf(dirs) => {
                f.write_str("workdir  ")?;
                for (n, dir) in dirs.iter().enumerate() {
                    write!(f, "{}{}", if n == 0 { "" } else { ", else " }, Plain(dir))?;
                }
                f.write_str("\n")?;
            }
        }
        f.write_str("command ")?;
        for arg in &self.argv {
            write!(f, " {}", Plain(arg))?;
        }
        f.write_str("\n")
    }
}
