//! Peers that break the rules, with and without a certificate.

use std::time::Duration;

use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::support::*;
use crate::child::{Target, dial};
use crate::pki::client_tls;
use crate::proto::frame::Body;
use crate::proto::{Chunk, Frame, Heartbeat, Hello, OpenBulk};
use crate::*;

fn hello(protocol: u32) -> Body {
    Body::Hello(Hello { protocol, software: "test".to_owned() })
}

fn chunk(text: &'static str) -> Body {
    Body::Chunk(Chunk { data: text.into(), last: true })
}

/// A session spoken by hand.
struct RawSession {
    frames: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
}

impl RawSession {
    async fn open(world: &mut World, name: &str) -> Self {
        let cluster = world.join_cluster(name).await;
        let tls = client_tls(&cluster, Identity::Root, world.clock.clock()).unwrap();
        let mut dialled = dial(&Target::Address(world.root.address), tls).await.unwrap();
        let (frames, queue) = mpsc::channel(16);
        let frames_stream =
            stream::unfold(queue, |mut queue| async { queue.recv().await.map(|frame| (frame, queue)) });
        let answers = within("the call", dialled.client.session(frames_stream)).await.unwrap().into_inner();
        Self { frames, answers }
    }

    async fn send(&self, session: u64, sequence: u64, body: Body) {
        // The parent may have ended the session already; the answer tells.
        let _ = self.frames.send(Frame { session, sequence, body: Some(body) }).await;
    }

