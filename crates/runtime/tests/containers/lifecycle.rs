//! Start, end, signals, deletion.

use std::collections::BTreeSet;
use std::fs;

use oak_runtime::{BindMount, CreateError, FailureKind, Runtime, Signal, SignalError};

use crate::world::{World, exists, id, soon};

#[tokio::test]
async fn exit_codes_and_output_are_reported() {
    let Some(world) = World::new() else { return };
    let (status, said) = world.run(world.shell("a", "echo out; echo err >&2; exit 7")).await.unwrap();
    assert_eq!((status.code, status.signal, status.out_of_memory), (Some(7), None, false));
    let lines: BTreeSet<_> = said.lines().collect();
    assert_eq!(lines, BTreeSet::from(["out", "err"]));
    assert_eq!(world.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn signals_reach_the_program() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let (_, observer) = world.runtime.create(world.shell("a", script)).await.unwrap();
    world.hears("a", "ready").await;
    world.runtime.signal(&id("a"), Signal::TERM).await.unwrap();
    assert_eq!(soon(observer).await.code, Some(3));
    assert_eq!(world.said("a"), "ready\ncaught\n");
    let after = world.runtime.signal(&id("a"), Signal::TERM).await;
    assert!(matches!(after, Err(SignalError::NotRunning { .. })), "{after:?}");
}

#[tokio::test]
async fn a_killed_program_reports_the_signal() {
    let Some(world) = World::new() else { return };
    let (_, observer) = world.runtime.create(world.program("a", &["sleep", "1000"])).await.unwrap();
    world.runtime.signal(&id("a"), Signal::KILL).await.unwrap();
    let status = soon(observer).await;
    assert_eq!((status.code, status.signal), (None, Some(9)));
    assert!(!status.out_of_memory);
}

#[tokio::test]
async fn environment_directory_user_and_host_name_are_set() {
    let Some(world) = World::new() else { return };
    let mut request =
        world.shell("a", "pwd; id; hostname; echo $COLOUR $HOME; env | grep -c .; cat /etc/motd");
    request.environment = vec!["COLOUR=a=b".into()];
    request.working_directory = "/new/dir".into();
    request.user = "web".into();
    request.hostname = "box".into();
    let (_, said) = world.run(request).await.unwrap();
    let id = "uid=1001(web) gid=1002(web) groups=29(audio),1002(web)";
    // PATH, HOSTNAME, HOME, COLOUR, and what the shell adds: PWD, SHLVL
    assert_eq!(said, format!("/new/dir\n{id}\nbox\na=b /srv\n6\nupper\n"));
}

#[tokio::test]
async fn users_by_number_need_not_exist() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", "id; echo x > /tmp/f || echo denied; cat /proc/self/status");
    request.user = "4711:4712".into();
    let (_, said) = world.run(request).await.unwrap();
    assert!(said.starts_with("uid=4711 gid=4712 groups=4712\n"), "{said}");
    assert!(said.contains("denied"));
    assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
    assert!(said.contains("Groups:\t4712 \n"), "{said}");
}

#[tokio::test]
async fn failures_say_what_is_wrong_and_leave_nothing() {
    let Some(world) = World::new() else { return };
    let missing = world.program("a", &["no-such-program"]);
    let path = world.program("a", &["/bin/not-executable"]);
    let mut user = world.shell("a", "true");
    user.user = "nobody".into();
    let mut layer = world.shell("a", "true");
    layer.layers = vec!["/does/not/exist".into()];
    let mut mount = world.shell("a", "true");
    let source = "/does/not/exist".into();
    mount.mounts = vec![BindMount { source, target: "/x".into(), read_only: true }];
    let mut network = world.shell("a", "true");
    network.network_namespace = Some("/run/netns/does-not-exist".into());
    let mut directory = world.shell("a", "true");
    directory.working_directory = "/etc/motd".into();
    let cases = [
        (missing, FailureKind::CommandNotFound, "no-such-program"),
        (path, FailureKind::CommandNotExecutable, "not-executable"),
        (user, FailureKind::UnknownUser, "nobody"),
        (layer, FailureKind::RootFilesystem, "/does/not/exist"),
        (mount, FailureKind::Mount, "/does/not/exist"),
        (network, FailureKind::NetworkNamespace, "does-not-exist"),
        (directory, FailureKind::WorkingDirectory, "/etc/motd"),
    ];
    for (request, expected, part) in cases {
        match world.runtime.create(request).await {
            Err(CreateError::Failed { kind, message, .. }) => {
                assert_eq!(kind, expected, "{message}");
                assert!(message.contains(part), "{message}");
            }
            other => panic!("{expected:?}: {other:?}"),
        }
        assert_eq!(world.traces(), Vec::<String>::new(), "{expected:?}");
    }
}

