//! Pulls that succeed: formats, platforms, credentials, mirrors, and doing everything once.

use std::fs;
use std::sync::{Arc, Mutex};

use oak_image::{Credentials, ImageStore, PullPhase};
use tokio::sync::Semaphore;

use crate::registry::{Access, FakeRegistry, Fault};
use crate::{World, eventually, images, reference, soon};

#[tokio::test]
async fn an_image_for_several_platforms_arrives_with_its_layers_in_order() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let layers = [
        images::gzip(&images::archive(&[("etc/name", b"lowest")])),
        images::zstd(&images::archive(&[("etc/name", b"middle"), ("usr/bin/tool", b"tool")])),
        images::archive(&[("etc/name", b"top")]),
    ];
    let config = images::config(images::architecture());
    let manifest = images::manifest(images::OCI_MANIFEST, &config, &layers);
    let digest = registry.add_manifest("team/app", "by-digest-only", images::OCI_MANIFEST, &manifest);
    registry.add_blob(&config);
    for layer in &layers {
        registry.add_blob(layer);
    }
    let index = images::index(&[("s390x", b"other"), (images::architecture(), &manifest)]);
    let index_digest = registry.add_manifest("team/app", "1.0", images::OCI_INDEX, &index);
    let store = world.open();
    let name = reference(&format!("{}/team/app:1.0", registry.address));
    let image = soon(store.ensure(&name, |_| ())).await.unwrap();
    assert_eq!((&image.reference, &image.digest), (&name, &digest));
    assert_eq!(
        (image.config.entrypoint.as_slice(), image.config.cmd.as_slice()),
        (&["/entry".to_owned()][..], &["arg".to_owned()][..])
    );
    assert_eq!((image.config.user.as_str(), image.config.stop_signal.as_str()), ("7:8", "SIGQUIT"));
    let names: Vec<String> =
        image.layers.iter().map(|layer| fs::read_to_string(layer.join("etc/name")).unwrap()).collect();
    assert_eq!(names, ["lowest", "middle", "top"]);
    assert!(image.size_bytes > 0 && store.used_bytes() == image.size_bytes);
    assert!(world.names("blobs").is_empty(), "compressed blobs are dropped");

    // Pinned to the index as well; nothing but the two manifests and the configuration is fetched again.
    let before = registry.seen().len();
    let pinned = reference(&format!("{}/team/app@{index_digest}", registry.address));
    assert_eq!(soon(store.ensure(&pinned, |_| ())).await.unwrap().layers, image.layers);
    assert_eq!(registry.seen().len(), before + 3);
}

#[tokio::test]
async fn a_local_copy_counts_even_after_a_restart_without_network() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    registry.add_image("app", "1", &[images::gzip(&images::archive(&[("a", b"x")]))]);
    let name = reference(&format!("{}/app:1", registry.address));
    let first = {
        let store = world.open();
        let image = soon(store.ensure(&name, |_| ())).await.unwrap();
        let seen = registry.seen().len();
        assert!(Arc::ptr_eq(&image, &soon(store.ensure(&name, |_| ())).await.unwrap()));
        assert_eq!(registry.seen().len(), seen, "not asked again");
        assert!(ImageStore::open(world.config()).is_err(), "one process at a time");
        image
    };
    drop(registry);
    let store = world.open();
    assert_eq!(soon(store.ensure(&name, |_| ())).await.unwrap(), first);
    assert_eq!(store.images().len(), 1);
    assert!(!store.images()[0].is_local);
}

#[tokio::test]
async fn docker_manifests_and_repeated_layers_work() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let config = images::config("");
    let (a, b) = (images::gzip(&images::archive(&[("a", b"x")])), images::gzip(&images::archive(&[])));
    let manifest = images::manifest(images::DOCKER_MANIFEST, &config, &[b.clone(), a.clone(), b.clone()]);
    registry.add_manifest("app", "latest", images::DOCKER_MANIFEST, &manifest);
    for blob in [&config, &a, &b] {
        registry.add_blob(blob);
    }
    let name = reference(&format!("{}/app", registry.address));
    let image = soon(world.open().ensure(&name, |_| ())).await.unwrap();
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].join("a").exists());
}

#[tokio::test]
async fn many_who_want_one_image_download_it_once_even_if_the_first_gives_up() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let layer = images::bulky_layer(1, 100_000);
    registry.add_image("app", "1", std::slice::from_ref(&layer));
    let digest = oak_image::Digest::of(&layer);
    let gate = Arc::new(Semaphore::new(0));
    registry.fail(&digest, Fault::HoldAfter(50_000, Arc::clone(&gate)), 1);
    let (store, name) = (world.open(), reference(&format!("{}/app:1", registry.address)));
    let waiter = || {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move { store.ensure(&name, |_| ()).await })
    };
    let first = waiter();
    eventually("the download begins", || !registry.seen_for(&digest).is_empty()).await;
    let others: Vec<_> = (0..20).map(|_| waiter()).collect();
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    for other in others {
        soon(other).await.unwrap().unwrap();
    }
    assert_eq!(registry.seen().len(), 3, "manifest, configuration, layer: {:?}", registry.seen());
}

