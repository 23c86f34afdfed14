//! The page at `/`, and the second port it is also served at.

mod page;
mod serve;

pub(crate) use page::{SCRIPT_PATH, STYLE_PATH, page, script, style};
pub use serve::{Dashboard, serve};
