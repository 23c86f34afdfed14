//! The image of the demo application, made from this very program, so that it needs no registry.

use std::path::{Path, PathBuf};

use oak_image::{ImageConfig, ImageReference, ImageStore, LocalFile, LocalSource, PullError};

/// Hidden command of this program that serves the demo page.
pub const DEMO_COMMAND: &str = "__demo";

/// Name of the image in descriptors.
const REFERENCE: &str = "oak.local/demo:latest";

/// Makes the demo image if it is the one asked for.
pub(crate) async fn install(images: &ImageStore, reference: &ImageReference) -> Result<(), PullError> {
    if reference.to_string() != REFERENCE {
        return Ok(());
    }
    let config = ImageConfig {
        entrypoint: vec!["/bin/oak".to_owned(), DEMO_COMMAND.to_owned()],
        user: "65534:65534".to_owned(),
        // The first process of a container does not die of SIGTERM unless it says so; the page has nothing to save.
        ..ImageConfig::default()
    };
    images.install_local(reference, config, files()).await.map(|_| ())
}

/// This program and the libraries it is running with.
fn files() -> Vec<LocalFile> {
    let file = |source: PathBuf, target: &Path| LocalFile {
        path_in_image: target.to_string_lossy().into_owned(),
        source: LocalSource::File(source),
        mode: 0o755,
    };
    let mut files = vec![file(PathBuf::from("/proc/self/exe"), Path::new("/bin/oak"))];
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut libraries: Vec<&Path> =
        maps.lines().filter_map(library).filter(|path| path.is_absolute()).collect();
    libraries.sort_unstable();
    libraries.dedup();
    files.extend(libraries.iter().map(|path| file(path.to_path_buf(), path)));
    files.extend(interpreter(&libraries).map(|path| file(path.clone(), &path)));
    files
}

/// The shared library a line of the memory map belongs to.
fn library(line: &str) -> Option<&Path> {
    let path = line.split_whitespace().nth(5)?;
    let name = Path::new(path).file_name()?.to_str()?;
    (name.contains(".so")).then_some(Path::new(path))
}

/// The place where executables look for the dynamic loader, which may be a link to the mapped file.
fn interpreter(libraries: &[&Path]) -> Option<PathBuf> {
    let loader = libraries.iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        name.starts_with("ld-linux").then_some(name)
    })?;
    let places = ["/lib64", "/lib"].map(|folder| Path::new(folder).join(loader));
    places.into_iter().find(|path| path.exists() && !libraries.contains(&path.as_path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_recognised_in_the_memory_map() {
        let line = "7f00-7f01 r-xp 00000000 fe:00 123    /usr/lib/x86_64-linux-gnu/libc.so.6";
        assert_eq!(library(line), Some(Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6")));
        assert_eq!(library("7f00-7f01 rw-p 00000000 00:00 0    [heap]"), None);
    }
}
