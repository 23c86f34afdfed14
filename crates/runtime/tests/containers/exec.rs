//! Other programs in a running container.

use std::time::Duration;

use oak_runtime::{Exec, ExecError, ExecIo, ExecOutput, ExecRequest, FailureKind, Runtime, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, id, soon, until};

const IDLE: &str = "trap 'exit 0' TERM; sleep 1000 & echo up; wait";

fn shell(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script].map(str::to_owned).to_vec())
}

async fn exec(world: &World, request: ExecRequest) -> Result<Exec, ExecError> {
    soon(world.runtime.exec(&id("a"), request)).await
}

async fn output(world: &World, script: &str) -> ExecOutput {
    soon(exec(world, shell(script)).await.unwrap().collect(1 << 16)).await.unwrap()
}

async fn said(world: &World, script: &str) -> String {
    String::from_utf8(output(world, script).await.output).unwrap()
}

#[tokio::test]
async fn a_program_runs_in_the_container_and_its_end_and_output_are_known() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", IDLE);
    request.environment = vec!["COLOR=red".into()];
    world.runtime.create(request).await.unwrap();
    world.hears("a", "up").await;
    let ended = output(&world, "echo out; echo err >&2; exit 7").await;
    assert_eq!((ended.status.code, ended.status.signal), (Some(7), None));
    let text = String::from_utf8(ended.output).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    assert_eq!(output(&world, "kill -9 $$").await.status.signal, Some(9));
    assert_eq!(said(&world, "cat /etc/motd; echo $COLOR; pwd; hostname").await, "upper\nred\n/\na\n");
    let mut request = shell("echo $COLOR; pwd");
    request.environment = vec!["COLOR=blue".into()];
    request.working_directory = Some("/tmp".into());
    let ended = soon(exec(&world, request).await.unwrap().collect(100)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.output), "blue\n/tmp\n");
}

#[tokio::test]
async fn it_has_the_rights_of_the_container_and_not_more() {
    let Some(world) = World::new() else { return };
    for (user, privileged) in [("", false), ("web", false), ("", true)] {
        let probe = "id; for n in mnt pid net ipc uts; do ls -l /proc/self/ns/$n | grep -o '[a-z]*:\\[.*'; done; \
                     grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; \
                     cat /proc/self/cgroup; cat /proc/self/oom_score_adj; ulimit -Hn; ulimit -Sn";
        let mut request = world
            .shell("a", &format!("{{ {probe}; }} > /dev/shm/part; mv /dev/shm/part /dev/shm/first; {IDLE}"));
        request.user = user.into();
        request.privileged = privileged;
        let (_, observer) = world.runtime.create(request).await.unwrap();
        // What it has said stays when it is made anew.
        let first = said(&world, "until cat /dev/shm/first 2> /dev/null; do sleep 0.05; done").await;
        let second = said(&world, probe).await;
        assert!(first.contains("CapBnd"), "{first}");
        assert_eq!(first, second, "user {user:?}, privileged {privileged}");
        world.runtime.delete(&id("a")).await.unwrap();
        soon(observer).await;
    }
}

#[tokio::test]
async fn it_counts_against_the_limits_of_the_container() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", IDLE);
    request.limits.memory_bytes = Some(16 << 20);
    world.runtime.create(request).await.unwrap();
    world.hears("a", "up").await;
    let ended = output(&world, "tail /dev/zero").await;
    assert!(ended.status.code == Some(137) || ended.status.signal == Some(9), "{:?}", ended.status);
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let Some(world) = World::new() else { return };
    let none = world.runtime.exec(&id("a"), shell("true")).await;
    assert!(matches!(none, Err(ExecError::NotRunning { .. })), "{none:?}");
    let (_, observer) = world.runtime.create(world.shell("a", IDLE)).await.unwrap();
    world.hears("a", "up").await;
    let missing = exec(&world, ExecRequest::new(vec!["missing".into()])).await;
    assert!(
        matches!(&missing, Err(ExecError::Failed { kind: FailureKind::CommandNotFound, message, .. })
            if message.contains("missing")),
        "{missing:?}"
    );
    let nowhere = ExecRequest { working_directory: Some("/nowhere".into()), ..shell("true") };
    let nowhere = exec(&world, nowhere).await;
    assert!(
        matches!(nowhere, Err(ExecError::Failed { kind: FailureKind::WorkingDirectory, .. })),
        "{nowhere:?}"
    );
    assert!(matches!(exec(&world, ExecRequest::default()).await, Err(ExecError::Invalid(_))));
    world.runtime.delete(&id("a")).await.unwrap();
    soon(observer).await;
    assert!(matches!(exec(&world, shell("true")).await, Err(ExecError::NotRunning { .. })));
}

