//! The content of one layer as a sorted tree in memory, filled from packages and from the recipe.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Component, Path};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::workspace::output_of;

/// A file, directory or link with its owner. Times are not kept: every layer has the same, fixed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) user: u64,
    pub(super) group: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
}

/// Paths are relative, without `.` and `..`; the order of the map is the order in the layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Puts a node at the path, replacing what was there, and makes the directories above it.
    pub(super) fn insert(&mut self, path: &str, node: Node) {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.nodes.entry(parent.to_owned()).or_insert(Node {
                kind: Kind::Directory,
                mode: 0o755,
                user: 0,
                group: 0,
            });
            above = parent;
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Adds the files of a binary package, leaving out every path that starts with one of `stripped`.
    pub(super) fn add_package(&mut self, package: &Path, stripped: &[&str]) -> anyhow::Result<()> {
        let archive = output_of(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package))
            .with_context(|| format!("cannot open {}", package.display()))?;
        self.add_archive(&archive, stripped).with_context(|| format!("cannot read {}", package.display()))
    }

    fn add_archive(&mut self, archive: &[u8], stripped: &[&str]) -> anyhow::Result<()> {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let original = relative_path(&entry.path()?)?;
            let Some(path) = merged_path(&original) else { continue };
            if is_stripped(&path, stripped) {
                continue;
            }
            let header = entry.header();
            let (mode, user, group) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
            let kind = match header.entry_type() {
                tar::EntryType::Directory => Kind::Directory,
                tar::EntryType::Symlink => {
                    let target = entry.link_name()?.context("symlink without a target")?;
                    Kind::Symlink(target.to_str().context("target is not UTF-8")?.to_owned())
                }
                tar::EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    Kind::File(content)
                }
                // A second name becomes a copy, so that no layer depends on the order of its entries.
                tar::EntryType::Link => {
                    let target = relative_path(&entry.link_name()?.context("hard link without a target")?)?;
                    let target = merged_path(&target).context("hard link to a replaced directory")?;
                    let linked = self
                        .nodes
                        .get(&target)
                        .with_context(|| format!("{path} links to missing {target}"))?;
                    linked.kind.clone()
                }
                other => bail!("{path} is of the unexpected type {other:?}"),
            };
            self.insert(&path, Node { kind, mode, user, group });
        }
        Ok(())
    }
}

fn relative_path(path: &Path) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str().context("path is not UTF-8")?),
            _ => bail!("{} leaves its root", path.display()),
        }
    }
    Ok(parts.join("/"))
}

/// Returns where a packaged path goes in a system whose `/bin`, `/sbin` and `/lib*` are links into `/usr`.
/// None for the root and for those directories themselves.
fn merged_path(path: &str) -> Option<String> {
    let (first, below) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32" if below.is_empty() => None,
        "bin" | "sbin" | "lib" | "lib32" | "lib64" | "libx32" => Some(format!("usr/{path}")),
        "" => None,
        _ => Some(path.to_owned()),
    }
}

fn is_stripped(path: &str, stripped: &[&str]) -> bool {
    if let Some(document) = path.strip_prefix("usr/share/doc/") {
        return !document.ends_with("/copyright");
    }
    // Character set converters: 8 MB that only `iconv` loads.
    if path.split('/').any(|part| part == "gconv") {
        return true;
    }
    stripped.iter().any(|prefix| path.starts_with(prefix) || path == prefix.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                header.set_size(0);
                builder.append_link(&mut header, path, data).unwrap();
            } else {
                header.set_size(data.len() as u64);
                builder.append_data(&mut header, path, data.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn packaged_paths_move_into_usr() {
        assert_eq!(merged_path("bin/dash").as_deref(), Some("usr/bin/dash"));
        assert_eq!(merged_path("lib64/ld.so").as_deref(), Some("usr/lib64/ld.so"));
        assert_eq!(merged_path("etc/hosts").as_deref(), Some("etc/hosts"));
        assert_eq!(merged_path("lib"), None);
        assert_eq!(merged_path(""), None);
    }

    #[test]
    fn documents_are_stripped_but_licences_are_kept() {
        assert!(is_stripped("usr/share/doc/nginx/README", &[]));
        assert!(!is_stripped("usr/share/doc/nginx/copyright", &[]));
        assert!(is_stripped("usr/share/man/man8/nginx.8.gz", &["usr/share/man/"]));
        assert!(is_stripped("usr/share/man", &["usr/share/man/"]));
        assert!(!is_stripped("usr/share/manual", &["usr/share/man/"]));
    }

    #[test]
    fn a_package_is_read_with_its_links() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        let bytes = archive(&[
            ("./bin/", Directory, ""),
            ("./bin/tool", Regular, "program"),
            ("./bin/alias", Link, "./bin/tool"),
            ("./usr/bin/short", Symlink, "tool"),
        ]);
        let mut tree = Tree::default();
        tree.add_archive(&bytes, &[]).unwrap();
        let paths: Vec<&str> = tree.nodes().map(|(path, _)| path).collect();
        assert_eq!(paths, ["usr", "usr/bin", "usr/bin/alias", "usr/bin/short", "usr/bin/tool"]);
        assert_eq!(tree.nodes["usr/bin/alias"].kind, Kind::File(b"program".to_vec()));
        assert_eq!(tree.nodes["usr/bin/short"].kind, Kind::Symlink("tool".to_owned()));
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        assert!(relative_path(Path::new("./usr/../../etc/passwd")).is_err());
        assert_eq!(relative_path(Path::new("./usr//bin/.")).unwrap(), "usr/bin");
    }
}
