//! From an image name to a process in that image, as an ordinary user.

pub mod config;
pub mod container;
pub mod digest;
pub mod environment;
pub mod host;
pub mod image;
#[cfg(feature = "pull")]
pub mod layer;
pub mod oci;
pub mod reference;
pub mod request;
pub mod sys;

pub use config::Config;
pub use digest::Digest;
pub use host::Host;
pub use image::Image;
pub use reference::Reference;
