//! Memory, processor, processes; and how use is measured.

use std::time::{Duration, Instant};

use oak_runtime::{Runtime, Stats, StatsError};

use crate::world::{World, id, soon};

#[tokio::test]
async fn a_memory_hog_is_killed_and_the_reason_known() {
    let Some(world) = World::new() else { return };
    // tail keeps a line in memory however long it is
    let mut request = world.program("a", &["tail", "/dev/zero"]);
    request.limits.memory_bytes = Some(16 << 20);
    let (status, _) = world.run(request).await.unwrap();
    assert!(status.out_of_memory, "{status}");
    assert_eq!(status.signal, Some(9));
}

#[tokio::test]
async fn a_lost_helper_counts_only_if_the_program_fails() {
    let Some(world) = World::new() else { return };
    for (ending, expected) in [("exit 1", true), ("exit 0", false)] {
        let mut request = world.shell("a", &format!("tail /dev/zero; {ending}"));
        request.limits.memory_bytes = Some(16 << 20);
        let (status, _) = world.run(request).await.unwrap();
        assert_eq!(status.out_of_memory, expected, "{ending}: {status}");
    }
}

#[tokio::test]
async fn a_busy_program_is_held_at_its_quota() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", "echo up; while :; do :; done");
    request.limits.cpu_millis = Some(200);
    world.runtime.create(request).await.unwrap();
    world.hears("a", "up").await;
    let (begin, first) = (Instant::now(), world.runtime.stats(&id("a")).await.unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (wall, last) = (begin.elapsed(), world.runtime.stats(&id("a")).await.unwrap());
    let used = last.cpu.saturating_sub(first.cpu).as_secs_f64() / wall.as_secs_f64();
    assert!(used < 0.26, "used {used} of a processor");
    assert!(used > 0.02, "used {used} of a processor");
}

#[tokio::test]
async fn processes_are_counted_and_limited() {
    let Some(world) = World::new() else { return };
    let script = "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done; echo end; sleep 100";
    let mut request = world.shell("a", script);
    request.limits.pids = Some(10);
    let (_, observer) = world.runtime.create(request).await.unwrap();
    // the shell gives up when it cannot fork
    let status = soon(observer).await;
    assert_ne!(status.code, Some(0));
    assert!(world.said("a").contains("fork"), "{}", world.said("a"));
}

#[tokio::test]
async fn use_is_measured() {
    let Some(world) = World::new() else { return };
    let script = "dd if=/dev/zero of=/file bs=1M count=3 2>/dev/null; sleep 100 & echo up; wait";
    let (_, observer) = world.runtime.create(world.shell("a", script)).await.unwrap();
    world.hears("a", "up").await;
    let Stats { cpu, memory_bytes, pids, disk_bytes } = world.runtime.stats(&id("a")).await.unwrap();
    assert!(cpu > Duration::ZERO);
    assert!(memory_bytes > 10_000 && memory_bytes < 50 << 20, "{memory_bytes}");
    assert_eq!(pids, 2);
    let disk = disk_bytes.unwrap();
    assert!((3 << 20..4 << 20).contains(&disk), "{disk}");
    world.runtime.delete(&id("a")).await.unwrap();
    soon(observer).await;
    let gone = world.runtime.stats(&id("a")).await;
    assert!(matches!(gone, Err(StatsError::NotFound { .. })), "{gone:?}");
}
