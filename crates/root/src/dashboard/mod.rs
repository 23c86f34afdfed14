//! The page at `/`, and the further ports of a root.

mod page;
mod serve;

pub(crate) use page::{
    RESET_PATH, RESET_SCRIPT_PATH, SCRIPT_PATH, STYLE_PATH, page, reset, reset_script, script, style,
};
pub use serve::{SecondPort, serve};
