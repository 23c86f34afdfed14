//! The page at `/`, and the further ports of a root.

mod page;
mod serve;

pub(crate) use page::{SCRIPT_PATH, STYLE_PATH, page, script, style};
pub use serve::{SecondPort, serve};
