//! The second port of the page.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oak_link::PortLimits;
use oak_root::dashboard::{SecondPort, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::world::World;

async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn dashboard(world: &World, address: SocketAddr) -> SecondPort {
    // Nobody speaks TLS here; a configuration that knows no certificate is enough.
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    SecondPort {
        name: "dashboard",
        address,
        router: world.router.clone(),
        tls: Arc::new(tls),
        limits: PortLimits::default(),
        main_port: 10_000,
    }
}

async fn page(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// Asks until the page is there, or is gone.
async fn until(address: SocketAddr, is_there: bool) {
    let asking = async {
        while page(address).await.is_some() != is_there {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap();
}

#[tokio::test]
async fn the_page_makes_room_for_an_application_and_comes_back() {
    let world = World::start().await;
    let address = free_port().await;
    let (claims, claimed) = watch::channel(BTreeSet::new());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(dashboard(&world, address), claimed, shutdown.clone()));
    until(address, true).await;
    assert!(page(address).await.unwrap().contains("<title>Oakestra</title>"));
    claims.send(BTreeSet::from([address.port(), 443])).unwrap();
    until(address, false).await;
    claims.send(BTreeSet::from([443])).unwrap();
    until(address, true).await;
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap();
    assert!(page(address).await.is_none());
}

#[tokio::test]
async fn a_taken_port_is_no_error() {
    let world = World::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (claims, claimed) = watch::channel(BTreeSet::new());
    drop(claims);
    let shutdown = CancellationToken::new();
    let serving =
        tokio::spawn(serve(dashboard(&world, taken.local_addr().unwrap()), claimed, shutdown.clone()));
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(20), serving).await.unwrap().unwrap();
}
