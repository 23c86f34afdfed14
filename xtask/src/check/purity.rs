//! The core decides from its arguments alone: no clock, no files, no sockets, no threads, no randomness of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Finding, shown};
use crate::workspace::{cargo, output_of, root};

const PURE: &[&str] = &["model", "placement", "control"];

/// Crates that bring I/O, threads or a runtime, directly or through another crate.
const IMPURE_CRATES: &[&str] = &[
    "async-std",
    "hyper",
    "mio",
    "nix",
    "reqwest",
    "rusqlite",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tonic",
    "ureq",
];

/// Words that do not appear in the code of a pure crate, with what to do instead.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("Instant::now", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("std::fs", "let the shell read and pass in what was read"),
    ("std::process", "return an effect and let the shell run it"),
    ("std::thread", "pure code has no threads"),
    ("std::env", "take settings as arguments"),
    ("TcpStream", "return an effect and let the shell send it"),
    ("TcpListener", "return an effect and let the shell listen"),
    ("UdpSocket", "return an effect and let the shell send it"),
    ("ToSocketAddrs", "pure code resolves no names"),
    ("async fn", "pure code does not wait"),
    ("OsRng", "take a generator as an argument"),
    ("thread_rng", "take a generator as an argument"),
    ("rand::rng(", "take a generator as an argument"),
    ("rand::random", "take a generator as an argument"),
    ("from_os_rng", "take a generator as an argument"),
    ("from_entropy", "take a generator as an argument"),
];

/// One TLS provider: `ring`. The others need C tool chains and double the binary.
const BANNED_CRATES: &[(&str, &str)] = &[
    ("aws-lc-rs", "ring is the one provider; turn off the default features of what brings it"),
    ("aws-lc-sys", "ring is the one provider; turn off the default features of what brings it"),
    ("openssl-sys", "TLS is rustls; turn off the native-tls feature of what brings it"),
    ("native-tls", "TLS is rustls; turn off the native-tls feature of what brings it"),
    ("protoc-bin-vendored", "generated protocol code is made without protoc"),
];

pub(super) fn check() -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for name in PURE {
        let directory = root().join("crates").join(name);
        if !directory.is_dir() {
            findings.push(Finding::Skipped(format!("purity of {name}: there is no crates/{name}")));
            continue;
        }
        let needed = crates_below(&["--package", &format!("oak-{name}")])?;
        for impure in IMPURE_CRATES.iter().filter(|impure| needed.contains(**impure)) {
            findings.push(Finding::Problem(format!(
                "oak-{name} is pure but needs {impure}; see `cargo tree -i {impure}`"
            )));
        }
        for path in sources_in(&directory.join("src"))? {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            findings.extend(impure_lines(&shown(&path), &text));
        }
    }
    Ok(findings)
}

pub(super) fn banned_crates() -> anyhow::Result<Vec<Finding>> {
    let needed = crates_below(&["--workspace"])?;
    let found = BANNED_CRATES.iter().filter(|(name, _)| needed.contains(*name));
    Ok(found.map(|(name, advice)| Finding::Problem(format!("{name} is compiled in: {advice}"))).collect())
}

/// Returns the names of all crates that the selected packages need outside of tests, with the features in force.
fn crates_below(selection: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let output = output_of(
        cargo()
            .args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
            .args(selection),
    )?;
    let text = String::from_utf8_lossy(&output);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn impure_lines(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // Tests come last in a file and may do what they like.
        if line.trim() == "#[cfg(test)]" {
            break;
        }
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        for (word, advice) in IMPURE_WORDS.iter().filter(|(word, _)| code.contains(word)) {
            findings
                .push(Finding::Problem(format!("{file}:{}: `{word}` in a pure crate; {advice}", index + 1)));
        }
    }
    findings
}

fn sources_in(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "tests" {
                waiting.push(path);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                sources.push(path);
            }
        }
    }
    sources.sort();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_code_is_found_with_its_line() {
        let findings = impure_lines("a.rs", "fn f() {\n    let now = Instant::now();\n}\n");
        let [Finding::Problem(text)] = findings.as_slice() else { panic!("{findings:?}") };
        assert!(text.starts_with("a.rs:2: `Instant::now`"), "{text}");
    }

    #[test]
    fn comments_and_tests_do_not_count() {
        assert!(
            impure_lines("a.rs", "// never Instant::now\n#[cfg(test)]\nmod tests { use std::fs; }\n")
                .is_empty()
        );
    }

    #[test]
    fn the_tree_of_this_package_is_read() {
        let crates = crates_below(&["--package", "xtask"]).unwrap();
        assert!(crates.contains("xtask") && crates.contains("sha2"), "{crates:?}");
    }
}
