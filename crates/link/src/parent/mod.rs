//! The parent's end: accepts sessions, enrols and renews children, asks for bulk streams.

mod desk;
mod enroller;
mod handle;
mod link;
mod service;
mod session;
mod sessions;

pub use enroller::{EnrollRefused, EnrollRequest, Enrolled, Enroller};
pub use handle::PeerHandle;
pub use link::{ParentConfig, ParentEvent, ParentLink};
pub use sessions::Sessions;

pub(crate) use service::{REFUSED, REMOVED};
