//! Asks apt which packages a layer needs and fetches them, without touching the system's own package state.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::output_of;

/// A package at the version that apt chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    name: String,
    version: String,
}

/// Resolves packages against a private list of installed ones, so that each layer gets only what the ones below lack.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    directory: PathBuf,
    architecture: String,
    /// In the format of dpkg's `status` file.
    status: String,
}

impl Resolver {
    /// Creates a resolver that keeps its files in `directory` and takes `absent` as installed although they never are.
    pub(super) fn new(directory: &Path, absent: &[&str]) -> anyhow::Result<Self> {
        let architecture = architecture()?;
        let mut resolver = Self { directory: directory.to_path_buf(), architecture, status: String::new() };
        for name in absent {
            // No version of a package is newer than this one, so it satisfies every lower bound.
            resolver.add(&Package { name: (*name).to_owned(), version: "9999:1".to_owned() });
        }
        Ok(resolver)
    }

    /// Returns Debian's name of the architecture, such as `amd64`.
    pub(super) fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Takes the packages as installed from now on.
    pub(super) fn assume_installed(&mut self, packages: &[Package]) {
        for package in packages {
            self.add(package);
        }
    }

    /// Returns the wanted packages with all that they depend on and that is not taken as installed.
    pub(super) fn resolve(&self, wanted: &[&str]) -> anyhow::Result<Vec<Package>> {
        let status = self.directory.join("status");
        std::fs::write(&status, &self.status).context("cannot write the private package status")?;
        let output = output_of(
            Command::new("apt-get")
                .env("LC_ALL", "C")
                .args(["--simulate", "--no-install-recommends"])
                .args(["-o", &format!("Dir::State::status={}", status.display())])
                .args([
                    "-o",
                    &format!("Dir::State::extended_states={}", self.directory.join("extended").display()),
                ])
                .args([
                    "-o",
                    "Dir::Cache::pkgcache=",
                    "-o",
                    "Dir::Cache::srcpkgcache=",
                    "-o",
                    "Debug::NoLocking=1",
                ])
                .arg("install")
                .args(wanted),
        )
        .with_context(|| format!("cannot resolve {wanted:?}; has `apt-get update` been run?"))?;
        let packages = installed_by(&String::from_utf8_lossy(&output));
        if packages.is_empty() {
            bail!("apt-get would install nothing for {wanted:?}");
        }
        Ok(packages)
    }

    /// Downloads the packages (apt checks them against its signed lists) and returns the files, in the order of names.
    pub(super) fn download(&self, packages: &[Package]) -> anyhow::Result<Vec<PathBuf>> {
        let mut wanted = packages.to_vec();
        wanted.sort();
        let into =
            self.directory.join(format!("packages-{}", wanted.first().map_or("", |package| &package.name)));
        std::fs::create_dir_all(&into).with_context(|| format!("cannot create {}", into.display()))?;
        output_of(
            Command::new("apt-get")
                .current_dir(&into)
                .env("LC_ALL", "C")
                // The private directory is not readable for apt's own user, who would do the fetching otherwise.
                .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
                .args(wanted.iter().map(|package| format!("{}={}", package.name, package.version))),
        )
        .context("cannot download packages")?;
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(&into).with_context(|| format!("cannot list {}", into.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                files.insert(path);
            }
        }
        if files.len() != wanted.len() {
            bail!("apt-get downloaded {} files for {} packages", files.len(), wanted.len());
        }
        Ok(files.into_iter().collect())
    }

    fn add(&mut self, package: &Package) {
        self.status.push_str(&format!(
            "Package: {}\nStatus: install ok installed\nArchitecture: {}\nVersion: {}\nMaintainer: none\nDescription: none\n\n",
            package.name, self.architecture, package.version
        ));
    }
}

/// Returns the packages in the `Inst` lines of a simulation: `Inst libc6 (2.36-9 Debian:12/stable [amd64])`.
fn installed_by(simulation: &str) -> Vec<Package> {
    simulation
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            let version = rest.split_whitespace().next()?;
            Some(Package { name: name.to_owned(), version: version.to_owned() })
        })
        .collect()
}

fn architecture() -> anyhow::Result<String> {
    let output = output_of(Command::new("dpkg").arg("--print-architecture"))
        .context("the test images are made from Debian packages; this system has no dpkg")?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_versions_from_a_simulation() {
        let text = "Reading package lists...\nInst libc6 (2.36-9+deb12u14 Debian:12.13/oldstable [amd64]) []\n\
                    Inst netbase (6.4 Debian:12.13/oldstable [all])\nConf libc6 (2.36-9+deb12u14 Debian [amd64])\n";
        let packages = installed_by(text);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0], Package { name: "libc6".to_owned(), version: "2.36-9+deb12u14".to_owned() });
        assert_eq!(packages[1].version, "6.4");
    }
}
