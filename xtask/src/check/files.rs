//! Sizes of source files, and words that do not belong into files of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{Finding, shown};
use crate::workspace::{output_of, root};

/// A file with more lines is two files.
const MOST_LINES: usize = 800;
/// A file with more lines before its tests should be looked at.
const MANY_LINES: usize = 400;
/// Larger files are data, not text that people wrote.
const MOST_BYTES: u64 = 4 << 20;

/// Beginnings of paths that exist on somebody's machine only. Written in two parts so that this file passes.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "target-"),
    concat!("/tmp/", "bash_jobs"),
    concat!("/ho", "me/user"),
];

/// Marks of unfinished work; allowed with the number of an issue: the word, then `(#12)`.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Where lock files say their packages come from. Anything else is a mirror that others cannot reach.
const LOCKED_SOURCES: &[(&str, &str, &str)] = &[
    ("Cargo.lock", "source = \"", "registry+https://github.com/rust-lang/crates.io-index\""),
    ("package-lock.json", "\"resolved\": \"", "https://registry.npmjs.org/"),
];

/// Returns the files that are or would be under version control.
pub(super) fn list() -> anyhow::Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = output_of(&mut command)?;
    let names = output.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    // Deleted files are listed until the deletion is committed.
    Ok(names.map(|name| root().join(&*String::from_utf8_lossy(name))).filter(|path| path.is_file()).collect())
}

pub(super) fn check(files: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files {
        let bytes = path.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
        if bytes > MOST_BYTES {
            findings
                .push(Finding::Problem(format!("{} has {bytes} bytes; is it a build product?", shown(path))));
            continue;
        }
        let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // Not text: pictures, fonts, samples.
        let Ok(text) = String::from_utf8(content) else { continue };
        let name = shown(path);
        findings.extend(locked_elsewhere(path, &name, &text));
        findings.extend(machine_paths(&name, &text));
        if name.ends_with(".rs") {
            findings.extend(length_of(&name, &text));
            findings.extend(unfinished(&name, &text));
        }
    }
    Ok(findings)
}

fn length_of(name: &str, text: &str) -> Option<Finding> {
    if text.lines().take(5).any(|line| line.contains("@generated")) {
        return None;
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        return Some(Finding::Problem(format!(
            "{name} has {lines} lines, {MOST_LINES} are allowed; split it by concept"
        )));
    }
    // Tests may be long: they are read one by one.
    if name.contains("tests/") || name.ends_with("tests.rs") {
        return None;
    }
    let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    (code > MANY_LINES).then(|| Finding::Warning(format!("{name} has {code} lines before its tests")))
}

fn machine_paths(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for path in MACHINE_PATHS {
            let begins_a_path = |at: usize| {
                let before = line.get(..at).and_then(|text| text.chars().next_back());
                !before.is_some_and(|mark| mark.is_alphanumeric() || "._-/}>".contains(mark))
            };
            if line.match_indices(path).any(|(at, _)| begins_a_path(at)) {
                findings.push(Finding::Problem(format!("{name}:{}: path of one machine: {path}", index + 1)));
            }
        }
    }
    findings
}

fn unfinished(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for word in UNFINISHED {
            let has_issue = line.contains(&format!("{word}(#"));
            let is_word = line.split(|mark: char| !mark.is_alphanumeric()).any(|part| part == *word);
            if is_word && !has_issue {
                findings.push(Finding::Problem(format!(
                    "{name}:{}: {word} without the number of an issue",
                    index + 1
                )));
            }
        }
    }
    findings
}

fn locked_elsewhere(path: &Path, name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, key, allowed) in LOCKED_SOURCES {
        if path.file_name().is_none_or(|name| name != *file) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            if line.split_once(key).is_some_and(|(_, source)| !source.starts_with(allowed)) {
                findings
                    .push(Finding::Problem(format!("{name}:{}: package from an unknown source", index + 1)));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_a_problem_above_800_and_a_warning_above_400_without_tests() {
        assert_eq!(length_of("a.rs", &"x\n".repeat(400)), None);
        assert!(matches!(length_of("a.rs", &"x\n".repeat(401)), Some(Finding::Warning(_))));
        assert!(matches!(length_of("a.rs", &"x\n".repeat(801)), Some(Finding::Problem(_))));
        let with_tests = format!("{}#[cfg(test)]\n{}", "x\n".repeat(300), "x\n".repeat(300));
        assert_eq!(length_of("a.rs", &with_tests), None);
        assert_eq!(length_of("crates/a/tests/b.rs", &"x\n".repeat(700)), None);
        assert_eq!(length_of("a.rs", &format!("// @generated\n{}", "x\n".repeat(900))), None);
    }

    #[test]
    fn a_machine_path_is_found_only_where_it_begins_a_path() {
        let path = MACHINE_PATHS[0];
        assert_eq!(machine_paths("a", &format!("cd {path}main")).len(), 1);
        assert_eq!(machine_paths("a", &format!("overlay{path}dir")).len(), 0);
        assert_eq!(machine_paths("a", "cd /var/lib/oakestra").len(), 0);
    }

    #[test]
    fn unfinished_work_needs_an_issue() {
        let word = UNFINISHED[0];
        assert_eq!(unfinished("a.rs", &format!("// {word}: later")).len(), 1);
        assert_eq!(unfinished("a.rs", &format!("// {word}(#12): later")).len(), 0);
    }

    #[test]
    fn a_lock_file_names_public_registries_only() {
        let good = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        let bad = "source = \"registry+http://mirror.example/index\"";
        let path = Path::new("Cargo.lock");
        assert!(locked_elsewhere(path, "Cargo.lock", good).is_empty());
        assert_eq!(locked_elsewhere(path, "Cargo.lock", bad).len(), 1);
        assert!(locked_elsewhere(Path::new("other"), "other", bad).is_empty());
    }
}
