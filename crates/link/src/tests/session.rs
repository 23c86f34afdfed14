//! Sessions: messages, liveness, replacement, return.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::proxy::Proxy;
use super::support::*;
use crate::*;

fn quick() -> ParentOptions {
    ParentOptions { heartbeat: Duration::from_millis(100), ..ParentOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_both_ways_in_order() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let ParentEvent::Opened { peer, session, address, software, hello, handle } =
        next(&mut world.root.events).await
    else {
        panic!("expected a session")
    };
    assert_eq!((&peer, hello.as_ref()), (cluster.identity(), b"hello".as_slice()));
    assert_eq!(software, env!("CARGO_PKG_VERSION"));
    // Sent before the welcome, delivered after it.
    handle.send("early".into()).unwrap();
    handle.welcome("state".into()).unwrap();
    let ChildEvent::Connected { session: theirs, welcome, local_address, parent_address } =
        next(&mut child.events).await
    else {
        panic!("expected a session")
    };
    assert_eq!((theirs, welcome.as_ref()), (session, b"state".as_slice()));
    assert_eq!((local_address, parent_address), (address, world.root.address));
    assert_eq!(child.message().await, "early");

    for number in 0..500_u32 {
        handle.send(number.to_string().into()).unwrap();
        child.handle.send(number.to_string().into()).unwrap();
    }
    for number in 0..500_u32 {
        assert_eq!(child.message().await, number.to_string());
        assert_eq!(world.root.message().await, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_states_fit_into_hello_and_welcome() {
    let mut world = World::with(quick()).await;
    let cluster = world.join_cluster("cluster").await;
    let state: Bytes = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect::<Vec<_>>().into();
    let config = Child::config(world.root.address, &cluster, &world.clock);
    let mut child = Child::with(config, state.clone());
    let ParentEvent::Opened { hello, handle, .. } = next(&mut world.root.events).await else {
        panic!("expected a session")
    };
    assert!(hello == state);
    handle.welcome(state.clone()).unwrap();
    let ChildEvent::Connected { welcome, .. } = next(&mut child.events).await else {
        panic!("expected a session")
    };
    assert!(welcome == state);
    child.handle.send(state.clone()).unwrap();
    assert!(world.root.message().await == state);
    child.handle.send(Bytes::new()).unwrap();
    assert!(world.root.message().await.is_empty());
    assert_eq!(child.handle.send(vec![0; MAX_MESSAGE + 1].into()), Err(SendError::TooLarge));
}

#[tokio::test]
async fn a_refused_session_tells_the_reason() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let ParentEvent::Opened { handle, .. } = next(&mut world.root.events).await else {
        panic!("expected a session")
    };
    handle.refuse("the cluster is in maintenance");
    assert_eq!(world.root.closed().await, CloseReason::Refused("the cluster is in maintenance".to_owned()));
    let failure = child.failure().await;
    assert!(failure.contains("the cluster is in maintenance"), "{failure}");
    assert_eq!(child.handle.send("x".into()), Err(SendError::NotConnected));
}

#[tokio::test]
async fn a_new_session_supersedes_the_old_one() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut first = Child::start(world.root.address, &cluster, &world.clock);
    let old = world.root.welcome().await;
    first.connected().await;
    let second = Child::start(world.root.address, &cluster, &world.clock);
    let ParentEvent::Closed { session, reason, .. } = next(&mut world.root.events).await else {
        panic!("the old session must be closed before the new one opens")
    };
    assert_eq!((session, reason), (old.session(), CloseReason::Superseded));
    let new = world.root.welcome().await;
    assert_ne!(new.session(), old.session());
    assert_eq!(first.disconnected().await, CloseReason::Superseded);
    assert_eq!(old.send("late".into()), Err(SendError::NotConnected));
    drop(second);
}

#[tokio::test]
async fn a_stalled_connection_is_noticed_on_both_sides() {
    let mut world = World::with(quick()).await;
    let cluster = world.join_cluster("cluster").await;
    let proxy = Proxy::to(world.root.address).await;
    let mut child = Child::start(proxy.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    // An idle session lives by its heartbeats alone.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(800) {
        tokio::task::yield_now().await;
        while let Ok(event) = world.root.events.try_recv() {
            assert!(event.is_measurement(), "{event:?}");
        }
        assert!(child.events.try_recv().is_err());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.stall();
    assert_eq!(world.root.closed().await, CloseReason::Silent);
    assert_eq!(child.disconnected().await, CloseReason::Silent);
}

#[tokio::test]
async fn a_cut_connection_is_lost_at_once_and_comes_back() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let proxy = Proxy::to(world.root.address).await;
    let mut child = Child::start(proxy.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    let started = Instant::now();
    proxy.cut();
    let reason = world.root.closed().await;
    assert!(matches!(reason, CloseReason::Lost(_)), "{reason:?}");
    let reason = child.disconnected().await;
    assert!(matches!(reason, CloseReason::Lost(_)), "{reason:?}");
    world.root.welcome().await;
    child.connected().await;
    // Heartbeats would have needed 6 s to notice.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_child_that_leaves_sends_what_is_queued() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    for number in 0..300_u32 {
        child.handle.send(number.to_string().into()).unwrap();
    }
    let shutdown = tokio::spawn(child.handle.shutdown());
    for number in 0..300_u32 {
        assert_eq!(world.root.message().await, number.to_string());
    }
    assert_eq!(world.root.closed().await, CloseReason::Left);
    finished("the shutdown", shutdown).await;
}

#[tokio::test]
async fn a_child_finds_its_restarted_parent_within_about_a_second() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let before = world.root.welcome().await;
    child.connected().await;
    let World { dir, clock, root, .. } = world;
    let (listen, members) = (root.address, root.shell.members.clone());
    root.stop().await;
    assert_eq!(child.disconnected().await, CloseReason::Draining);
    // While the parent is away nothing is taken.
    assert_eq!(child.handle.send("lost".into()), Err(SendError::NotConnected));
    for _ in 0..5 {
        child.failure().await;
    }
    let options = ParentOptions { listen, members, ..ParentOptions::default() };
    let mut root = Parent::root(&dir.path().join("root"), &clock, options).await;
    let started = Instant::now();
    let after = root.welcome().await;
    child.connected().await;
    eprintln!("reconnected after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_ne!(before.session(), after.session());
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_its_session_not_our_memory() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let proxy = Proxy::to(world.root.address).await;
    let mut child = Child::start(proxy.address, &cluster, &world.clock);
    let handle = world.root.welcome().await;
    child.connected().await;
    proxy.stall();
    let message = Bytes::from(vec![1; 1024 * 1024]);
    let mut sent = 0;
    while handle.send(message.clone()).is_ok() {
        sent += 1;
        assert!(sent < 100, "the queue has no bound");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.root.closed().await, CloseReason::Overflow);
}

#[tokio::test]
async fn a_slow_shell_slows_its_children_down_and_loses_nothing() {
    let mut world = World::with(ParentOptions {
        event_queue: 1,
        heartbeat: Duration::from_millis(50),
        ..Default::default()
    })
    .await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    let sender = child.handle.sender();
    for number in 0..200_u32 {
        sender.send(number.to_string().into()).unwrap();
    }
    for number in 0..200_u32 {
        // Slower than three heartbeats now and then: that must not look like silence.
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(world.root.message().await, number.to_string());
    }
}

#[tokio::test]
async fn many_children_are_told_apart() {
    let mut world = World::new().await;
    world.join_cluster("cluster").await;
    let mut parent = Parent::cluster(&world.path("cluster"), &world.clock, ParentOptions::default()).await;
    let mut children = Vec::new();
    for number in 0..8 {
        let worker = world.join_worker(&parent, &format!("worker-{number}")).await;
        let child = Child::start(parent.address, &worker, &world.clock);
        let handle = parent.welcome().await;
        assert_eq!(handle.peer(), worker.identity());
        children.push((worker, child, handle));
    }
    for (worker, child, handle) in &mut children {
        child.connected().await;
        handle.send(worker.identity().to_string().into()).unwrap();
        assert_eq!(child.message().await, worker.identity().to_string());
        child.handle.send(worker.identity().to_string().into()).unwrap();
        let ParentEvent::Message { peer, payload, .. } = next(&mut parent.events).await else {
            panic!("expected a message")
        };
        assert_eq!(
            (peer.to_string(), &peer),
            (String::from_utf8(payload.into()).unwrap(), worker.identity())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parent_learns_how_long_a_frame_to_a_child_and_back_takes() {
    let mut world = World::with(quick()).await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let handle = world.root.welcome().await;
    let ChildEvent::Connected { .. } = next(&mut child.events).await else { panic!("expected a session") };
    // Neither a quiet session nor a busy one is left unmeasured.
    let events = &mut world.root.events;
    let measured = within("a measurement", async {
        loop {
            if let Some(ParentEvent::RoundTrip { peer, session, round_trip }) = events.recv().await {
                break (peer, session, round_trip);
            }
        }
    });
    let (peer, session, round_trip) = measured.await;
    assert_eq!((&peer, session), (cluster.identity(), handle.session()));
    assert!(round_trip > Duration::ZERO && round_trip < Duration::from_secs(5), "{round_trip:?}");
}
