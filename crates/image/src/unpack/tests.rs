//! Layers against the real filesystem and kernel. They need root, as the worker does.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::{LayerContents, unpack_layer};
use crate::config::ImageLimits;
use crate::error::Failure;

/// Writes archives that no well-behaved tool would write.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(mut self, kind: EntryType, path: &[u8], target: &[u8], mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.add(EntryType::Regular, path.as_bytes(), b"", 0o644, content.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.add(EntryType::Directory, path.as_bytes(), b"", 0o750, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, path.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(EntryType::Link, path.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    fn attribute(self, name: &str, value: &str) -> Self {
        let body = format!(" SCHILY.xattr.{name}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + body.len() == *length).unwrap();
        self.add(EntryType::XHeader, b"pax", b"", 0o644, format!("{length}{body}").as_bytes())
    }

    fn unpack(&self, world: &World) -> Result<LayerContents, Failure> {
        self.unpack_to(&world.root(), world, &ImageLimits::default())
    }

    fn unpack_to(&self, root: &Path, world: &World, limits: &ImageLimits) -> Result<LayerContents, Failure> {
        let blob = world.0.path().join("blob");
        fs::write(&blob, &self.0).unwrap();
        fs::create_dir_all(root).unwrap();
        unpack_layer(&blob, root, limits, &Arc::default())
    }
}

/// `root` is unpacked into; `outside` must not change.
struct World(TempDir);

impl World {
    /// `None`, with a word about it, when not root.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        Some(Self(directory))
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    fn is_outside_untouched(&self) -> bool {
        let outside = self.0.path().join("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let metadata = fs::metadata(outside.join("secret")).unwrap();
        names == ["secret"]
            && fs::read(outside.join("secret")).unwrap() == b"secret"
            && (metadata.uid(), metadata.nlink()) == (0, 1)
    }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_char_device() && it.rdev() == 0)
}

#[test]
fn every_kind_of_entry_arrives_with_its_owner_mode_and_time() {
    let Some(world) = World::new() else { return };
    let capability = "\u{1}\u{0}\u{0}\u{2}\u{0}\u{4}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}";
    let contents = Archive::default()
        .directory("./")
        .directory("bin/")
        .attribute("security.capability", capability)
        .add(EntryType::Regular, b"bin/ping", b"", 0o4755, b"ping")
        .hard_link("bin/ping6", "bin/ping")
        .symlink("bin/sh", "/bin/busybox")
        .add(EntryType::Fifo, b"run/pipe", b"", 0o622, b"")
        .add(EntryType::Char, b"dev/mem", b"", 0o666, b"")
        .file("bin/late", "changes the time of bin")
        .unpack(&world)
        .unwrap();
    let root = world.root();
    let ping = fs::metadata(root.join("bin/ping")).unwrap();
    assert_eq!((ping.uid(), ping.gid(), ping.mode() & 0o7777, ping.mtime()), (12, 34, 0o4755, 1_000_000));
    assert_eq!((ping.nlink(), ping.ino()), (2, fs::metadata(root.join("bin/ping6")).unwrap().ino()));
    assert!(attribute(&root.join("bin/ping"), "security.capability").is_some());
    let link = fs::symlink_metadata(root.join("bin/sh")).unwrap();
    assert_eq!((link.uid(), link.mtime()), (12, 1_000_000));
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("/bin/busybox"));
    let pipe = fs::metadata(root.join("run/pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o622);
    assert!(!root.join("dev/mem").exists(), "device nodes are left out");
    for directory in [root.clone(), root.join("bin")] {
        let metadata = fs::metadata(directory).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o750, 1_000_000));
    }
    assert_eq!(fs::metadata(root.join("run")).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(contents.entries >= 9 && contents.unpacked_bytes >= 9 * 4096);
}

