//! Containers that may run only until some moment.

use std::time::{Duration, Instant};

use oak_runtime::{AdoptedState, BootMoment, ContainerRequest, LEASE_GRACE, Runtime};

use crate::recovery::{Worker, another_runtime};
use crate::world::{DEADLINE, World, adopt_one, exists, id, soon, until};

/// Says that it was asked to stop, and stops.
const POLITE: &str = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
/// Says that it was asked to stop, and goes on.
const STUBBORN: &str = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done";

/// This long after the present.
fn from_now(time: Duration) -> BootMoment {
    BootMoment(BootMoment::now().0 + u64::try_from(time.as_millis()).unwrap())
}

fn until_then(mut request: ContainerRequest, until: BootMoment) -> ContainerRequest {
    request.run_until = Some(until);
    request
}

#[tokio::test]
async fn it_is_asked_to_stop_before_its_end_and_killed_at_its_end() {
    let Some(world) = World::new() else { return };
    let end = from_now(LEASE_GRACE + Duration::from_secs(3));
    let polite = until_then(world.shell("polite", POLITE), end);
    let stubborn = until_then(world.shell("stubborn", STUBBORN), end);
    let unlimited = world.shell("unlimited", STUBBORN);
    let (_, polite) = world.runtime.create(polite).await.unwrap();
    let (_, stubborn) = world.runtime.create(stubborn).await.unwrap();
    let (other, _) = world.runtime.create(unlimited).await.unwrap();
    world.hears("polite", "asked").await;
    let heard = BootMoment::now();
    assert!(heard.0 + u64::try_from(LEASE_GRACE.as_millis()).unwrap() >= end.0, "asked before it was time");

    let status = soon(polite).await;
    assert!(status.lease_ended && BootMoment::now() < end, "{status:?}");
    assert_eq!((status.code, status.is_success()), (Some(0), false), "{status}");
    let status = soon(stubborn).await;
    assert!(status.lease_ended && BootMoment::now() >= end, "{status:?}");
    assert_eq!(status.signal, Some(9));
    assert_eq!(world.said("stubborn"), "up\nasked\n");
    assert!(exists(other.pid));
    assert!(!world.said("unlimited").contains("asked"));
}

#[tokio::test]
async fn renewals_keep_it_running_and_its_own_end_stays_its_own() {
    let Some(world) = World::new() else { return };
    let step = LEASE_GRACE + Duration::from_secs(2);
    let first_end = from_now(step);
    let script = "trap 'echo asked' TERM; trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done";
    let (started, observer) =
        world.runtime.create(until_then(world.shell("a", script), first_end)).await.unwrap();
    let a = id("a");
    let begun = Instant::now();
    let mut end = first_end;
    // Twice as long as it was allowed to run at first.
    while BootMoment::now().0 < first_end.0 + u64::try_from(step.as_millis()).unwrap() {
        assert!(begun.elapsed() < DEADLINE);
        end = from_now(step);
        world.runtime.renew(&a, end).await.unwrap();
        // A late, older renewal takes nothing away.
        world.runtime.renew(&a, first_end).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(exists(started.pid) && BootMoment::now() < end);
    assert_eq!(world.said("a"), "up\n");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(started.pid).unwrap()).unwrap(),
        rustix::process::Signal::USR1,
    )
    .unwrap();
    let status = soon(observer).await;
    assert_eq!((status.code, status.lease_ended), (Some(3), false));
}

/// It may be in the middle of stopping when the renewal comes; if it is not, it is asked again the next time.
#[tokio::test]
async fn a_renewal_after_the_question_moves_the_end_and_the_next_question() {
    let Some(world) = World::new() else { return };
    let request = until_then(world.shell("a", STUBBORN), from_now(LEASE_GRACE + Duration::from_secs(1)));
    let (_, observer) = world.runtime.create(request).await.unwrap();
    world.hears("a", "asked\n").await;
    let end = from_now(LEASE_GRACE + Duration::from_secs(1));
    world.runtime.renew(&id("a"), end).await.unwrap();
    world.hears("a", "asked\nasked\n").await;
    let status = soon(observer).await;
    assert!(status.lease_ended && BootMoment::now() >= end, "{status:?}");
}

#[tokio::test]
async fn nothing_is_executed_that_would_be_asked_to_stop_at_once() {
    let Some(world) = World::new() else { return };
    for end in [from_now(LEASE_GRACE), BootMoment(1)] {
        let failure = world.runtime.create(until_then(world.shell("a", "echo ran"), end)).await.unwrap_err();
        let text = std::error::Error::source(&failure)
            .map_or(failure.to_string(), |cause| format!("{failure}: {cause}"));
        assert!(text.contains("its permission to run has ended"), "{text}");
        assert_eq!(world.said("a"), "");
        world.runtime.delete(&id("a")).await.unwrap();
    }
    assert_eq!(world.traces(), Vec::<String>::new());
}

#[tokio::test]
async fn it_ends_also_when_nobody_of_its_creator_lives() {
    let Some(world) = World::new() else { return };
    let end = from_now(LEASE_GRACE + Duration::from_secs(3));
    let mut worker = Worker::start(&world, &until_then(world.shell("a", STUBBORN), end));
    let pid = worker.container();
    worker.kill();
    assert!(exists(pid));
    until("the container has ended", || !exists(pid)).await;
    assert!(BootMoment::now() >= end, "it had time until then");
    let exit = world.state().join("a/exit.json");
    // Space for it is reserved when the container starts.
    until("its end is recorded", || std::fs::read(&exit).is_ok_and(|bytes| bytes.starts_with(b"{"))).await;
    let state = adopt_one(&another_runtime(&world)).await;
    let AdoptedState::Exited(status) = state else { panic!("{state:?}") };
    assert!(status.lease_ended, "{status:?}");
}

/// An agent that was restarted renews what it has adopted.
#[tokio::test]
async fn another_worker_renews_what_it_adopts() {
    let Some(world) = World::new() else { return };
    let first_end = from_now(LEASE_GRACE + Duration::from_secs(3));
    let mut worker = Worker::start(&world, &until_then(world.shell("a", POLITE), first_end));
    let pid = worker.container();
    worker.kill();
    let runtime = another_runtime(&world);
    let AdoptedState::Running { observer, .. } = adopt_one(&runtime).await else { panic!("it runs") };
    let end = from_now(LEASE_GRACE + Duration::from_secs(6));
    runtime.renew(&id("a"), end).await.unwrap();
    until("its first end is over", || BootMoment::now() > first_end || !exists(pid)).await;
    assert!(exists(pid));
    let status = soon(observer).await;
    assert!(status.lease_ended && BootMoment::now() > first_end, "{status:?}");
}
