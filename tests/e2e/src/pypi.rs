//! Programs from PyPI, each in an environment of its own that is kept in cargo's output directory.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use xtask::workspace::target_directory;

/// Installs a version of a package; answers the directory of its environment, or `None` (and says so) when there is no
/// Python or PyPI cannot be reached.
///
/// # Errors
/// The package cannot be installed for another reason.
#[allow(clippy::print_stderr, reason = "for the person who runs the tests")]
pub fn install(package: &str, version: &str) -> anyhow::Result<Option<PathBuf>> {
    let directory = target_directory().join(format!("e2e/{package}-{version}"));
    let complete = directory.join("complete");
    if complete.exists() {
        return Ok(Some(directory));
    }
    let venv = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory).output();
    if !venv.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {package} from PyPI, there is no python3 with the module venv");
        return Ok(None);
    }
    let pip = Command::new(directory.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("{package}=={version}"))
        .output()?;
    if !pip.status.success() {
        let reason = String::from_utf8_lossy(&pip.stderr).into_owned();
        let is_away = ["NewConnectionError", "No matching distribution", "timed out", "ConnectionError"];
        ensure!(is_away.iter().any(|sign| reason.contains(sign)), "pip: {reason}");
        eprintln!("skipped: {package} from PyPI, which cannot be reached");
        return Ok(None);
    }
    std::fs::write(complete, version)?;
    Ok(Some(directory))
}
