//! Bulk streams beside a session.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::support::*;
use crate::child::{Target, dial};
use crate::pki::client_tls;
use crate::proto::BulkFrame;
use crate::proto::bulk_frame::Body;
use crate::*;

async fn pair(world: &mut World) -> (Child, PeerHandle) {
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let handle = world.root.welcome().await;
    child.connected().await;
    (child, handle)
}

async fn offer(child: &mut Child) -> BulkOffer {
    match next(&mut child.events).await {
        ChildEvent::OpenBulk(offer) => offer,
        other => unexpected(other),
    }
}

/// Opens a stream and returns both ends.
async fn open(child: &mut Child, handle: &PeerHandle) -> (BulkStream, BulkStream) {
    let asking = handle.open_bulk("logs".into());
    let accepting = async {
        let offer = offer(child).await;
        assert_eq!(offer.request().as_ref(), b"logs");
        offer.accept().await
    };
    let (asked, accepted) = within("opening", async { tokio::join!(asking, accepting) }).await;
    (asked.unwrap(), accepted.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_of_50_mb_does_not_delay_control() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    let (ours, mut theirs) = open(&mut child, &handle).await;
    let echo = tokio::spawn(async move {
        while let Some(data) = theirs.receiver.recv().await {
            theirs.sender.send(data.unwrap()).await.unwrap();
        }
        theirs.sender.finish().await.unwrap();
    });
    const TOTAL: usize = 50_000_000;
    let (mut sender, mut receiver) = ours.split();
    let feed = tokio::spawn(async move {
        let piece = Bytes::from(vec![42; 500_000]);
        for _ in 0..TOTAL / piece.len() {
            sender.send(piece.clone()).await.unwrap();
        }
        sender.finish().await.unwrap();
    });
    let drain = tokio::spawn(async move {
        let mut total = 0;
        while let Some(data) = receiver.recv().await {
            total += data.unwrap().len();
        }
        total
    });
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while !drain.is_finished() {
        let started = Instant::now();
        handle.send("ping".into()).unwrap();
        assert_eq!(child.message().await, "ping");
        child.handle.send("pong".into()).unwrap();
        assert_eq!(world.root.message().await, "pong");
        slowest = slowest.max(started.elapsed());
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(finished("the drain", drain).await, TOTAL);
    finished("the feed", feed).await;
    finished("the echo", echo).await;
    eprintln!("{rounds} control round trips, slowest {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test]
async fn a_stream_nobody_reads_does_not_delay_control() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    let (mut ours, theirs) = open(&mut child, &handle).await;
    let piece = Bytes::from(vec![0; 1024 * 1024]);
    // Until the windows and socket buffers between both are full.
    let stuffed = async {
        loop {
            if tokio::time::timeout(Duration::from_millis(300), ours.sender.send(piece.clone()))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    within("filling the stream", stuffed).await;
    handle.send("ping".into()).unwrap();
    assert_eq!(child.message().await, "ping");
    drop(theirs);
    let cancelled = within("the cancellation", async {
        loop {
            if let Err(error) = ours.sender.send(piece.clone()).await {
                return error;
            }
        }
    });
    assert_eq!(cancelled.await, BulkError::Cancelled);
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_at_the_other_end() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    for parent_drops in [true, false] {
        let (ours, theirs) = open(&mut child, &handle).await;
        let (dropped, mut kept) = if parent_drops { (ours, theirs) } else { (theirs, ours) };
        drop(dropped);
        assert_eq!(within("the end", kept.receiver.recv()).await, Some(Err(BulkError::Cancelled)));
        assert_eq!(within("the end", kept.receiver.recv()).await, None);
        let failed = within("the end", async {
            loop {
                if let Err(error) = kept.sender.send("x".into()).await {
                    return error;
                }
            }
        });
        assert_eq!(failed.await, BulkError::Cancelled);
    }
}

#[tokio::test]
async fn the_end_of_a_peer_is_noticed_behind_what_nobody_reads() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    for parent_drops in [true, false] {
        let (ours, theirs) = open(&mut child, &handle).await;
        let (mut dropped, kept) = if parent_drops { (ours, theirs) } else { (theirs, ours) };
        let piece = Bytes::from(vec![0; 1024 * 1024]);
        // Until the windows and socket buffers between both are full.
        let stuffed = async {
            let patience = Duration::from_millis(300);
            while tokio::time::timeout(patience, dropped.sender.send(piece.clone())).await.is_ok() {}
        };
        within("filling the stream", stuffed).await;
        let gone = kept.sender.gone();
        tokio::pin!(gone);
        assert!((&mut gone).now_or_never().is_none());
        drop(dropped);
        within(if parent_drops { "the end of the parent" } else { "the end of the child" }, gone).await;
    }
}

#[tokio::test]
async fn ends_and_failures_reach_the_peer() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    let (mut ours, mut theirs) = open(&mut child, &handle).await;
    ours.sender.send("last words".into()).await.unwrap();
    ours.sender.finish().await.unwrap();
    assert_eq!(theirs.receiver.recv().await, Some(Ok("last words".into())));
    assert_eq!(theirs.receiver.recv().await, None);
    // Half closed: the other direction goes on, even when its receiver is done.
    drop(theirs.receiver);
    theirs.sender.send("answer".into()).await.unwrap();
    theirs.sender.fail("disk is full").await.unwrap();
    assert_eq!(ours.receiver.recv().await, Some(Ok("answer".into())));
    assert_eq!(ours.receiver.recv().await, Some(Err(BulkError::Failed("disk is full".to_owned()))));
}

#[tokio::test]
async fn an_offer_is_refused_with_words_or_by_dropping_it() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    let refuse = async { offer(&mut child).await.refuse("no such instance") };
    let (asked, ()) = within("asking", async { tokio::join!(handle.open_bulk("x".into()), refuse) }).await;
    assert_eq!(asked.err(), Some(BulkError::Refused("no such instance".to_owned())));
    let ignore = async { drop(offer(&mut child).await) };
    let (asked, ()) = within("asking", async { tokio::join!(handle.open_bulk("x".into()), ignore) }).await;
    assert!(matches!(asked.err(), Some(BulkError::Refused(_))));
    let large = handle.open_bulk(vec![0; 100_000].into()).await;
    assert_eq!(large.err(), Some(BulkError::RequestTooLarge));
}

#[tokio::test]
async fn without_a_session_there_is_no_bulk() {
    let mut world = World::new().await;
    let (child, handle) = pair(&mut world).await;
    let asking = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.open_bulk("x".into()).await.err() })
    };
    drop(child);
    assert_eq!(finished("asking", asking).await, Some(BulkError::NoSession));
    assert_eq!(handle.open_bulk("x".into()).await.err(), Some(BulkError::NoSession));
}

#[tokio::test]
async fn only_the_asked_child_can_open_the_stream() {
    let mut world = World::new().await;
    let (mut child, handle) = pair(&mut world).await;
    let stranger = world.join_cluster("stranger").await;
    let asking = tokio::spawn(async move { handle.open_bulk("x".into()).await.is_ok() });
    let offer = offer(&mut child).await;
    let tls = client_tls(&stranger, Identity::Root, world.clock.clock()).unwrap();
    let mut dialled = dial(&Target::Address(world.root.address), tls).await.unwrap();
    let bulk = offer.id_for_test();
    let first = BulkFrame { body: Some(Body::Bulk(bulk)) };
    let call = dialled.client.bulk(futures_util::stream::iter([first]));
    let status = within("the call", call).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let stream = within("opening", offer.accept()).await;
    assert!(stream.is_ok());
    assert!(finished("asking", asking).await);
}