#[test]
fn later_entries_replace_earlier_ones_and_links_are_not_written_through() {
    let Some(world) = World::new() else { return };
    let secret = world.0.path().join("outside/secret");
    Archive::default()
        .symlink("passwd", secret.to_str().unwrap())
        .file("passwd", "mine")
        .directory("tree/a/b")
        .file("tree/a/b/c", "x")
        .file("tree", "now a file")
        .file("thing", "x")
        .directory("thing")
        .file("thing/inside", "y")
        .unpack(&world)
        .unwrap();
    assert_eq!(fs::read_to_string(world.root().join("passwd")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(world.root().join("tree")).unwrap(), "now a file");
    assert_eq!(fs::read_to_string(world.root().join("thing/inside")).unwrap(), "y");
    assert!(world.is_outside_untouched());
}

#[test]
fn links_in_the_path_resolve_inside_the_layer() {
    let Some(world) = World::new() else { return };
    Archive::default()
        .directory("usr/lib")
        .symlink("lib", "/usr/lib")
        .symlink("up", "../../../usr")
        .file("lib/libc.so", "libc")
        .file("up/lib/libm.so", "libm")
        .unpack(&world)
        .unwrap();
    assert_eq!(fs::read_to_string(world.root().join("usr/lib/libc.so")).unwrap(), "libc");
    assert_eq!(fs::read_to_string(world.root().join("usr/lib/libm.so")).unwrap(), "libm");
}

#[test]
fn attempts_to_escape_are_refused_as_damage() {
    let Some(world) = World::new() else { return };
    let outside = world.0.path().join("outside");
    let outside = outside.to_str().unwrap();
    let attempts = [
        Archive::default().file("../outside/evil", "x"),
        Archive::default().file("a/../../outside/evil", "x"),
        Archive::default().symlink("door", outside).file("door/evil", "x"),
        Archive::default().symlink("door", "../outside").file("door/evil", "x"),
        Archive::default().symlink("door", outside).file("door/.wh.secret", ""),
        Archive::default().symlink("door", outside).file("door/.wh..wh..opq", ""),
        Archive::default().hard_link("mine", "../outside/secret"),
        Archive::default().hard_link("mine", &format!("{outside}/secret")),
        Archive::default().symlink("door", outside).hard_link("mine", "door/secret"),
        Archive::default().file(".wh...", ""),
        Archive::default().file(".wh..", ""),
        Archive::default().file(".wh.", ""),
        Archive::default().file("file", "x").file("file/below", "x"),
        Archive::default().hard_link("mine", "not/there"),
        Archive::default().directory("d").hard_link("mine", "d"),
        Archive::default().symlink("empty", ""),
        Archive::default().add(EntryType::Regular, &b"../".repeat(30), b"", 0o644, b"x"),
    ];
    for (number, archive) in attempts.iter().enumerate() {
        let root = world.0.path().join(format!("attempt-{number}"));
        let result = archive.unpack_to(&root, &world, &ImageLimits::default());
        assert!(matches!(result, Err(Failure::Corrupt { .. })), "attempt {number}: {result:?}");
        assert!(world.is_outside_untouched(), "attempt {number}");
    }
    // Absolute names are taken as names inside the layer, as by every container tool.
    Archive::default().file(&format!("{outside}/evil"), "x").unpack(&world).unwrap();
    assert!(world.is_outside_untouched());
}

#[test]
fn attributes_that_steer_overlayfs_or_the_host_are_left_out() {
    let Some(world) = World::new() else { return };
    Archive::default()
        .attribute("trusted.overlay.redirect", "/etc")
        .attribute("security.selinux", "x")
        .attribute("user.colour", "red")
        .file("a", "x")
        .attribute("trusted.overlay.opaque", "y")
        .directory("d")
        .unpack(&world)
        .unwrap();
    assert_eq!(attribute(&world.root().join("a"), "trusted.overlay.redirect"), None);
    assert_eq!(attribute(&world.root().join("a"), "security.selinux"), None);
    assert_eq!(attribute(&world.root().join("d"), "trusted.overlay.opaque"), None);
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let Some(world) = World::new() else { return };
    let contents = Archive::default()
        .file("etc/.wh.removed", "")
        .directory("var/cache")
        .file("var/cache/.wh..wh..opq", "")
        .file("var/cache/new", "x")
        .file(".wh.replaced", "")
        .directory("replaced")
        .directory("kept")
        .file("kept/mine", "x")
        .file(".wh.kept", "")
        .file("both", "x")
        .file(".wh.both", "")
        .file(".wh..wh.plnk", "")
        .file("now-a-file", "x")
        .file("now-a-file/.wh.was-inside", "")
        .unpack(&world)
        .unwrap();
    let root = world.root();
    assert!(is_whiteout(&root.join("etc/removed")));
    for opaque in ["var/cache", "replaced", "kept"] {
        assert_eq!(
            attribute(&root.join(opaque), "trusted.overlay.opaque").as_deref(),
            Some(&b"y"[..]),
            "{opaque}"
        );
    }
    assert!(root.join("kept/mine").exists() && root.join("both").is_file());
    let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.as_bytes().starts_with(b".wh.")), "{names:?}");
    assert!(!contents.opaque_root);
    let hides_all = Archive::default().file(".wh..wh..opq", "");
    assert!(
        hides_all
            .unpack_to(&world.0.path().join("other"), &world, &ImageLimits::default())
            .unwrap()
            .opaque_root
    );
}

