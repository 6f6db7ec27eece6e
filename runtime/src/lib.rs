//! From an image's name to a process in that image, as an ordinary user.
//!
//! On a cluster, a container has to be on every node of a job within seconds, run as the user who
//! submitted it, see the node's devices and shared memory, and leave nothing behind. Nothing of
//! that needs root, a daemon or an image service: a user may talk to a registry, write to a tmpfs,
//! and have a user namespace. This library does the three, one after the other, and meets in the
//! middle at one type, [`Image`]: a tree on this node, complete and verified.
//!
//! ```no_run
//! use runtime::{Config, Host, Options, Reference, container, pull};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let reference: Reference = "ubuntu:24.04".parse()?;
//! let (config, host) = (Config::load()?, Host::probe()?);
//! let image = pull::ensure(&reference, &config, &mut |event| eprintln!("{event:?}"))?;
//! let run = container::Run {
//!     command: container::Command::Image(vec!["cat".into(), "/etc/os-release".into()]),
//!     script: None,
//!     relay: None,
//!     options: Options { mounts: vec!["/scratch:/data:ro".parse()?], ..Options::default() },
//! };
//! let plan = container::plan(&image, &run, &config, &host, std::env::vars_os())?;
//! Err(plan.build()?.exec().into()) // only a failure comes back
//! # }
//! ```
//!
//! | names and shapes | |
//! |---|---|
//! | [`source`] | what an image is named by: a name in a registry, or a path |
//! | [`mod@reference`], [`digest`], [`oci`] | image names, checksums, the documents that describe images |
//! | [`config`] | the site's file and the environment |
//! | [`options`] | what a run asks for beyond its image: flags, files, the carrier |
//! | [`kept`] | containers with a name, which stay on a node |
//! | [`jobs`] | which jobs are over, and their containers with them |
//! | [`environment_file`] | an image and how to run in it, written down once |
//! | [`login`] | who somebody is at a registry |
//! | [`squashfs`] | looking into an image that is one file |
//! | [`request`] | what the SPANK plugin's two sides say to each other and to the launcher |
//! | [`programs`] | where they are |
//! | [`report`] | any error in one line, with the exit status |
//!
//! | the network half (feature `pull`) | |
//! |---|---|
//! | [`registry`] | the client; the only async code |
//! | [`layer`] | a tar stream → files under a directory descriptor; layers merged in order |
//! | [`store`] | what lies where on disk, locks, atomic commit |
//! | [`pull`] | all of it: name → [`Image`] |
//! | [`cached`] | the same for what is here already, without the rest of this half |
//! | [`repository`] | what images there are; removing them |
//! | [`mod@import`] | files, archives and directories → the store |
//!
//! | the kernel half | |
//! |---|---|
//! | [`host`], [`environment`] | who calls, and which variables cross |
//! | [`inject`] | GPUs and other devices, with what their programs need of the host |
//! | [`container`] | plan, enter, join, exec |
//! | [`sys`] | the unsafe fence |
//!
//! The halves do not know each other; `tests/architecture.rs` sees to that. The SPANK plugin is
//! built without the network half.

#[cfg(feature = "pull")]
pub mod cached;
pub mod config;
pub mod container;
pub mod digest;
#[cfg(feature = "pull")]
mod documents;
pub mod environment;
pub mod environment_file;
pub mod host;
pub mod image;
#[cfg(feature = "pull")]
pub mod import;
pub mod inject;
pub mod jobs;
pub mod kept;
#[cfg(feature = "pull")]
pub mod layer;
pub mod login;
pub mod oci;
pub mod options;
pub mod programs;
#[cfg(feature = "pull")]
pub mod pull;
pub mod reference;
#[cfg(feature = "pull")]
pub mod registry;
pub mod report;
#[cfg(feature = "pull")]
pub mod repository;
pub mod request;
pub mod source;
pub mod squashfs;
#[cfg(feature = "pull")]
pub mod store;
pub mod suggest;
pub mod sys;

pub use config::Config;
pub use digest::Digest;
pub use host::Host;
pub use image::Image;
pub use login::Login;
pub use options::Options;
pub use reference::Reference;
pub use source::Source;
