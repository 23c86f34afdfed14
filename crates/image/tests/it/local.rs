//! Images built on this machine.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use oak_image::{ImageConfig, ImageStore, LocalFile, LocalSource, PullErrorKind};

use crate::{World, images, reference, soon};

fn file(path: &str, source: LocalSource, mode: u32) -> LocalFile {
    LocalFile { path_in_image: path.into(), source, mode }
}

fn config() -> ImageConfig {
    ImageConfig { entrypoint: vec!["/usr/bin/oak".into(), "demo".into()], ..ImageConfig::default() }
}

#[tokio::test]
async fn a_local_image_is_built_once_and_never_asked_for_elsewhere() {
    let Some(world) = World::new() else { return };
    let program = world.directory.path().join("oak");
    fs::write(&program, "program").unwrap();
    let files = || {
        vec![
            file("/usr/bin/oak", LocalSource::File(program.clone()), 0o755),
            file("/etc/hostname", LocalSource::Bytes(b"demo\n".to_vec()), 0o644),
            file("/tmp", LocalSource::Directory, 0o1777),
            file("/lib64", LocalSource::Symlink("usr/lib64".into()), 0),
        ]
    };
    let store = world.open();
    let name = reference("oak.local/demo");
    let missing = soon(store.ensure(&name, |_| ())).await.unwrap_err();
    assert_eq!(missing.kind(), PullErrorKind::NotFound);
    assert_eq!(
        missing.to_string(),
        "image oak.local/demo:latest is a local image and is not installed on this node"
    );

    let image = soon(store.install_local(&name, config(), files())).await.unwrap();
    let root = &image.layers[0];
    assert_eq!(image.layers.len(), 1);
    assert_eq!(fs::read_to_string(root.join("usr/bin/oak")).unwrap(), "program");
    assert_eq!(fs::metadata(root.join("usr/bin/oak")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_link(root.join("lib64")).unwrap().to_str(), Some("usr/lib64"));
    assert_eq!(image.config.architecture, images::architecture());

    let again = soon(store.install_local(&name, config(), files())).await.unwrap();
    assert!(Arc::ptr_eq(&image, &again));
    assert!(Arc::ptr_eq(&image, &soon(store.ensure(&name, |_| ())).await.unwrap()));
    drop(store);
    let mut config_now = world.config();
    config_now.size_limit_bytes = 0;
    let store = ImageStore::open(config_now).unwrap();
    assert_eq!(
        store.collect_garbage(&HashSet::new()).await.removed_images,
        [],
        "local images are never collected"
    );
    assert_eq!(soon(store.install_local(&name, config(), files())).await.unwrap(), image);
    assert!(store.images()[0].is_local);
}

#[tokio::test]
async fn a_new_program_replaces_the_image_but_what_runs_keeps_its_layer() {
    let Some(world) = World::new() else { return };
    let mut settings = world.config();
    settings.size_limit_bytes = 0;
    let store = ImageStore::open(settings).unwrap();
    let name = reference("oak.local/demo");
    let version = |text: &str| vec![file("/bin/oak", LocalSource::Bytes(text.into()), 0o755)];
    let old = soon(store.install_local(&name, config(), version("old"))).await.unwrap();
    let new = soon(store.install_local(&name, config(), version("new"))).await.unwrap();
    assert_ne!(old.digest, new.digest);
    assert!(Arc::ptr_eq(&new, &soon(store.ensure(&name, |_| ())).await.unwrap()));
    // Somebody holds the old one.
    store.collect_garbage(&HashSet::new()).await;
    assert_eq!(fs::read_to_string(old.layers[0].join("bin/oak")).unwrap(), "old");
    // A container of before runs it, which is all a restarted worker knows.
    let old = soon(store.install_local(&name, config(), version("newest")))
        .await
        .map(|_| new.digest.clone())
        .unwrap();
    let layer = new.layers[0].clone();
    drop(new);
    let report = store.collect_garbage(&HashSet::from([old.to_string()])).await;
    assert!(report.removed_images.is_empty() && layer.join("bin/oak").exists());
    let report = store.collect_garbage(&HashSet::new()).await;
    assert_eq!(report.removed_images.len(), 1);
    assert!(!layer.exists());
}

#[tokio::test]
async fn sources_and_paths_that_cannot_be_are_errors() {
    let Some(world) = World::new() else { return };
    let store = world.open();
    let name = reference("oak.local/demo");
    for (path, source) in [
        ("/a", LocalSource::File("/no/such/file".into())),
        ("/a", LocalSource::File("/".into())),
        ("../a", LocalSource::Bytes(vec![])),
        ("/", LocalSource::Bytes(vec![])),
        ("/a", LocalSource::Symlink(String::new())),
    ] {
        let result =
            soon(store.install_local(&name, config(), vec![file(path, source.clone(), 0o644)])).await;
        assert!(result.is_err(), "{path} {source:?}");
    }
    assert!(world.names("layers").is_empty() && store.images().is_empty());
}
