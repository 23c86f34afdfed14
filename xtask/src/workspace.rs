//! Where the workspace and its build output are, and how to run a command whose failure explains itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Returns the directory that holds the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Returns cargo's output directory: `CARGO_TARGET_DIR` if set, else `target` in the workspace.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// Returns the cargo that started this process, or the one in the path.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}

/// Runs the command to its end and returns what it wrote to standard output.
///
/// # Errors
///
/// If it cannot be started or does not exit with 0; the error then carries the end of its standard error.
pub fn output_of(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", description_of(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed with {}\n{}", description_of(command), output.status, last_lines(&said, 20));
    }
    Ok(output.stdout)
}

/// Returns the last lines of a text, at most `count`.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines.iter().skip(from).copied().collect::<Vec<_>>().join("\n")
}

fn description_of(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().take(6).map(|word| word.to_string_lossy()));
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.toml").is_file());
        assert!(root().join("xtask").is_dir());
    }

    #[test]
    fn a_failed_command_says_what_it_wrote_to_standard_error() {
        let error = output_of(Command::new("sh").args(["-c", "echo broken pump >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("broken pump") && text.contains('3'), "{text}");
    }

    #[test]
    fn last_lines_keeps_the_end() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