    async fn end(mut self) -> tonic::Status {
        within("the end", async {
            loop {
                match self.answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the session ended without a reason"),
                    Err(status) => return status,
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn broken_openings_end_the_session_before_the_shell_hears_of_it() {
    let mut world = World::new().await;
    let openings: Vec<Vec<(u64, u64, Body)>> = vec![
        vec![(0, 1, chunk("no hello"))],
        vec![(0, 2, hello(1))],
        vec![(5, 1, hello(1))],
        vec![(0, 1, hello(2))],
        vec![(0, 1, hello(1)), (0, 1, chunk("repeated"))],
        vec![(0, 1, hello(1)), (0, 3, chunk("gap"))],
        vec![(0, 1, hello(1)), (0, 2, hello(1))],
        vec![(0, 1, Body::OpenBulk(OpenBulk::default()))],
    ];
    for (number, frames) in openings.into_iter().enumerate() {
        let session = RawSession::open(&mut world, &format!("cluster-{number}")).await;
        for (id, sequence, body) in frames {
            session.send(id, sequence, body).await;
        }
        let status = session.end().await;
        let expected = [tonic::Code::InvalidArgument, tonic::Code::PermissionDenied].contains(&status.code());
        assert!(expected, "{number}: {status:?}");
    }
    assert!(world.root.events.try_recv().is_err());
}

#[tokio::test]
async fn broken_frames_end_an_open_session() {
    let mut world = World::new().await;
    let heartbeat = || Body::Heartbeat(Heartbeat::default());
    let cases: Vec<(u64, u64, Body)> = vec![
        (0, 2, heartbeat()),
        (0, 4, heartbeat()),
        (12345, 3, heartbeat()),
        (0, 3, hello(1)),
        (0, 3, Body::OpenBulk(OpenBulk::default())),
    ];
    for (number, (id, sequence, body)) in cases.into_iter().enumerate() {
        let session = RawSession::open(&mut world, &format!("cluster-{number}")).await;
        session.send(0, 1, hello(1)).await;
        session.send(0, 2, chunk("state")).await;
        world.root.welcome().await;
        session.send(id, sequence, body).await;
        assert_eq!(session.end().await.code(), tonic::Code::InvalidArgument, "case {number}");
        assert!(matches!(world.root.closed().await, CloseReason::Protocol(_)), "case {number}");
    }
}

#[tokio::test]
async fn a_message_before_the_welcome_ends_the_session() {
    let mut world = World::new().await;
    let session = RawSession::open(&mut world, "cluster").await;
    session.send(0, 1, hello(1)).await;
    session.send(0, 2, chunk("state")).await;
    let ParentEvent::Opened { .. } = next(&mut world.root.events).await else { panic!("expected a session") };
    session.send(0, 3, chunk("too early")).await;
    assert_eq!(session.end().await.code(), tonic::Code::InvalidArgument);
    assert!(matches!(world.root.closed().await, CloseReason::Protocol(_)));
}

#[tokio::test]
async fn an_oversized_frame_ends_the_session() {
    let mut world = World::new().await;
    let session = RawSession::open(&mut world, "cluster").await;
    session.send(0, 1, hello(1)).await;
    session.send(0, 2, Body::Chunk(Chunk { data: vec![0; 2 * 1024 * 1024].into(), last: true })).await;
    let status = session.end().await;
    assert!(status.message().len() < 1024, "{status:?}");
    assert!(world.root.events.try_recv().is_err());
}

#[tokio::test]
async fn a_child_that_does_not_read_its_end_loses_its_connection() {
    let mut world = World::new().await;
    let session = RawSession::open(&mut world, "cluster").await;
    session.send(0, 1, hello(1)).await;
    session.send(0, 2, chunk("state")).await;
    let handle = world.root.welcome().await;
    while handle.send(vec![0; 1024 * 1024].into()).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.root.closed().await, CloseReason::Overflow);
    // It holds the connection open and answers pings, but never reads the stream.
    within("the end of the connection", session.frames.closed()).await;
    within("the end of the task", world.root.link.drained()).await;
}

#[tokio::test]
async fn a_silent_child_without_heartbeats_is_closed() {
    let mut world =
        World::with(ParentOptions { heartbeat: Duration::from_millis(100), ..Default::default() }).await;
    let session = RawSession::open(&mut world, "cluster").await;
    session.send(0, 1, hello(1)).await;
    session.send(0, 2, chunk("state")).await;
    let handle = world.root.welcome().await;
    session.send(handle.session(), 3, Body::Heartbeat(Heartbeat::default())).await;
    assert_eq!(world.root.closed().await, CloseReason::Silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_leaves_it_healthy() {
    let limits = PortLimits {
        anonymous: 64,
        anonymous_per_address: 64,
        handshake: Duration::from_millis(300),
        header: Duration::from_millis(300),
        idle: Duration::from_millis(600),
        ..PortLimits::default()
    };
    let mut world = World::with(ParentOptions { limits, ..ParentOptions::default() }).await;
    let address = world.root.address;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;

    let half_hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let huge_header = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "a".repeat(200_000));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let attacks: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        (0..4096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
        half_hello.to_vec(),
        [half_hello.as_slice(), &[0xff; 600]].concat(),
        vec![0x16; 20_000],
        b"P".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 100]].concat(),
        b"GET / HTTP/1.1\r\nhost: ".to_vec(),
        huge_header.into_bytes(),
        many_headers.into_bytes(),
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let started = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may close before it has read all.
        let _ = stream.write_all(attack).await;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "attack {number} keeps its connection");
        // The limits above, the time to say goodbye, and room for a busy machine.
        assert!(started.elapsed() < Duration::from_secs(4), "attack {number} lasted {:?}", started.elapsed());
        assert!(answer.len() < 10_000, "attack {number} got {} bytes", answer.len());
    }

    // Far more connections than places; each is given up in time, and nobody else is locked out for long.
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        if let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await
        {
            crowd.push(stream);
        }
    }
    assert!(crowd.len() >= 64);
    child.handle.send("in the crowd".into()).unwrap();
    assert_eq!(world.root.message().await, "in the crowd");
    drop(crowd);
    let url = format!("http://{address}/who");
    let client = http_client().build().unwrap();
    assert_eq!(client.get(url).send().await.unwrap().text().await.unwrap(), "nobody");
    let newcomer = world.join_cluster("newcomer").await;
    let mut second = Child::start(address, &newcomer, &world.clock);
    world.root.welcome().await;
    second.connected().await;
    child.handle.send("after the crowd".into()).unwrap();
    assert_eq!(world.root.message().await, "after the crowd");
}
