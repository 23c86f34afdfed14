//! What garbage collection takes and what it leaves.

use std::collections::HashSet;
use std::sync::Arc;

use oak_image::{Digest, ImageReference, ImageStore};
use tokio::sync::Semaphore;

use crate::registry::{FakeRegistry, Fault};
use crate::{World, eventually, images, reference, soon};

/// A store over its limit with `one`, `two`, `three` (used in this order), which share a base layer.
async fn filled(world: &World, limit: u64) -> (FakeRegistry, ImageStore, [ImageReference; 3]) {
    let registry = FakeRegistry::start().await;
    let base = images::bulky_layer(0, 10_000);
    let names = ["one", "two", "three"];
    for (seed, name) in (1..).zip(names) {
        registry.add_image(name, "1", &[base.clone(), images::bulky_layer(seed, 10_000)]);
    }
    let mut config = world.config();
    config.size_limit_bytes = limit;
    let store = ImageStore::open(config).unwrap();
    let references = names.map(|name| reference(&format!("{}/{name}:1", registry.address)));
    for name in &references {
        soon(store.ensure(name, |_| ())).await.unwrap();
    }
    (registry, store, references)
}

fn in_use(texts: &[&dyn std::fmt::Display]) -> HashSet<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_shared_layers_stay() {
    let Some(world) = World::new() else { return };
    let layer = 12_288 + 4096;
    let (_registry, store, [one, two, three]) = filled(&world, 3 * layer).await;
    assert_eq!(store.used_bytes(), 4 * layer);
    soon(store.ensure(&one, |_| ())).await.unwrap();
    let report = store.collect_garbage(&HashSet::new()).await;
    assert_eq!(report.removed_images, std::slice::from_ref(&two));
    assert_eq!((report.removed_layers, report.freed_bytes, report.used_bytes), (1, layer, 3 * layer));
    assert!(!report.is_over_limit);
    assert!(store.find(&two).is_none());
    for kept in [one, three] {
        let image = store.find(&kept).unwrap();
        assert!(image.layers.iter().all(|layer| layer.join("bulk").exists()));
    }
    assert_eq!(world.names("layers").len(), 6, "three layers and their descriptions");
    assert_eq!(world.names("images").len(), 2);
    // Within the limit nothing goes.
    assert_eq!(store.collect_garbage(&HashSet::new()).await.removed_images, []);
}

#[tokio::test]
async fn what_is_in_use_stays_and_the_report_says_so() {
    let Some(world) = World::new() else { return };
    let (_registry, store, [one, two, three]) = filled(&world, 0).await;
    let digest = store.find(&two).unwrap().digest.clone();
    let held = store.find(&three).unwrap();
    let report = store.collect_garbage(&in_use(&[&one, &digest])).await;
    assert_eq!(report.removed_images, []);
    assert!(report.is_over_limit);
    drop(held);
    let report = store.collect_garbage(&in_use(&[&one, &digest])).await;
    assert_eq!(report.removed_images, [three]);
    let report = store.collect_garbage(&HashSet::new()).await;
    assert_eq!(report.removed_images.len(), 2);
    assert_eq!((report.used_bytes, store.used_bytes()), (0, 0));
    assert!(world.names("layers").is_empty() && world.names("images").is_empty());
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let Some(world) = World::new() else { return };
    let (_registry, store, [one, two, three]) = filled(&world, 0).await;
    drop(store);
    let mut config = world.config();
    config.size_limit_bytes = 0;
    let store = ImageStore::open(config).unwrap();
    let report = store.collect_garbage(&HashSet::new()).await;
    assert_eq!(report.removed_images, [one, two, three]);
}

#[tokio::test]
async fn a_running_pull_keeps_its_layers_and_its_download() {
    let Some(world) = World::new() else { return };
    let (registry, store, references) = filled(&world, 0).await;
    let slow = images::bulky_layer(9, 100_000);
    registry.add_image("four", "1", &[images::bulky_layer(0, 10_000), slow.clone()]);
    let gate = Arc::new(Semaphore::new(0));
    registry.fail(Digest::of(&slow), Fault::HoldAfter(50_000, Arc::clone(&gate)), 1);
    let four = reference(&format!("{}/four:1", registry.address));
    let pull = tokio::spawn({
        let (store, four) = (store.clone(), four.clone());
        async move { store.ensure(&four, |_| ()).await }
    });
    eventually("the download runs", || !world.names("blobs").is_empty()).await;
    let report = store.collect_garbage(&HashSet::new()).await;
    assert_eq!(report.removed_images, references, "none of the others is needed");
    assert_eq!(world.names("layers").len(), 2, "the base layer is needed by the running pull");
    gate.add_permits(1);
    let image = soon(pull).await.unwrap().unwrap();
    assert!(image.layers.iter().all(|layer| layer.join("bulk").exists()));
    assert_eq!(registry.seen_for(Digest::of(&slow)).len(), 1, "the download was not disturbed");
}

#[tokio::test]
async fn pulls_and_collections_at_the_same_time_do_no_harm() {
    let Some(world) = World::new() else { return };
    let (_registry, store, references) = filled(&world, 0).await;
    let collector = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..50 {
                store.collect_garbage(&HashSet::new()).await;
            }
        }
    });
    let mut pulls = Vec::new();
    for name in references.iter().cycle().take(60) {
        let (store, name) = (store.clone(), name.clone());
        pulls.push(tokio::spawn(async move {
            let image = store.ensure(&name, |_| ()).await.unwrap();
            assert!(image.layers.iter().all(|layer| layer.join("bulk").exists()));
        }));
        tokio::task::yield_now().await;
    }
    for pull in pulls {
        soon(pull).await.unwrap();
    }
    soon(collector).await.unwrap();
    assert_eq!(store.collect_garbage(&HashSet::new()).await.used_bytes, 0);
    assert!(world.names("layers").is_empty(), "{:?}", world.names("layers"));
}

#[tokio::test]
async fn a_given_up_download_goes_when_space_is_needed() {
    let Some(world) = World::new() else { return };
    let registry = FakeRegistry::start().await;
    let layer = images::bulky_layer(9, 100_000);
    registry.add_image("app", "1", std::slice::from_ref(&layer));
    registry.fail(Digest::of(&layer), Fault::HoldAfter(50_000, Arc::new(Semaphore::new(0))), 1);
    let name = reference(&format!("{}/app:1", registry.address));
    for (limit, kept) in [(1 << 20, 1), (1000, 0)] {
        let mut config = world.config();
        config.size_limit_bytes = limit;
        let store = ImageStore::open(config).unwrap();
        if kept == 1 {
            let pull = tokio::spawn({
                let (store, name) = (store.clone(), name.clone());
                async move { store.ensure(&name, |_| ()).await }
            });
            let blobs = world.path().join("blobs");
            let size = || {
                std::fs::read_dir(&blobs)
                    .unwrap()
                    .map(|it| it.unwrap().metadata().unwrap().len())
                    .sum::<u64>()
            };
            eventually("half of it is here", || size() == 50_000).await;
            pull.abort();
            assert!(pull.await.is_err());
        }
        let report = store.collect_garbage(&HashSet::new()).await;
        assert_eq!(world.names("blobs").len(), kept);
        assert_eq!(report.freed_bytes, if kept == 1 { 0 } else { 50_000 });
    }
}
