//! Pulls that fail, and what the user reads then.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oak_image::{Credentials, Digest, ImageReference, ImageStore, PullError, PullErrorKind};
use tokio::sync::Semaphore;

use crate::registry::{Access, FakeRegistry, Fault};
use crate::{World, eventually, images, reference, soon};

async fn pull(store: &ImageStore, name: &ImageReference) -> PullError {
    soon(store.ensure(name, |_| ())).await.expect_err("the pull should fail")
}

async fn with_image(access: Access) -> (FakeRegistry, ImageReference) {
    let registry = FakeRegistry::start_with(access).await;
    registry.add_image("app", "1", &[images::gzip(&images::archive(&[("a", b"x")]))]);
    let name = reference(&format!("{}/app:1", registry.address));
    (registry, name)
}

#[tokio::test]
async fn a_missing_image_is_not_found() {
    let Some(world) = World::new() else { return };
    let (registry, _) = with_image(Access::Everyone).await;
    let error = pull(&world.open(), &reference(&format!("{}/foo:1", registry.address))).await;
    assert_eq!(error.kind(), PullErrorKind::NotFound);
    let address = &registry.address;
    assert_eq!(error.to_string(), format!("image {address}/foo:1 not found at registry {address}"));
}

#[tokio::test]
async fn missing_and_wrong_credentials_are_denied() {
    let Some(world) = World::new() else { return };
    for access in [Access::Token, Access::Basic] {
        let (registry, name) = with_image(access).await;
        for password in [None, Some("wrong")] {
            let mut config = world.config();
            config.directory = tempfile::tempdir_in(world.directory.path()).unwrap().keep();
            if let Some(password) = password {
                let credentials = Credentials { username: "user".into(), password: password.into() };
                config.credentials.insert(registry.address.clone(), credentials);
            }
            let error = pull(&ImageStore::open(config).unwrap(), &name).await;
            assert_eq!(error.kind(), PullErrorKind::Denied, "{error}");
            assert!(!format!("{error:?}").contains("wrong"));
        }
    }
}

