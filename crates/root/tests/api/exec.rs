//! Programs run inside instances, over a real connection.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use oak_model::exec::{Channel, ExecEnd, ExecMessage, SUBPROTOCOL, TerminalSize};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::listen;
use crate::world::{World, eventually};

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn connect(
    world: &World,
    path: &str,
    protocols: &str,
    token: Option<&str>,
) -> Result<Socket, Error> {
    let address = listen(world).await;
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

pub(crate) async fn next(socket: &mut Socket) -> ExecMessage {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Binary(bytes) => return ExecMessage::parse(&bytes).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) async fn send(socket: &mut Socket, channel: Channel, payload: &[u8]) {
    let bytes = ExecMessage::new(channel, payload).to_message();
    socket.send(Message::Binary(Bytes::from(bytes))).await.unwrap();
}

async fn instance(world: &World, token: &str) -> String {
    let service = world.service(token, "app").await;
    world.deploy(token, &service).await;
    format!("/api/service/{service}/instance/0/exec")
}

#[tokio::test]
async fn a_program_is_spoken_to_until_it_ends() {
    let world = World::start().await;
    let token = world.admin().await;
    let path = instance(&world, &token).await;
    let query = format!("{path}?command=sh&command=-c&command=a%20b&tty=true&columns=100&rows=30");
    let mut socket = connect(&world, &query, SUBPROTOCOL, Some(&token)).await.unwrap();
    send(&mut socket, Channel::Stdin, b"hello").await;
    assert_eq!(next(&mut socket).await, ExecMessage::new(Channel::Stdout, *b"hello"));
    send(&mut socket, Channel::Resize, b"{}").await;
    assert_eq!(next(&mut socket).await.channel, Channel::Stderr);
    send(&mut socket, Channel::Stdin, b"exit").await;
    let end = next(&mut socket).await;
    let end: ExecEnd = serde_json::from_slice(&end.payload).unwrap();
    assert_eq!(end.code, Some(3));
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
    let (_, command, terminal) = world.programs.started.lock().unwrap()[0].clone();
    assert_eq!(command, ["sh", "-c", "a b"]);
    assert_eq!(terminal, Some(TerminalSize { columns: 100, rows: 30 }));
}

#[tokio::test]
async fn browsers_give_their_token_as_a_protocol() {
    let world = World::start().await;
    let token = world.admin().await;
    let path = format!("{}/?cmd=sh", instance(&world, &token).await);
    let protocols = format!("{SUBPROTOCOL}, bearer.{token}");
    connect(&world, &path, &protocols, None).await.unwrap();
    let wrong = format!("{SUBPROTOCOL}, bearer.nonsense");
    for protocols in [SUBPROTOCOL, &wrong] {
        match connect(&world, &path, protocols, None).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 401),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_vanishes_or_misbehaves_ends_the_program() {
    let world = World::start().await;
    let token = world.admin().await;
    let path = format!("{}?command=sh", instance(&world, &token).await);
    for how in ["vanishes", "text", "channel", "large"] {
        let mut socket = connect(&world, &path, SUBPROTOCOL, Some(&token)).await.unwrap();
        send(&mut socket, Channel::Stdin, b"x").await;
        next(&mut socket).await;
        assert_eq!(world.programs.running.load(Ordering::SeqCst), 1);
        match how {
            "text" => socket.send(Message::Text("hello".into())).await.unwrap(),
            "channel" => send(&mut socket, Channel::Stdout, b"x").await,
            "large" => {
                let bytes = Bytes::from(vec![0; 100_000]);
                let _ = socket.send(Message::Binary(bytes)).await;
            }
            _ => drop(socket.close(None).await),
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while world.programs.running.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "{how}: the program goes on");
            let _ = tokio::time::timeout(Duration::from_millis(20), socket.next()).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_an_ordinary_error() {
    let world = World::start().await;
    let (token, bob) = (world.admin().await, world.bob().await);
    let path = instance(&world, &token).await;
    for query in
        ["", "?command=", "?tty=true", "?command=x&tty=maybe", "?command=x&rows=x", "?command=x&else=1"]
    {
        world.get(&format!("{path}{query}"), &token).send().await.error(400);
    }
    let plain = world.get(&format!("{path}?command=x"), &token).send().await.error(400);
    assert!(plain.contains("WebSocket"), "{plain}");
    world.get(&format!("{path}?command=x"), &bob).send().await.error(404);
    world.programs.refuses.store(true, Ordering::SeqCst);
    match connect(&world, &format!("{path}?command=x"), SUBPROTOCOL, Some(&token)).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 409),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_a_client_is_noticed_while_its_program_takes_no_input() {
    let world = World::start().await;
    let token = world.admin().await;
    let path = format!("{}?command=sh", instance(&world, &token).await);
    world.programs.deaf.store(true, Ordering::SeqCst);
    let mut socket = connect(&world, &path, SUBPROTOCOL, Some(&token)).await.unwrap();
    for _ in 0..4 {
        send(&mut socket, Channel::Stdin, &[0; 10_000]).await;
    }
    assert_eq!(world.programs.running.load(Ordering::SeqCst), 1);
    drop(socket);
    eventually("the program ends", async || world.programs.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn one_user_cannot_take_all_places() {
    let world = World::start().await;
    let (token, bob) = (world.admin().await, world.bob().await);
    let path = format!("{}?command=sh", instance(&world, &token).await);
    let of_bob = world.service(&bob, "bobs").await;
    world.deploy(&bob, &of_bob).await;
    let of_bob = format!("/api/service/{of_bob}/instance/0/exec?command=sh");
    let mut sockets = Vec::new();
    for _ in 0..16 {
        sockets.push(connect(&world, &path, SUBPROTOCOL, Some(&token)).await.unwrap());
    }
    match connect(&world, &path, SUBPROTOCOL, Some(&token)).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 429),
        other => panic!("{other:?}"),
    }
    connect(&world, &of_bob, SUBPROTOCOL, Some(&bob)).await.unwrap();
    drop(sockets.pop());
    eventually("a place", async || connect(&world, &path, SUBPROTOCOL, Some(&token)).await.is_ok()).await;
}