#[tokio::test]
async fn images_pulled_at_the_same_time_share_the_download_of_a_layer() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let base = images::bulky_layer(1, 100_000);
    let digest = oak_image::Digest::of(&base);
    registry.add_image("one", "1", &[base.clone(), images::gzip(&images::archive(&[("one", b"1")]))]);
    registry.add_image("two", "1", &[base, images::gzip(&images::archive(&[("two", b"2")]))]);
    let gate = Arc::new(Semaphore::new(0));
    registry.fail(&digest, Fault::HoldAfter(50_000, Arc::clone(&gate)), 1);
    let store = world.open();
    let names = ["one", "two"].map(|name| reference(&format!("{}/{name}:1", registry.address)));
    let [one, two] = names.map(|name| {
        let store = store.clone();
        tokio::spawn(async move { store.ensure(&name, |_| ()).await })
    });
    eventually("both have their own layer", || world.names("layers").len() == 4).await;
    gate.add_permits(1);
    let (one, two) = (soon(one).await.unwrap().unwrap(), soon(two).await.unwrap().unwrap());
    assert_eq!(one.layers[0], two.layers[0]);
    assert_ne!(one.layers[1], two.layers[1]);
    assert_eq!(registry.seen_for(&digest).len(), 1);
}

#[tokio::test]
async fn progress_tells_bytes_and_ends_with_done() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let layer = images::bulky_layer(1, 100_000);
    registry.add_image("app", "1", std::slice::from_ref(&layer));
    let gate = Arc::new(Semaphore::new(0));
    registry.fail(oak_image::Digest::of(&layer), Fault::HoldAfter(43_000, Arc::clone(&gate)), 1);
    let (store, name) = (world.open(), reference(&format!("{}/app:1", registry.address)));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let task = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move { store.ensure(&name, move |progress| heard.lock().unwrap().push(progress)).await }
    });
    let at = |bytes| heard.lock().unwrap().iter().any(|it: &oak_image::PullProgress| it.bytes_done == bytes);
    eventually("the first part is reported", || at(43_000)).await;
    gate.add_permits(1);
    soon(task).await.unwrap().unwrap();
    let heard = heard.lock().unwrap();
    let part = heard.iter().find(|it| it.bytes_done == 43_000).unwrap();
    let percent = u8::try_from(43_000 * 100 / layer.len()).unwrap();
    assert_eq!((part.phase, part.percent(), part.layers_total), (PullPhase::Downloading, Some(percent), 1));
    let last = heard.last().unwrap();
    assert_eq!((last.phase, last.percent(), last.layers_done), (PullPhase::Done, Some(100), 1));
}

#[tokio::test]
async fn no_more_images_are_pulled_at_once_than_allowed() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut names = Vec::new();
    for number in 0..3 {
        let layer = images::bulky_layer(number, 10_000);
        registry.add_image(&format!("app{number}"), "1", std::slice::from_ref(&layer));
        registry.fail(oak_image::Digest::of(&layer), Fault::HoldAfter(1000, Arc::clone(&gate)), 1);
        names.push(reference(&format!("{}/app{number}:1", registry.address)));
    }
    let store = world.open();
    let phase = Arc::new(Mutex::new(None));
    let tasks: Vec<_> = names
        .into_iter()
        .enumerate()
        .map(|(number, name)| {
            let (store, phase) = (store.clone(), Arc::clone(&phase));
            tokio::spawn(async move {
                let note = |progress: oak_image::PullProgress| {
                    if number == 2 {
                        *phase.lock().unwrap() = Some(progress.phase);
                    }
                };
                store.ensure(&name, note).await
            })
        })
        .collect();
    eventually("two layers are being downloaded", || world.names("blobs").len() == 2).await;
    eventually("the third waits", || *phase.lock().unwrap() == Some(PullPhase::Waiting)).await;
    assert!(registry.seen().iter().all(|seen| !seen.path.contains("app2")));
    gate.add_permits(3);
    for task in tasks {
        soon(task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn tokens_and_passwords_open_registries() {
    let Some(world) = World::new() else { return };
    for access in [Access::Token, Access::AnonymousToken, Access::Basic] {
        let registry = FakeRegistry::start_with(access).await;
        registry.add_image("app", "1", &[images::gzip(&images::archive(&[("a", b"x")]))]);
        let mut config = world.config();
        config.directory = tempfile::tempdir_in(world.directory.path()).unwrap().keep();
        if access != Access::AnonymousToken {
            let credentials = Credentials { username: "user".into(), password: "password".into() };
            config.credentials.insert(registry.address.clone(), credentials);
        }
        let store = ImageStore::open(config).unwrap();
        let name = reference(&format!("{}/app:1", registry.address));
        soon(store.ensure(&name, |_| ())).await.unwrap();
        let tokens = registry.seen_for("/token").len();
        assert_eq!(tokens, usize::from(access != Access::Basic), "one token for all requests");
        assert_eq!(registry.seen().len() - tokens, 4, "only the first request is refused");
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let Some(world) = World::new() else { return };
    let (empty, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    registry.add_image("library/app", "latest", &[images::gzip(&images::archive(&[("a", b"x")]))]);
    let mut config = world.config();
    let mirrors = vec![dead, format!("http://{}", empty.address), registry.address.clone()];
    config.mirrors.insert("docker.io".into(), mirrors);
    let store = ImageStore::open(config).unwrap();
    // The third mirror answers; docker.io itself is never asked.
    soon(store.ensure(&reference("app"), |_| ())).await.unwrap();
    assert_eq!(empty.seen().len(), 1, "asked once, for the manifest: {:?}", empty.seen());
    assert_eq!(registry.seen().len(), 3);
}
