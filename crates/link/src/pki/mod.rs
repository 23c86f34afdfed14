//! Certificates: the authority that signs, the files a node keeps, and how peers are verified.

mod authority;
mod credentials;
mod files;
mod inspect;
mod tls;
mod verify;

pub use authority::{Authority, LEAF_LIFETIME, PkiError, open_root, renew_root};
pub use credentials::Credentials;
pub use tls::server_tls;
pub use verify::{PeerIdentity, PeerRejected};

pub(crate) use authority::{new_request, read_request};
pub(crate) use credentials::{NewCredentials, load_or_create_key};
pub(crate) use files::names;

pub(crate) use tls::{client_tls, enrolment_tls};
pub(crate) use verify::find_rejection;
