//! Logs of real programs.

use futures_util::StreamExt;
use oak_runtime::{LogQuery, Runtime, read_logs};

use crate::world::{World, id, soon};

#[tokio::test]
async fn much_output_is_kept_in_two_bounded_files() {
    let Some(world) = World::new() else { return };
    let mut request = world.program("a", &["seq", "1", "200000"]);
    request.log.max_bytes = 256 << 10;
    let (status, said) = world.run(request).await.unwrap();
    assert!(status.is_success());
    assert!(said.ends_with("\n199999\n200000\n"));
    for name in ["log", "log.1"] {
        let size = std::fs::metadata(world.log_directory("a").join(name)).unwrap().len();
        assert!(size <= 256 << 10, "{name} has {size} bytes");
    }
}

#[tokio::test]
async fn an_unfinished_line_is_seen_while_the_program_waits() {
    let Some(world) = World::new() else { return };
    let script = "echo -n 'password: '; sleep 1000";
    world.runtime.create(world.shell("a", script)).await.unwrap();
    world.hears("a", "password: ").await;
}

#[tokio::test]
async fn a_follower_sees_lines_of_one_container_after_the_other() {
    let Some(world) = World::new() else { return };
    world.run(world.shell("a", "echo one; echo two")).await.unwrap();
    let query = LogQuery { tail_lines: Some(1), follow: true, ..LogQuery::default() };
    let mut stream = read_logs(world.log_directory("a"), query);
    assert_eq!(soon(stream.next()).await.unwrap().unwrap(), "two\n");
    world.run(world.shell("a", "echo three")).await.unwrap();
    assert_eq!(soon(stream.next()).await.unwrap().unwrap(), "three\n");
}

#[tokio::test]
async fn closing_output_does_not_end_a_container() {
    let Some(world) = World::new() else { return };
    let script = "trap 'exit 5' TERM; echo last; exec >&- 2>&-; while :; do sleep 0.05; done";
    let (_, observer) = world.runtime.create(world.shell("a", script)).await.unwrap();
    world.hears("a", "last").await;
    world.runtime.signal(&id("a"), oak_runtime::Signal::TERM).await.unwrap();
    assert_eq!(soon(observer).await.code, Some(5));
}
