//! Interrupted downloads: broken connections, given-up pulls, killed processes.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use oak_image::{Digest, ImageStore, ImageStoreConfig, PullErrorKind};
use tokio::sync::Semaphore;

use crate::registry::{FakeRegistry, Fault};
use crate::{World, eventually, images, names, reference, soon};

const LAYER_BYTES: usize = 200_000;

fn ranges(registry: &FakeRegistry, digest: &Digest) -> Vec<Option<String>> {
    registry.seen_for(digest).into_iter().map(|seen| seen.range).collect()
}

fn partial_bytes(directory: &Path) -> u64 {
    names(directory).iter().map(|name| std::fs::metadata(directory.join(name)).map_or(0, |it| it.len())).sum()
}

/// A registry with one image of one bulky layer.
async fn serve() -> (FakeRegistry, Digest, oak_image::ImageReference) {
    let registry = FakeRegistry::start().await;
    let layer = images::bulky_layer(1, LAYER_BYTES);
    registry.add_image("app", "1", std::slice::from_ref(&layer));
    let name = reference(&format!("{}/app:1", registry.address));
    (registry, Digest::of(&layer), name)
}

/// Starts a pull and drops it when 60 kB are on disk.
async fn give_up_after_60_kb(
    world: &World,
    store: &ImageStore,
    registry: &FakeRegistry,
    digest: &Digest,
    name: &oak_image::ImageReference,
) {
    registry.fail(digest, Fault::HoldAfter(60_000, Arc::new(Semaphore::new(0))), 1);
    let waiter = tokio::spawn({
        let (store, name) = (store.clone(), name.clone());
        async move { store.ensure(&name, |_| ()).await }
    });
    eventually("60 kB are here", || partial_bytes(&world.path().join("blobs")) == 60_000).await;
    waiter.abort();
    assert!(waiter.await.is_err());
}

#[tokio::test]
async fn a_broken_connection_is_continued_where_it_broke() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    registry.fail(&digest, Fault::DropAfter(60_000), 2);
    soon(world.open().ensure(&name, |_| ())).await.unwrap();
    let expected = [None, Some("bytes=60000-".to_owned()), Some("bytes=120000-".to_owned())];
    assert_eq!(ranges(&registry, &digest), expected);
}

#[tokio::test]
async fn a_download_that_stands_still_is_asked_for_again() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    registry.fail(&digest, Fault::HoldAfter(60_000, Arc::new(Semaphore::new(0))), 1);
    soon(world.open().ensure(&name, |_| ())).await.unwrap();
    assert_eq!(ranges(&registry, &digest), [None, Some("bytes=60000-".to_owned())]);
}

#[tokio::test]
async fn a_given_up_pull_is_resumed_even_after_a_restart() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    let store = world.open();
    give_up_after_60_kb(&world, &store, &registry, &digest, &name).await;
    drop(store);
    soon(world.open().ensure(&name, |_| ())).await.unwrap();
    assert_eq!(ranges(&registry, &digest), [None, Some("bytes=60000-".to_owned())]);
}

#[tokio::test]
async fn a_registry_without_ranges_sends_everything_again() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    registry.fail(&digest, Fault::DropAfter(60_000), 1);
    registry.fail(&digest, Fault::IgnoreRange, 1);
    soon(world.open().ensure(&name, |_| ())).await.unwrap();
    assert_eq!(ranges(&registry, &digest), [None, Some("bytes=60000-".to_owned())]);
}

#[tokio::test]
async fn a_damaged_head_start_is_noticed_and_thrown_away() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    let store = world.open();
    give_up_after_60_kb(&world, &store, &registry, &digest, &name).await;
    let blobs = world.path().join("blobs");
    let partial = blobs.join(&names(&blobs)[0]);
    let mut file = std::fs::File::options().write(true).open(partial).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(b"damage").unwrap();
    soon(store.ensure(&name, |_| ())).await.unwrap();
    assert_eq!(ranges(&registry, &digest), [None, Some("bytes=60000-".to_owned()), None]);
    assert!(names(&blobs).is_empty());
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_not_kept() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    registry.fail(&digest, Fault::WrongBytes, 1);
    let store = world.open();
    let error = soon(store.ensure(&name, |_| ())).await.unwrap_err();
    assert_eq!(error.kind(), PullErrorKind::Corrupt, "{error}");
    assert!(world.names("blobs").is_empty() && world.names("layers").is_empty());
    soon(store.ensure(&name, |_| ())).await.unwrap();
}

const KILLED_STORE: &str = "OAK_IMAGE_TEST_KILLED_STORE";
const KILLED_IMAGE: &str = "OAK_IMAGE_TEST_KILLED_IMAGE";

/// Ends a child process of a test whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process that [`a_process_killed_in_the_middle_leaves_nothing_but_a_head_start`] kills; does nothing by itself.
#[tokio::test]
async fn child_that_pulls_until_killed() {
    let (Ok(directory), Ok(image)) = (std::env::var(KILLED_STORE), std::env::var(KILLED_IMAGE)) else {
        return;
    };
    crate::install_tls_provider();
    // Nothing here may need cleaning up: this process does not get that far.
    let config = ImageStoreConfig::new(directory);
    let _ = ImageStore::open(config).unwrap().ensure(&reference(&image), |_| ()).await;
}

#[tokio::test]
async fn a_process_killed_in_the_middle_leaves_nothing_but_a_head_start() {
    let Some(world) = World::new() else { return };
    let (registry, digest, name) = serve().await;
    registry.fail(&digest, Fault::HoldAfter(60_000, Arc::new(Semaphore::new(0))), 1);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resume::child_that_pulls_until_killed"])
        .env(KILLED_STORE, world.path())
        .env(KILLED_IMAGE, name.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let blobs = world.path().join("blobs");
    eventually("the child has 60 kB", || blobs.is_dir() && partial_bytes(&blobs) == 60_000).await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // What kills at other instants leave: layers being built or removed, layers without description and the reverse.
    let layers = world.path().join("layers");
    let stray = Digest::of(b"stray");
    for directory in [".tmp-7", stray.hex()] {
        std::fs::create_dir_all(layers.join(directory).join("etc")).unwrap();
    }
    let other = Digest::of(b"other");
    std::fs::write(
        layers.join(format!("{}.json", other.hex())),
        r#"{"unpacked_bytes":1,"entries":1,"opaque_root":false}"#,
    )
    .unwrap();
    std::fs::write(world.path().join("images/half.tmp"), "{").unwrap();
    std::fs::write(blobs.join("unknown"), "x").unwrap();
    let store = world.open();
    assert!(world.names("layers").is_empty() && world.names("images").is_empty());
    assert_eq!(world.names("blobs").len(), 1);
    soon(store.ensure(&name, |_| ())).await.unwrap();
    assert_eq!(ranges(&registry, &digest), [None, Some("bytes=60000-".to_owned())]);
}
