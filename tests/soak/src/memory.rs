//! Memory and open files of the roles over time.

use std::collections::BTreeMap;
use std::fs;

use anyhow::ensure;
use oak_e2e::resident_kib;

use crate::role::Role;
use crate::site::Site;

/// A role may have this much more at the end, with nothing deployed, than at the beginning with nothing deployed.
const MORE_KIB: u64 = 24 << 10;
/// The same for open files. Connections of users and workers come and go.
const MORE_FILES: usize = 24;

/// Figures of one role.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Use {
    pub(crate) first_kib: u64,
    pub(crate) most_kib: u64,
    pub(crate) last_kib: u64,
    pub(crate) first_files: usize,
    pub(crate) last_files: usize,
}

/// Figures of all roles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    roles: BTreeMap<Role, Use>,
}

impl Memory {
    /// Takes the present figures.
    pub(crate) fn measure(&mut self, site: &Site<'_>) {
        for (role, oak) in site.oaks() {
            let Ok(pid) = oak.pid() else { continue };
            let (kib, files) = (resident_kib(pid), open_files(pid));
            if kib == 0 {
                continue;
            }
            let first = Use { first_kib: kib, first_files: files, ..Use::default() };
            let figures = self.roles.entry(role).or_insert(first);
            figures.most_kib = figures.most_kib.max(kib);
            figures.last_kib = kib;
            figures.last_files = files;
        }
    }

    /// Figures by role.
    pub(crate) const fn roles(&self) -> &BTreeMap<Role, Use> {
        &self.roles
    }

    /// Fails if a role has grown.
    pub(crate) fn is_bounded(&self) -> anyhow::Result<()> {
        for (role, figures) in &self.roles {
            ensure!(
                figures.last_kib <= figures.first_kib + MORE_KIB,
                "{role} has grown from {} to {} KiB",
                figures.first_kib,
                figures.last_kib
            );
            ensure!(
                figures.last_files <= figures.first_files + MORE_FILES,
                "{role} had {} open files at first and {} at the end",
                figures.first_files,
                figures.last_files
            );
        }
        Ok(())
    }
}

fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
