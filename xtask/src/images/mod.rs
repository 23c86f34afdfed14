//! Container images for tests, made from packages of the system: `library/nginx:latest` and `curlimages/curl:7.82.0`.
//!
//! ```text
//! recipe ── apt (which packages, fetch) ── tree (merge) ── layer (tar.gz) ── layout (blobs, index) ── push (registry)
//! ```
//!
//! The same packages give the same bytes, so digests change only when the system's package lists do.

mod apt;
mod layer;
mod layout;
mod push;
mod recipe;
mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

pub use self::layout::{BuiltImage, Layout};
pub use self::push::Pushed;

use self::apt::Resolver;
use self::layer::Layer;
use self::layout::{LayoutWriter, digest_of};
use self::push::Uploader;
use self::recipe::{BASE, IMAGES, LayerRecipe, NEVER_INSTALLED, STRIPPED};
use self::tree::{Kind, Node, Tree};

/// Counts changes of the modules that turn recipes into bytes, so that older results are built anew.
const FORMAT: u32 = 1;

/// Returns where [`build_all`] is usually told to build: `test-images` in cargo's output directory.
pub fn default_directory() -> PathBuf {
    crate::workspace::target_directory().join("test-images")
}

/// Returns the images in `directory`, building all of them if one is missing, damaged or from an older recipe.
///
/// Several processes may call this at once: one builds, the others wait for it. A build that is interrupted leaves a
/// directory that the next one replaces.
///
/// # Errors
///
/// If the system is no Debian, a package cannot be had, or the directory cannot be written.
pub fn build_all(directory: &Path) -> anyhow::Result<Layout> {
    // apt reads relative paths in its own way.
    let directory = &std::path::absolute(directory).context("the image directory must have a name")?;
    let parent = directory.parent().context("the image directory must have a parent")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let lock_path = directory.with_extension("lock");
    let lock = File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;

    let recipe = recipe_fingerprint();
    if let Ok(layout) = Layout::open(directory, &recipe) {
        return Ok(layout);
    }
    let (packages, unfinished) =
        (directory.with_extension("packages"), directory.with_extension("unfinished"));
    for left_over in [&packages, &unfinished] {
        remove_if_present(left_over)?;
        std::fs::create_dir(left_over).with_context(|| format!("cannot create {}", left_over.display()))?;
    }
    build_into(&unfinished, &packages, &recipe)?;
    remove_if_present(&packages)?;
    remove_if_present(directory)?;
    std::fs::rename(&unfinished, directory)
        .with_context(|| format!("cannot rename to {}", directory.display()))?;
    Layout::open(directory, &recipe)
}

/// Uploads all images of the layout into a registry, given as `http://HOST:PORT`.
///
/// # Errors
///
/// If the registry cannot be reached or refuses something.
pub fn push_all(layout: &Layout, registry: &str) -> anyhow::Result<Pushed> {
    let uploader = Uploader::new(registry)?;
    let mut total = Pushed::default();
    for image in layout.images() {
        let pushed = uploader.push(layout, image)?;
        total.sent += pushed.sent;
        total.present += pushed.present;
    }
    Ok(total)
}

fn build_into(directory: &Path, packages: &Path, recipe: &str) -> anyhow::Result<()> {
    let mut resolver = Resolver::new(packages, NEVER_INSTALLED)?;
    let mut writer = LayoutWriter::create(directory, image_architecture(resolver.architecture())?)?;
    let mut base = Vec::new();
    for layer in &BASE {
        base.push(build_layer(layer, &mut resolver)?);
    }
    for image in &IMAGES {
        // Each image continues from the base alone.
        let own = build_layer(&image.layer, &mut resolver.clone())?;
        let layers: Vec<&Layer> = base.iter().chain([&own]).collect();
        writer.add_image(image, &layers)?;
    }
    writer.finish(recipe)
}

fn build_layer(recipe: &LayerRecipe, resolver: &mut Resolver) -> anyhow::Result<Layer> {
    let packages = resolver.resolve(recipe.packages)?;
    let mut tree = Tree::default();
    for file in resolver.download(&packages)? {
        tree.add_package(&file, STRIPPED)?;
    }
    resolver.assume_installed(&packages);
    for directory in recipe.directories {
        let (mode, user, group) = (directory.mode, directory.user, directory.group);
        tree.insert(directory.path, Node { kind: Kind::Directory, mode, user, group });
    }
    for file in recipe.files {
        let kind = Kind::File(file.content.as_bytes().to_vec());
        tree.insert(file.path, Node { kind, mode: 0o644, user: 0, group: 0 });
    }
    for (path, target) in recipe.links {
        let kind = Kind::Symlink((*target).to_owned());
        tree.insert(path, Node { kind, mode: 0o777, user: 0, group: 0 });
    }
    Layer::from_tree(recipe.name, &tree)
}

/// Changes whenever a recipe does.
fn recipe_fingerprint() -> String {
    digest_of(format!("{FORMAT} {NEVER_INSTALLED:?} {STRIPPED:?} {BASE:?} {IMAGES:?}").as_bytes())
}

fn image_architecture(debian: &str) -> anyhow::Result<&'static str> {
    match debian {
        "amd64" => Ok("amd64"),
        "arm64" => Ok("arm64"),
        other => bail!("no test images for architecture {other}"),
    }
}

fn remove_if_present(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
