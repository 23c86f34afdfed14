//! Dependencies between the crates of the workspace point only downwards.

use anyhow::Context as _;
use serde_json::Value;

use super::Finding;

/// From top to bottom; crates of one row do not see each other.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["root", "cluster", "worker"],
    &["sim", "dashboard"],
    &["net", "tunnel", "runtime", "image", "dns"],
    &["link"],
    &["store"],
    &["client"],
    &["control"],
    &["placement"],
    &["model"],
    &["metrics"],
    &["netlink"],
];

/// Crates that are no part of the product and may see everything.
const OUTSIDE: &[&str] = &["xtask", "oak-e2e", "oak-soak", "oak-bench", "oak-fuzz"];

pub(super) fn check() -> anyhow::Result<Vec<Finding>> {
    let metadata = super::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("package without a name")?;
        if OUTSIDE.contains(&name) {
            continue;
        }
        let Some(row) = row_of(name) else {
            findings.push(Finding::Problem(format!(
                "crate {name} has no place in the rows of xtask/src/check/layers.rs"
            )));
            continue;
        };
        findings.extend(dependencies_of(package).filter_map(|dependency| judge(name, row, dependency)));
    }
    Ok(findings)
}

/// Returns the names of what the product's code needs; what only tests need may point anywhere.
fn dependencies_of(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str())
}

fn judge(name: &str, row: usize, dependency: &str) -> Option<Finding> {
    if OUTSIDE.contains(&dependency) {
        return Some(Finding::Problem(format!(
            "{name} depends on {dependency}, which is for development only"
        )));
    }
    let below = row_of(dependency)?;
    (below <= row).then(|| {
        Finding::Problem(format!(
            "{name} depends on {dependency}, which is not below it; move what both need further down, or pass it in"
        ))
    })
}

fn row_of(package: &str) -> Option<usize> {
    let short = package.strip_prefix("oak-")?;
    ROWS.iter().position(|row| row.contains(&short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_down_is_fine_and_one_up_or_across_is_not() {
        let row = row_of("oak-control").unwrap();
        assert_eq!(judge("oak-control", row, "oak-model"), None);
        assert_eq!(judge("oak-control", row, "serde"), None);
        assert!(judge("oak-control", row, "oak-store").is_some());
        assert!(judge("oak-root", row_of("oak-root").unwrap(), "oak-worker").is_some());
        assert!(judge("oak-control", row, "xtask").is_some());
    }

    #[test]
    fn what_only_tests_need_does_not_count() {
        let package = serde_json::json!({ "dependencies": [
            { "name": "oak-model", "kind": null },
            { "name": "oak-sim", "kind": "dev" },
            { "name": "prost-build", "kind": "build" },
        ]});
        assert_eq!(dependencies_of(&package).collect::<Vec<_>>(), ["oak-model", "prost-build"]);
    }
}
