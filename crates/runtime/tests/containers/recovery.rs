//! Death of the worker and of shims at bad moments.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use oak_runtime::{AdoptedState, ContainerRequest, OciConfig, OciRuntime, Runtime};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{World, adopt_one, exists, id, processes_naming, soon, until};

/// A worker process that created a container.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(world: &World, request: &ContainerRequest) -> Self {
        let file = world.path().join("request");
        fs::write(&file, serde_json::to_vec(request).unwrap()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_oak-shim-test"))
            .arg("worker")
            .arg(world.state())
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    pub(crate) fn container(&mut self) -> u32 {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn another_runtime(world: &World) -> OciRuntime {
    OciRuntime::open(OciConfig::new(world.state())).unwrap()
}

fn shim_of(world: &World, container: &str) -> Pid {
    let state = fs::read(world.state().join(container).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    let pid = state["shim"]["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[tokio::test]
async fn containers_survive_the_worker_and_are_adopted() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done";
    let mut request = world.shell("a", script);
    request.labels.insert("service".into(), "web".into());
    let mut worker = Worker::start(&world, &request);
    let pid = worker.container();
    worker.kill();

    let runtime = another_runtime(&world);
    let mut found = runtime.adopt().await.unwrap();
    assert_eq!(found.len(), 1);
    let found = found.remove(0);
    assert_eq!(found.labels.get("service").map(String::as_str), Some("web"));
    let AdoptedState::Running { pid: adopted, observer } = found.state else { panic!("{found:?}") };
    assert_eq!(adopted, pid);
    world.hears("a", "up").await;
    runtime.signal(&id("a"), oak_runtime::Signal::TERM).await.unwrap();
    assert_eq!(soon(observer).await.code, Some(4));
    assert_eq!(world.said("a"), "up\nbye\n");
    runtime.delete(&id("a")).await.unwrap();
    assert_eq!(world.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn an_end_without_worker_is_found_later() {
    let Some(world) = World::new() else { return };
    let go = world.path().join("go");
    fs::create_dir(&go).unwrap();
    let mut request = world.shell("a", "while ! [ -e /go/now ]; do sleep 0.05; done; exit 6");
    let target = "/go".into();
    request.mounts = vec![oak_runtime::BindMount { source: go.clone(), target, read_only: true }];
    let mut worker = Worker::start(&world, &request);
    let pid = worker.container();
    worker.kill();
    fs::write(go.join("now"), "").unwrap();
    until("the container has ended", || !exists(pid)).await;
    let exit = world.state().join("a/exit.json");
    until("its end is recorded", || exit.exists()).await;
    until("its shim has ended", || processes_naming(&world.state().display().to_string()).is_empty()).await;
    let state = adopt_one(&another_runtime(&world)).await;
    let AdoptedState::Exited(status) = state else { panic!("{state:?}") };
    assert_eq!(status.code, Some(6));
}

#[tokio::test]
async fn a_killed_shim_takes_its_container_along() {
    let Some(world) = World::new() else { return };
    let (started, observer) = world.runtime.create(world.program("a", &["sleep", "1000"])).await.unwrap();
    kill_process(shim_of(&world, "a"), Signal::KILL).unwrap();
    let status = soon(observer).await;
    assert_eq!((status.code, status.signal), (None, None));
    until("the container is dead", || !exists(started.pid)).await;
    assert!(matches!(adopt_one(&another_runtime(&world)).await, AdoptedState::Debris));
    world.runtime.delete(&id("a")).await.unwrap();
    assert_eq!(world.traces(), Vec::<String>::new());
}

/// The worker and the shim are killed at some moment of a creation, many moments in a row.
#[tokio::test]
async fn whatever_is_killed_while_creating_can_be_deleted() {
    let Some(world) = World::new() else { return };
    let place = world.state().display().to_string();
    for attempt in 0..24 {
        let request = world.program("a", &["sleep", "1000"]);
        let mut worker = Worker::start(&world, &request);
        let directory = world.state().join("a");
        let wanted = ["request.json", "state.json", "upper", "config.json", "oci/a", "oci/a/notify.sock"];
        let moment = directory.join(wanted[attempt % wanted.len()]);
        let begun = std::time::Instant::now();
        while !moment.exists() && begun.elapsed().as_secs() < 10 {
            std::hint::spin_loop();
        }
        worker.kill();
        if attempt % 2 == 0 {
            // the shim itself; helpers of libcontainer have the same command line, children higher numbers
            if let Some(shim) = processes_naming(&place).first() {
                let pid = Pid::from_raw(i32::try_from(*shim).unwrap()).unwrap();
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let runtime = another_runtime(&world);
        for found in runtime.adopt().await.unwrap() {
            runtime.delete(&found.id).await.unwrap();
        }
        // a shim that had not begun when its directory was removed ends by itself
        until("nothing is left", || world.traces().is_empty()).await;
    }
}