#[test]
fn the_kernel_stacks_the_layers_as_the_image_means_them() {
    let Some(world) = World::new() else { return };
    let (lower, upper, merged) =
        (world.0.path().join("lower"), world.0.path().join("upper"), world.0.path().join("merged"));
    fs::create_dir(&merged).unwrap();
    let base =
        Archive::default().file("gone", "x").file("stays", "x").file("dir/hidden", "x").file("full/old", "x");
    base.unpack_to(&lower, &world, &ImageLimits::default()).unwrap();
    let change = Archive::default()
        .file(".wh.gone", "")
        .file("dir/.wh.hidden", "")
        .file("dir/shown", "x")
        .directory("full")
        .file("full/.wh..wh..opq", "")
        .file("full/new", "x");
    change.unpack_to(&upper, &world, &ImageLimits::default()).unwrap();
    // In a mount namespace of its own, so that nothing stays mounted.
    let script = format!(
        "mount -t overlay overlay -o ro,lowerdir={}:{} {merged} && cd {merged} && find . -type f | sort | tr '\\n' ' '",
        upper.display(),
        lower.display(),
        merged = merged.display(),
    );
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("mount") {
        eprintln!("skipped: overlayfs cannot be mounted here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    assert_eq!(listing.trim(), "./dir/shown ./full/new ./stays");
}

#[test]
fn limits_on_entries_and_bytes_hold() {
    let Some(world) = World::new() else { return };
    let few = ImageLimits { max_layer_entries: 2, ..ImageLimits::default() };
    let three = Archive::default().file("a", "").file("b", "").file("c", "");
    let result = three.unpack_to(&world.0.path().join("few"), &world, &few);
    assert!(matches!(result, Err(Failure::TooLarge { .. })), "{result:?}");
    let small = ImageLimits { max_unpacked_layer_bytes: 4096, ..ImageLimits::default() };
    let large = Archive::default().file("a", &"x".repeat(10_000));
    let result = large.unpack_to(&world.0.path().join("small"), &world, &small);
    assert!(matches!(result, Err(Failure::TooLarge { .. })), "{result:?}");
}

#[derive(Clone, Debug)]
struct Step {
    kind: EntryType,
    path: String,
    target: String,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
    ];
    let name =
        || prop_oneof!["[ab]", Just("..".to_owned()), Just(".wh.a".to_owned()), Just("secret".to_owned())];
    let path = proptest::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        path.clone(),
        Just("../outside".to_owned()),
        Just("../../outside".to_owned()),
        Just("/".to_owned()),
        Just("OUTSIDE".to_owned()),
    ];
    (kind, path, target).prop_map(|(kind, path, target)| Step { kind, path, target })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_an_archive_does_the_outside_stays_untouched(steps in proptest::collection::vec(step(), 1..12)) {
        if let Some(world) = World::new() {
            let outside = world.0.path().join("outside");
            // Each step as an archive of its own: a refused one does not end the attack.
            for step in steps {
                let target = step.target.replace("OUTSIDE", outside.to_str().unwrap());
                let archive = Archive::default().add(step.kind, step.path.as_bytes(), target.as_bytes(), 0o777, b"");
                let _ = archive.unpack(&world);
                prop_assert!(world.is_outside_untouched());
            }
        }
    }
}
