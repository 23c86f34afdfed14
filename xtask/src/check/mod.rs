//! The static rules of the workspace, each a function that returns what it found.
//!
//! Rules that only read text run first and fast; format, lints and `cargo deny` are left to their own tools.

mod files;
mod layers;
mod purity;
mod tools;

use std::path::PathBuf;

use anyhow::Context as _;

use crate::workspace;

/// What a rule found: problems fail the check, warnings do not, a skip says what could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Must be repaired.
    Problem(String),
    /// Should be looked at.
    Warning(String),
    /// A part of the check that did not run, and why.
    Skipped(String),
}

/// How much to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything, including clippy over all targets.
    Full,
    /// Only what needs no compiler.
    TextOnly,
}

/// Runs all rules; `announce` hears the name of each before it runs.
///
/// # Errors
///
/// If a rule cannot be evaluated at all, for example because cargo is missing.
pub fn run(depth: Depth, mut announce: impl FnMut(&str)) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    announce("sizes and words of files");
    let files = files::list();
    match &files {
        Ok(files) => findings.extend(files::check(files)?),
        Err(reason) => findings.push(Finding::Skipped(format!("sizes and words of files: {reason:#}"))),
    }
    announce("scripts");
    findings.extend(tools::scripts(&files.unwrap_or_default())?);
    announce("direction of dependencies");
    findings.extend(layers::check()?);
    announce("purity of the core");
    findings.extend(purity::check()?);
    announce("banned crates");
    findings.extend(purity::banned_crates()?);
    announce("cargo fmt");
    findings.extend(tools::format()?);
    announce("cargo deny");
    findings.extend(tools::deny()?);
    if depth == Depth::Full {
        announce("cargo clippy");
        findings.extend(tools::clippy()?);
    }
    Ok(findings)
}

/// Returns what cargo says about the packages of the workspace.
fn metadata() -> anyhow::Result<serde_json::Value> {
    let output =
        workspace::output_of(workspace::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    serde_json::from_slice(&output).context("cannot parse the output of cargo metadata")
}

/// Returns the path relative to the workspace, for messages.
fn shown(path: &std::path::Path) -> String {
    let root: PathBuf = workspace::root();
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}