#[tokio::test]
async fn names_are_unique_until_deleted_and_deleting_is_idempotent() {
    let Some(world) = World::new() else { return };
    let (started, observer) = world.runtime.create(world.shell("a", "sleep 1000")).await.unwrap();
    let second = world.runtime.create(world.shell("a", "true")).await;
    assert!(matches!(second, Err(CreateError::AlreadyExists { .. })), "{second:?}");
    assert!(exists(started.pid));
    world.runtime.delete(&id("a")).await.unwrap();
    assert_eq!(soon(observer).await.signal, Some(9));
    assert_eq!(world.traces(), Vec::<String>::new());
    world.runtime.delete(&id("a")).await.unwrap();
    world.run(world.shell("a", "true")).await.unwrap();
}

#[tokio::test]
async fn deleting_kills_everything_inside() {
    let Some(world) = World::new() else { return };
    let script =
        "for i in 1 2 3; do (trap '' TERM INT HUP; sleep 1234 & sleep 1234) & done; echo up; sleep 1234";
    let (started, _) = world.runtime.create(world.shell("a", script)).await.unwrap();
    world.hears("a", "up").await;
    world.runtime.delete(&id("a")).await.unwrap();
    assert!(!exists(started.pid));
    assert_eq!(world.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn bind_mounts_are_shown_and_guarded() {
    let Some(world) = World::new() else { return };
    let shared = world.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(world.path().join("file"), "hello\n").unwrap();
    let script = "cat /etc/given; echo made > /data/made; echo x > /guarded/x || echo refused";
    let mut request = world.shell("a", script);
    let mount = |source: &str, target: &str, read_only| BindMount {
        source: world.path().join(source),
        target: target.into(),
        read_only,
    };
    request.mounts = vec![
        mount("file", "/etc/given", true),
        mount("shared", "/data", false),
        mount("shared", "/guarded", true),
    ];
    let (_, said) = world.run(request).await.unwrap();
    assert!(said.starts_with("hello\n") && said.contains("refused"), "{said}");
    assert_eq!(fs::read_to_string(shared.join("made")).unwrap(), "made\n");
    assert!(!shared.join("x").exists());
}

#[tokio::test]
async fn images_may_have_hundreds_of_layers() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", "cat /top; ls /marks | wc -l");
    for number in 0..400 {
        let layer = world.path().join(format!("a-layer-with-a-long-name,and:odd\"characters-{number}"));
        fs::create_dir_all(layer.join("marks")).unwrap();
        fs::write(layer.join("marks").join(number.to_string()), "").unwrap();
        fs::write(layer.join("top"), format!("{number}\n")).unwrap();
        request.layers.push(layer);
    }
    let (_, said) = world.run(request).await.unwrap();
    assert_eq!(said, "399\n400\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_side_by_side() {
    let Some(world) = World::new() else { return };
    let names: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    let runs = names.iter().map(|name| world.run(world.shell(name, &format!("echo {name}"))));
    for (name, outcome) in names.iter().zip(futures_util::future::join_all(runs).await) {
        let (status, said) = outcome.unwrap();
        assert!(status.is_success());
        assert_eq!(said, format!("{name}\n"));
    }
    assert_eq!(world.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn fifty_containers_leave_nothing_behind() {
    let Some(world) = World::new() else { return };
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    world.run(world.shell("a", "true")).await.unwrap();
    let before = descriptors();
    for _ in 0..50 {
        let (status, _) = world.run(world.program("a", &["true"])).await.unwrap();
        assert!(status.is_success(), "{status}");
    }
    assert!(descriptors() <= before + 2, "{} descriptors, were {before}", descriptors());
    assert_eq!(world.traces(), Vec::<String>::new());
}

/// By hand: `cargo test -p oak-runtime --test containers -- --ignored --nocapture speed`.
/// Prints medians, also of `crun run` on an equal bundle where crun is installed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn speed_of_creation() {
    let Some(world) = World::new() else { return };
    let mut samples: [Vec<f64>; 4] = Default::default();
    for _ in 0..100 {
        let request = world.program("a", &["true"]);
        let begin = std::time::Instant::now();
        let (_, observer) = world.runtime.create(request).await.unwrap();
        let created = begin.elapsed();
        soon(observer).await;
        let ended = begin.elapsed();
        world.runtime.delete(&id("a")).await.unwrap();
        let times = [created, ended, begin.elapsed() - ended, begin.elapsed()];
        for (sample, time) in samples.iter_mut().zip(times) {
            sample.push(time.as_secs_f64() * 1000.0);
        }
    }
    for (name, mut sample) in ["created", "ended", "deletion", "all"].iter().zip(samples) {
        sample.sort_by(f64::total_cmp);
        eprintln!("{name}: median {:.2} ms, 90 % {:.2} ms", sample[50], sample[90]);
    }
    world.runtime.create(world.program("a", &["sleep", "1000"])).await.unwrap();
    let bundle = world.state().join("a");
    for shim in crate::world::processes_naming(&bundle.display().to_string()) {
        let text = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
        for line in text.lines().filter(|line| line.starts_with("Pss:") || line.starts_with("Private")) {
            eprintln!("shim {line}");
        }
    }
}
