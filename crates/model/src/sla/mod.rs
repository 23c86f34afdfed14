//! Deployment descriptors ("SLA", version `v2.0`): from bytes or JSON to typed requests, or to a list of everything
//! that is wrong with them (root-api reference, section 9).
//!
//! Every historical spelling is accepted. A field this release cannot honour is refused with the reason and the fix
//! as soon as its value asks for something; unknown fields are stored untouched. Pure: no network, no clock, and no
//! knowledge of which applications exist.

mod addresses;
mod application;
mod bounds;
mod change;
mod command;
mod connectivity;
mod constraints;
mod document;
mod errors;
mod fields;
mod health;
mod json;
mod path;
mod port;
mod secrets;
mod service;
mod spelling;
#[cfg(test)]
mod tests;
mod unsupported;
mod upkeep;
mod volume;

pub use application::{parse, parse_services, parse_value};
pub use change::parse_change;
pub use document::{ApplicationRequest, ServiceChange, ServiceRequest, SlaDocument, SlaServices};
pub use errors::{MAX_LISTED_PROBLEMS, SlaErrorKind, SlaErrors, SlaProblem, SlaWarning};
pub use json::MAX_DOCUMENT_BYTES;
