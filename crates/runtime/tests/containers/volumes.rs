//! Folders that outlive containers, and files shown inside.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use oak_runtime::{BindMount, ContainerRequest, CreateError, FailureKind, FolderMount};

use crate::world::World;

fn folder(world: &World, folder: &str, target: &str) -> FolderMount {
    FolderMount { root: world.path().join("hostpath"), folder: folder.into(), target: target.into() }
}

fn with_folder(world: &World, script: &str, name: &str) -> ContainerRequest {
    let mut request = world.shell("a", script);
    request.folders = vec![folder(world, name, "/data/shop")];
    request
}

#[tokio::test]
async fn what_is_written_to_a_folder_is_there_for_the_next_container() {
    let Some(world) = World::new() else { return };
    let (status, said) =
        world.run(with_folder(&world, "echo one > /data/shop/file", "shop/db")).await.unwrap();
    assert!(status.is_success(), "{said}");
    let written = world.path().join("hostpath/shop/db/file");
    assert_eq!(fs::read_to_string(&written).unwrap(), "one\n");
    let (_, said) = world.run(with_folder(&world, "cat /data/shop/file", "shop/db")).await.unwrap();
    assert!(said.contains("one\n"), "{said}");
    assert!(written.exists(), "removing a container leaves its folders alone");
}

#[tokio::test]
async fn a_new_folder_belongs_to_the_user_of_the_image() {
    let Some(world) = World::new() else { return };
    let mut request = with_folder(&world, "id -u; echo mine > /data/shop/file", "web");
    request.user = "web".into();
    let (status, said) = world.run(request).await.unwrap();
    assert!(status.is_success(), "{said}");
    let facts = fs::metadata(world.path().join("hostpath/web")).unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o777), (1001, 1002, 0o770));
    let root = fs::metadata(world.path().join("hostpath")).unwrap();
    assert_eq!((root.uid(), root.mode() & 0o777), (0, 0o700), "nobody else of the host looks into it");
}

#[tokio::test]
async fn no_link_leads_out_of_the_root() {
    let Some(world) = World::new() else { return };
    let root = world.path().join("hostpath");
    fs::create_dir_all(root.join("shop")).unwrap();
    fs::create_dir(world.path().join("secret")).unwrap();
    symlink("../../secret", root.join("shop/out")).unwrap();
    symlink(world.path().join("secret"), root.join("absolute")).unwrap();
    for name in ["shop/out", "absolute", "shop/out/deeper"] {
        let refused = world.run(with_folder(&world, "true", name)).await;
        let Err(CreateError::Failed { kind: FailureKind::Mount, message, .. }) = refused else {
            panic!("{name}: {refused:?}")
        };
        assert!(message.contains("symbolic link"), "{message}");
    }
    assert_eq!(fs::read_dir(world.path().join("secret")).unwrap().count(), 0);
    for name in ["..", "../secret", "/etc", "a/../../secret", ""] {
        let refused = world.run(with_folder(&world, "true", name)).await;
        assert!(matches!(refused, Err(CreateError::Invalid(_))), "{name}: {refused:?}");
    }
    assert!(world.traces().is_empty(), "{:?}", world.traces());
}

#[tokio::test]
async fn a_folder_that_is_swapped_again_and_again_never_leads_out() {
    let Some(world) = World::new() else { return };
    let root = world.path().join("hostpath");
    fs::create_dir_all(root.join("shop/db")).unwrap();
    fs::create_dir(world.path().join("secret")).unwrap();
    fs::write(world.path().join("secret/key"), "secret\n").unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, place, secret) = (stop.clone(), root.join("shop"), world.path().join("secret"));
        std::thread::spawn(move || {
            let (present, aside) = (place.join("db"), place.join("aside"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&present, &aside).unwrap();
                symlink(&secret, &present).unwrap();
                fs::remove_file(&present).unwrap();
                fs::rename(&aside, &present).unwrap();
            }
        })
    };
    let mut outcomes = [0, 0];
    for _ in 0..30 {
        match world.run(with_folder(&world, "ls /data/shop", "shop/db")).await {
            Ok((_, said)) => {
                assert!(!said.contains("key"), "{said}");
                outcomes[0] += 1;
            }
            Err(_) => outcomes[1] += 1,
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    // While the folder is away another one may have been made, and the swapper stumbles over it: that is its end.
    let _ = swapper.join();
    assert_eq!(outcomes.iter().sum::<i32>(), 30, "{outcomes:?}");
    assert!(Path::new(&world.path().join("secret/key")).exists());
}

#[tokio::test]
async fn files_and_folders_may_lie_in_each_other() {
    let Some(world) = World::new() else { return };
    let mut request =
        world.shell("a", "cat /data/a.conf; ls /data/inner; echo x > /data/a.conf || echo read-only");
    request.folders = vec![folder(&world, "outer", "/data"), folder(&world, "inner", "/data/inner")];
    let file = world.path().join("file");
    fs::write(&file, "added\n").unwrap();
    request.mounts = vec![BindMount { source: file, target: "/data/a.conf".into(), read_only: true }];
    fs::create_dir_all(world.path().join("hostpath/inner")).unwrap();
    fs::write(world.path().join("hostpath/inner/deep"), "").unwrap();
    let (_, said) = world.run(request).await.unwrap();
    for expected in ["added\n", "deep\n", "read-only\n"] {
        assert!(said.contains(expected), "{said}");
    }
}