#[tokio::test]
async fn dropping_it_ends_the_program_and_the_end_of_the_container_ends_it_too() {
    let Some(world) = World::new() else { return };
    let (_, observer) = world.runtime.create(world.shell("a", IDLE)).await.unwrap();
    world.hears("a", "up").await;
    let lonely = exec(&world, shell("sleep 1001 & sleep 1001")).await.unwrap();
    let running = || said(&world, "ps | grep -v grep | grep -c 'sleep 1001'; true");
    let mut count = running().await;
    for _ in 0..500 {
        if count.trim() == "2" {
            break;
        }
        count = running().await;
    }
    assert_eq!(count.trim(), "2");
    drop(lonely);
    for _ in 0..500 {
        if count.trim() == "0" {
            break;
        }
        count = running().await;
    }
    assert_eq!(count.trim(), "0", "they live on");

    let mut other = exec(&world, shell("sleep 1002")).await.unwrap();
    world.runtime.delete(&id("a")).await.unwrap();
    assert_eq!(soon(other.end.wait()).await.unwrap().signal, Some(9));
    assert_eq!(soon(other.end.wait()).await.unwrap().signal, Some(9), "it is remembered");
    soon(observer).await;
    until("nothing is left", || world.traces().is_empty()).await;
}

#[tokio::test]
async fn input_and_output_are_streams() {
    let Some(world) = World::new() else { return };
    world.runtime.create(world.shell("a", IDLE)).await.unwrap();
    world.hears("a", "up").await;
    let Exec { io, mut end } = exec(&world, shell("cat; echo end >&2")).await.unwrap();
    let ExecIo::Pipes { mut stdin, mut stdout, mut stderr } = io else { panic!("no pipes") };
    let text = "x".repeat(1 << 20);
    let write = async {
        stdin.write_all(text.as_bytes()).await.unwrap();
        drop(stdin);
    };
    let mut read = String::new();
    let (_, length) = soon(async { tokio::join!(write, stdout.read_to_string(&mut read)) }).await;
    assert_eq!((length.unwrap(), read == text), (1 << 20, true));
    let mut last = String::new();
    soon(stderr.read_to_string(&mut last)).await.unwrap();
    assert_eq!(last, "end\n");
    assert!(soon(end.wait()).await.unwrap().is_success());
}

#[tokio::test]
async fn a_terminal_has_a_size_and_can_be_interrupted() {
    let Some(world) = World::new() else { return };
    world.runtime.create(world.shell("a", IDLE)).await.unwrap();
    world.hears("a", "up").await;
    let script = "trap 'echo size $(stty size)' WINCH; tty; stty size; while :; do sleep 0.1; done";
    let request = ExecRequest { terminal: Some(TerminalSize { rows: 30, columns: 90 }), ..shell(script) };
    let Exec { io, mut end } = exec(&world, request).await.unwrap();
    let ExecIo::Terminal(mut terminal) = io else { panic!("no terminal") };
    let mut heard = String::new();
    hear(&mut terminal, &mut heard, "30 90").await;
    assert!(heard.contains("/dev/pts/"), "{heard:?}");
    terminal.resize(TerminalSize { rows: 11, columns: 22 }).unwrap();
    hear(&mut terminal, &mut heard, "size 11 22").await;
    terminal.write_all(b"\x03").await.unwrap();
    assert_eq!(soon(end.wait()).await.unwrap().signal, Some(2), "{heard:?}");
    soon(terminal.read_to_string(&mut heard)).await.unwrap();
}

#[tokio::test]
async fn a_background_process_does_not_keep_the_caller_waiting() {
    let Some(world) = World::new() else { return };
    world.runtime.create(world.shell("a", IDLE)).await.unwrap();
    world.hears("a", "up").await;
    let asked = std::time::Instant::now();
    let ended = output(&world, "sleep 1000 & echo done").await;
    assert!(ended.status.is_success());
    assert_eq!(ended.output, b"done\n");
    assert!(asked.elapsed() < Duration::from_secs(50));
}

async fn hear(stream: &mut oak_runtime::ExecStream, heard: &mut String, text: &str) {
    let mut block = [0; 1000];
    while !heard.contains(text) {
        let length = soon(stream.read(&mut block)).await.unwrap();
        assert!(length > 0, "ended after {heard:?}");
        heard.push_str(&String::from_utf8_lossy(&block[..length]));
    }
}