#[tokio::test]
async fn a_registry_that_is_down_or_broken_is_reported_within_seconds() {
    let Some(world) = World::new() else { return };
    let store = world.open();
    let started = Instant::now();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = pull(&store, &reference(&format!("{closed}/app:1"))).await;
    assert_eq!(error.kind(), PullErrorKind::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");

    // Accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = pull(&store, &reference(&format!("{}/app:1", silent.local_addr().unwrap()))).await;
    assert_eq!(error.kind(), PullErrorKind::Unreachable, "{error}");

    let (registry, name) = with_image(Access::Everyone).await;
    for status in [500, 503, 429] {
        registry.fail("/manifests/1", Fault::Status(status), 1);
        let error = pull(&store, &name).await;
        assert_eq!(error.kind(), PullErrorKind::Unreachable);
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(8));
    soon(store.ensure(&name, |_| ())).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_does_not_speak_tls_is_explained() {
    let Some(world) = World::new() else { return };
    let (registry, _) = with_image(Access::Everyone).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut config = world.config();
    config.mirrors.insert(closed.clone(), vec![format!("https://{}", registry.address)]);
    let error = pull(&ImageStore::open(config).unwrap(), &reference(&format!("{closed}/app:1"))).await;
    assert_eq!(error.kind(), PullErrorKind::Unreachable, "{error}");
    let text = error.to_string();
    assert!(text.contains("refused") && text.contains(&format!("mirror {}", registry.address)), "{text}");
    assert!(text.contains("plain_http"), "{text}");
}

#[tokio::test]
async fn an_image_for_other_machines_is_refused_by_name() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let store = world.open();
    let (config, node) = (images::config("s390x"), images::architecture());
    registry.add_blob(&config);
    let layer = images::archive(&[("a", b"x")]);
    let manifest = images::manifest(images::OCI_MANIFEST, &config, std::slice::from_ref(&layer));
    registry.add_manifest("single", "1", images::OCI_MANIFEST, &manifest);
    let index = images::index(&[("s390x", &manifest), ("riscv64", &manifest)]);
    registry.add_manifest("several", "1", images::OCI_INDEX, &index);
    for (repository, built_for) in [("single", "s390x"), ("several", "s390x, riscv64")] {
        let name = reference(&format!("{}/{repository}:1", registry.address));
        let error = pull(&store, &name).await;
        assert_eq!(error.kind(), PullErrorKind::WrongArchitecture);
        assert_eq!(error.to_string(), format!("image {name} is built for {built_for}, this node is {node}"));
    }
    assert!(registry.seen_for(Digest::of(&layer)).is_empty(), "no layer was downloaded in vain");
}

#[tokio::test]
async fn lies_about_digests_are_damage() {
    let Some(world) = World::new() else { return };
    let (registry, _) = with_image(Access::Everyone).await;
    let store = world.open();
    let pinned = Digest::of(b"something else");
    registry.add_manifest("app", "1", images::OCI_MANIFEST, b"{}");
    registry.fail(&pinned, Fault::Status(404), 0);
    let (other, wanted) = (images::config(""), images::config(images::architecture()));
    // The path says one digest, the body has another.
    registry.add_manifest(
        "app",
        &pinned.to_string(),
        images::OCI_MANIFEST,
        &images::manifest("", &other, &[]),
    );
    let name = reference(&format!("{}/app@{pinned}", registry.address));
    assert_eq!(pull(&store, &name).await.kind(), PullErrorKind::Corrupt);
    // A configuration with wrong bytes.
    let digest = Digest::of(&wanted);
    registry.add_image("app", "2", &[images::archive(&[("b", b"x")])]);
    registry.fail(&digest, Fault::WrongBytes, 1);
    let error = pull(&store, &reference(&format!("{}/app:2", registry.address))).await;
    assert_eq!(error.kind(), PullErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn hostile_registries_cannot_fill_memory() {
    let Some(world) = World::new() else { return };
    let (registry, name) = with_image(Access::Everyone).await;
    let store = world.open();
    registry.fail("/manifests/1", Fault::Endless, 1);
    assert_eq!(pull(&store, &name).await.kind(), PullErrorKind::TooLarge);
    let config = Digest::of(&images::config(images::architecture()));
    registry.fail(&config, Fault::Endless, 1);
    assert_eq!(pull(&store, &name).await.kind(), PullErrorKind::TooLarge);
    let layer = Digest::of(&images::gzip(&images::archive(&[("a", b"x")])));
    registry.fail(&layer, Fault::Endless, 100);
    assert_eq!(pull(&store, &name).await.kind(), PullErrorKind::Corrupt);
}

#[tokio::test]
async fn layers_over_the_limits_are_too_large_and_leave_nothing() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    registry.add_image("app", "1", &[images::gzip(&images::archive(&[("zeros", &vec![0; 4 << 20])]))]);
    registry.add_image("fat", "1", &[images::bulky_layer(1, 200_000)]);
    registry.add_image("high", "1", &[images::archive(&[("a", b"")]), images::archive(&[("b", b"")])]);
    let mut config = world.config();
    config.limits.max_unpacked_layer_bytes = 1 << 20;
    config.limits.max_layer_bytes = 100_000;
    config.limits.max_layers = 1;
    let store = ImageStore::open(config).unwrap();
    for repository in ["app", "fat", "high"] {
        let error = pull(&store, &reference(&format!("{}/{repository}:1", registry.address))).await;
        assert_eq!(error.kind(), PullErrorKind::TooLarge, "{error}");
    }
    assert!(world.names("layers").is_empty() && world.names("blobs").is_empty());
}

#[tokio::test]
async fn a_layer_that_climbs_out_is_damage_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let mut archive = images::archive(&[("aa/evil", b"x")]);
    archive[..2].copy_from_slice(b"..");
    let mut header = tar::Header::from_byte_slice(&archive[..512]).clone();
    header.set_cksum();
    archive[..512].copy_from_slice(header.as_bytes());
    registry.add_image("app", "1", &[archive]);
    let error = pull(&world.open(), &reference(&format!("{}/app:1", registry.address))).await;
    assert_eq!(error.kind(), PullErrorKind::Corrupt);
    assert!(error.to_string().contains("../evil"), "{error}");
    assert!(world.names("layers").is_empty() && world.names("blobs").is_empty());
    assert!(!world.path().join("layers/evil").exists() && !world.path().join("evil").exists());
}

#[tokio::test]
async fn another_image_is_not_harmed_by_a_layer_its_neighbour_cannot_have() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let layer = images::bulky_layer(1, 50_000);
    registry.add_image("good", "1", std::slice::from_ref(&layer));
    registry.add_image("evil", "1", std::slice::from_ref(&layer));
    let digest = Digest::of(&layer);
    let gate = Arc::new(Semaphore::new(0));
    registry.fail(format!("evil/blobs/{digest}"), Fault::StatusAfter(404, Arc::clone(&gate)), 1);
    let store = world.open();
    let pull = |name: &str| {
        let (store, name) = (store.clone(), reference(&format!("{}/{name}:1", registry.address)));
        tokio::spawn(async move { store.ensure(&name, |_| ()).await })
    };
    let evil = pull("evil");
    eventually("the first asks for the layer", || !registry.seen_for(&digest).is_empty()).await;
    let good = pull("good");
    let config = Digest::of(&images::config(images::architecture()));
    eventually("the second is about to", || !registry.seen_for(format!("good/blobs/{config}")).is_empty())
        .await;
    gate.add_permits(1);
    assert_eq!(soon(evil).await.unwrap().unwrap_err().kind(), PullErrorKind::NotFound);
    soon(good).await.unwrap().unwrap();
}

/// A small filesystem of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &option, "none"]).arg(directory.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_noticed_before_it_is_full() {
    let Some(world) = World::new() else { return };
    let Some(disk) = SmallDisk::new("80m") else {
        eprintln!("skipped: tmpfs cannot be mounted here");
        return;
    };
    let registry = FakeRegistry::start().await;
    registry.add_image("large", "1", &[images::bulky_layer(1, 20 << 20)]);
    registry.add_image("bomb", "1", &[images::gzip(&images::archive(&[("zeros", &vec![0; 60 << 20])]))]);
    let mut config = world.config();
    config.directory = disk.0.path().join("store");
    let store = ImageStore::open(config.clone()).unwrap();
    for repository in ["large", "bomb"] {
        let error = pull(&store, &reference(&format!("{}/{repository}:1", registry.address))).await;
        assert_eq!(error.kind(), PullErrorKind::DiskFull, "{error}");
    }
    let left = ["layers", "blobs", "images"].map(|name| crate::names(&config.directory.join(name)));
    assert!(left.iter().all(Vec::is_empty), "nothing is left behind: {left:?}");
}
