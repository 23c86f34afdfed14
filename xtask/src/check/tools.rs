//! Rules that are other programs: rustfmt, clippy, cargo-deny, and bash for its scripts.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::{Finding, shown};
use crate::workspace::{cargo, output_of, root};

pub(super) fn format() -> anyhow::Result<Option<Finding>> {
    let mut command = cargo();
    // The names of the files are enough to act on.
    command.args(["fmt", "--all", "--", "--check", "--files-with-diff"]);
    shown_run(&mut command, "files are not formatted: run `cargo fmt --all`")
}

pub(super) fn clippy() -> anyhow::Result<Option<Finding>> {
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    shown_run(&mut command, "clippy has complaints, see above")
}

/// Advisories are left out: their database is fetched from the net.
pub(super) fn deny() -> anyhow::Result<Option<Finding>> {
    if !is_installed("cargo-deny") {
        return Ok(Some(Finding::Skipped("licences and bans: cargo-deny is not installed".to_owned())));
    }
    let mut command = cargo();
    command.args(["deny", "--all-features", "check", "bans", "licenses", "sources"]);
    shown_run(&mut command, "cargo deny has complaints, see above")
}

/// Parses every bash script without running it, and reads it with shellcheck where that is installed.
pub(super) fn scripts(files: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let has_shellcheck = is_installed("shellcheck");
    for path in files {
        let is_script = std::fs::read(path).is_ok_and(|content| content.starts_with(b"#!/usr/bin/env bash"));
        if !is_script {
            continue;
        }
        if let Err(error) = output_of(Command::new("bash").arg("-n").arg(path)) {
            findings.push(Finding::Problem(format!("{}: {error:#}", shown(path))));
        }
        if has_shellcheck {
            let mut command = Command::new("shellcheck");
            // -x follows the files that a script reads.
            command.current_dir(root()).arg("-x").arg(path);
            findings.extend(shown_run(&mut command, &format!("{}: shellcheck has complaints", shown(path)))?);
        }
    }
    if !has_shellcheck {
        findings
            .push(Finding::Skipped("shell scripts are only parsed: shellcheck is not installed".to_owned()));
    }
    Ok(findings)
}

/// Runs a tool that writes its complaints itself.
fn shown_run(command: &mut Command, complaint: &str) -> anyhow::Result<Option<Finding>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {program}"))?;
    Ok((!status.success()).then(|| Finding::Problem(complaint.to_owned())))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_does_not_parse_is_a_problem() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broken.sh");
        std::fs::write(&path, "#!/usr/bin/env bash\nif true; then\n").unwrap();
        let findings = scripts(&[path]).unwrap();
        assert!(findings.iter().any(|finding| matches!(finding, Finding::Problem(_))), "{findings:?}");
    }

    #[test]
    fn programs_are_looked_up_in_the_path() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program-here"));
    }
}
