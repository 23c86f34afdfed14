//! Deliberate bugs: each patch of `crates/sim/mutations` breaks one line of the core, and the simulator must notice.
//!
//! The patches are applied one at a time to a copy of the crates that are needed, below the build output.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::workspace::{cargo, last_lines, output_of, root, target_directory};

/// Crates the simulator is made of.
const CRATES: &[&str] = &["model", "placement", "control", "sim"];

/// What became of one deliberate bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the patch.
    pub name: String,
    /// What it breaks.
    pub meaning: String,
    /// The rule that noticed it; absent if none did.
    pub noticed: Option<String>,
    /// How long building and running took, seconds.
    pub seconds: u64,
}

/// Returns the patches, in order of their names.
///
/// # Errors
///
/// If they cannot be listed.
pub fn patches() -> anyhow::Result<Vec<PathBuf>> {
    let directory = root().join("crates/sim/mutations");
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut patches = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "patch") {
            patches.push(path);
        }
    }
    patches.sort();
    Ok(patches)
}

/// Tries the patches whose names contain `wanted`, with so many seeds for each scenario; `announce` hears what
/// became of each.
///
/// # Errors
///
/// If the unchanged copy does not pass, or a patch does not apply or compile.
pub fn run(wanted: &str, seeds: u64, mut announce: impl FnMut(&Verdict)) -> anyhow::Result<Vec<Verdict>> {
    let copy = target_directory().join("mutations/workspace");
    copy_workspace(&copy)?;
    if let Some(rule) = test(&copy, seeds)? {
        bail!("the unchanged code does not pass: {rule}");
    }
    let mut verdicts = Vec::new();
    for patch in patches()? {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !name.contains(wanted) {
            continue;
        }
        let start = Instant::now();
        copy_workspace(&copy)?;
        apply(&patch, &copy)?;
        let noticed = test(&copy, seeds).with_context(|| format!("mutation {name}"))?;
        let verdict =
            Verdict { name, meaning: meaning_of(&patch)?, noticed, seconds: start.elapsed().as_secs() };
        announce(&verdict);
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// The first line of a patch says what it breaks.
fn meaning_of(patch: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(patch).with_context(|| format!("cannot read {}", patch.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Copies what the simulator needs, and nothing that is not under version control.
fn copy_workspace(copy: &Path) -> anyhow::Result<()> {
    let mut listing = Command::new("git");
    listing.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]);
    listing.args(CRATES.iter().map(|name| format!("crates/{name}"))).args(["deploy/scenarios", "Cargo.lock"]);
    let output = output_of(&mut listing)?;
    for name in output.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = &*String::from_utf8_lossy(name);
        let (from, to) = (root().join(name), copy.join(name));
        if from.is_file() {
            write_if_changed(&to, &std::fs::read(&from).with_context(|| format!("cannot read {name}"))?)?;
        }
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    write_if_changed(&copy.join("Cargo.toml"), reduced(&manifest).as_bytes())
}

/// The workspace with the needed crates alone.
fn reduced(manifest: &str) -> String {
    let members: Vec<_> = CRATES.iter().map(|name| format!("\"crates/{name}\"")).collect();
    let line = |line: &str| match line.split_once('=') {
        Some((key, _)) if key.trim() == "members" => format!("members = [{}]\n", members.join(", ")),
        Some((key, _)) if key.trim() == "default-members" => String::new(),
        _ => format!("{line}\n"),
    };
    manifest.lines().map(line).collect()
}

/// Leaves the time of an unchanged file as it is, so that cargo compiles only what a patch touched.
fn write_if_changed(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(path);
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn apply(patch: &Path, copy: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("git");
    // The copy may lie inside a repository, which must not hide it from git.
    command.current_dir(copy).env("GIT_CEILING_DIRECTORIES", copy.parent().unwrap_or(copy));
    output_of(command.arg("apply").arg(patch)).map(drop)
}

/// Builds and runs the histories at random. Returns the rule that was broken, if one was.
fn test(copy: &Path, seeds: u64) -> anyhow::Result<Option<String>> {
    let command = |last: &[&str]| {
        let mut command = cargo();
        command
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.with_file_name("target"))
            // A little optimisation pays off over many seeds; checks for overflow stay.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("OAK_SIM_SEEDS", seeds.to_string())
            .args(["test", "--quiet", "--package", "oak-sim", "--test", "seeds"])
            .args(last);
        command
    };
    output_of(&mut command(&["--no-run"]))?;
    let output = command(&[]).stdin(Stdio::null()).output().context("cannot start the tests")?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let rule = said.lines().find(|line| line.contains("(after ") || line.contains("-within"));
    Ok(Some(rule.map_or_else(|| last_lines(&said, 5), |line| line.trim().chars().take(160).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_still_applies_and_says_what_it_breaks() {
        let patches = patches().unwrap();
        assert!(patches.len() >= 10, "{patches:?}");
        for patch in patches {
            let applies =
                Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output();
            let output = match applies {
                Ok(output) => output,
                Err(error) => {
                    println!("skipped: needs git: {error}");
                    return;
                }
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} must be brought up to date: {said}", patch.display());
            assert!(meaning_of(&patch).unwrap().ends_with('.'), "{}", patch.display());
        }
    }

    #[test]
    fn the_reduced_workspace_has_only_what_the_simulator_needs() {
        let text = reduced(
            "[workspace]\nmembers = [\"crates/*\"]\ndefault-members = [\"crates/cli\"]\n[x]\na = 1\n",
        );
        let members = "\"crates/model\", \"crates/placement\", \"crates/control\", \"crates/sim\"";
        assert_eq!(text, format!("[workspace]\nmembers = [{members}]\n[x]\na = 1\n"));
    }
}
