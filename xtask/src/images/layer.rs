//! Turns a tree into a layer: a gzip-compressed tar whose bytes depend on nothing but the tree.

use std::io::Write as _;

use anyhow::Context as _;

use super::layout::digest_of;
use super::tree::{Kind, Tree};

/// A compressed layer with the digest of its uncompressed form, which the image configuration lists.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: &'static str,
    pub(super) compressed: Vec<u8>,
    pub(super) diff_id: String,
}

impl Layer {
    pub(super) fn from_tree(name: &'static str, tree: &Tree) -> anyhow::Result<Self> {
        let archive = archive_of(tree).with_context(|| format!("cannot write layer {name}"))?;
        // The default gzip header has no name and no time in it.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&archive)?;
        Ok(Self { name, compressed: encoder.finish()?, diff_id: digest_of(&archive) })
    }
}

fn archive_of(tree: &Tree) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, node) in tree.nodes() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(node.mode);
        header.set_uid(node.user);
        header.set_gid(node.group);
        header.set_mtime(0);
        header.set_size(0);
        match &node.kind {
            Kind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Kind::File(content) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, content.as_slice())?;
            }
            Kind::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, target)?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::tree::Node;

    fn file(content: &str) -> Node {
        Node { kind: Kind::File(content.into()), mode: 0o644, user: 0, group: 0 }
    }

    #[test]
    fn the_same_content_in_another_order_is_the_same_layer() {
        let mut one = Tree::default();
        one.insert("etc/a", file("1"));
        one.insert("usr/b", file("2"));
        let mut other = Tree::default();
        other.insert("usr/b", file("2"));
        other.insert("etc/a", file("1"));
        let (one, other) = (Layer::from_tree("l", &one).unwrap(), Layer::from_tree("l", &other).unwrap());
        assert_eq!(one.compressed, other.compressed);
        assert_eq!(one.diff_id, other.diff_id);
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.insert("a/b/c", file("x"));
        let archive = archive_of(&tree).unwrap();
        let mut paths = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            paths.push(entry.unwrap().path().unwrap().to_string_lossy().into_owned());
        }
        assert_eq!(paths, ["a/", "a/b/", "a/b/c"]);
    }
}
