//! Plain HTTP, HTTPS and the link on one port.

use std::fs;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::support::*;
use crate::PortLimits;

#[tokio::test]
async fn one_port_serves_http_https_and_the_link() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;

    let port = world.root.address.port();
    let authority = fs::read(world.path("root").join("ca.pem")).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let client = http_client().tls_certs_only([authority]).build().unwrap();
    let get = async |url: String| client.get(url).send().await.unwrap().text().await.unwrap();
    assert_eq!(get(format!("http://127.0.0.1:{port}/who")).await, "nobody");
    // The certificate is of 2023 in this test, so an honest HTTPS client refuses it today.
    assert!(client.get(format!("https://127.0.0.1:{port}/who")).send().await.is_err());
    let any = http_client().tls_danger_accept_invalid_certs(true);
    let any = any.build().unwrap();
    let answer = any.get(format!("https://127.0.0.1:{port}/who")).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), "nobody");
    let http1 = http_client().http1_only().tls_danger_accept_invalid_certs(true);
    let answer = http1.build().unwrap().get(format!("https://localhost:{port}/who")).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);

    child.handle.send("still here".into()).unwrap();
    assert_eq!(world.root.message().await, "still here");
}

#[tokio::test]
async fn handlers_see_the_verified_peer_and_nothing_else() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut pem = fs::read(world.path("cluster").join("key.pem")).unwrap();
    pem.extend(fs::read(world.path("cluster").join("cert.pem")).unwrap());
    let member = http_client()
        .identity(reqwest::Identity::from_pem(&pem).unwrap())
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap();
    let url = format!("https://127.0.0.1:{}/who", world.root.address.port());
    assert_eq!(member.get(&url).send().await.unwrap().text().await.unwrap(), cluster.identity().to_string());
    let plain = format!("http://127.0.0.1:{}/who", world.root.address.port());
    assert_eq!(member.get(&plain).send().await.unwrap().text().await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_port_that_shuts_down_is_free_at_once() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    let address = world.root.address;
    let started = tokio::time::Instant::now();
    world.root.stop().await;
    // Sessions end by themselves; it is not the drain time that ends them.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(child.disconnected().await, crate::CloseReason::Draining);
    tokio::net::TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn members_do_not_take_the_places_of_strangers() {
    let limits = PortLimits { anonymous: 2, anonymous_per_address: 2, ..PortLimits::default() };
    let mut world = World::with(ParentOptions { limits, ..ParentOptions::default() }).await;
    let mut members = Vec::new();
    for number in 0..6 {
        let cluster = world.join_cluster(&format!("cluster-{number}")).await;
        let mut child = Child::start(world.root.address, &cluster, &world.clock);
        let handle = world.root.welcome().await;
        child.connected().await;
        members.push((child, handle));
    }
    let url = format!("http://{}/who", world.root.address);
    let answer = http_client().build().unwrap().get(url).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "nobody");
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_place() {
    let unread = Duration::from_secs(1);
    let limits = PortLimits { anonymous: 1, anonymous_per_address: 1, unread, ..PortLimits::default() };
    let world = World::with(ParentOptions { limits, ..ParentOptions::default() }).await;
    let mut deaf = tokio::net::TcpStream::connect(world.root.address).await.unwrap();
    deaf.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let url = format!("http://{}/who", world.root.address);
    let client = http_client().build().unwrap();
    let answered = async {
        loop {
            if let Ok(answer) = client.get(&url).send().await {
                return answer.text().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert_eq!(within("a place", answered).await, "nobody");
    drop(deaf);
}
