//! The typed client of this workspace against the API over a real connection.

use std::net::SocketAddr;
use std::time::Duration;

use oak_client::{Client, ClientErrorKind, Credentials, TokenRole};
use oak_model::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, descriptor};

pub(crate) async fn listen(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = world.router.clone().into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

#[tokio::test]
async fn the_client_of_this_workspace_understands_every_answer() {
    let world = World::start().await;
    let server = listen(&world).await.to_string();
    let client = Client::new(&server, Credentials::new("Admin", "Admin")).unwrap();
    let cluster = world.join("cluster1").await;
    let created = client.create_applications(&descriptor("app", "", &["web"])).await.unwrap();
    let application = created[0].id.clone();
    let added = client.create_services(&descriptor("app", &application, &["more"])).await.unwrap();
    assert!(added.failed_services.is_empty());
    assert_eq!(client.application(&application).await.unwrap().services.len(), 2);
    client.deploy(&added.job_id).await.unwrap();
    let key = format!("{}.0", added.job_id).parse().unwrap();
    world.report(cluster, key, Status::Running, "fine").await;
    let service = client.service(&added.job_id).await.unwrap();
    assert_eq!((service.status.as_str(), service.instances[0].host_ip.as_str()), ("RUNNING", "192.0.2.31"));
    assert_eq!(client.services().await.unwrap().len(), 2);
    assert_eq!(client.services_of(&application).await.unwrap().len(), 2);
    assert_eq!(client.clusters().await.unwrap(), client.active_clusters().await.unwrap());
    let workers = client.workers(&cluster.to_string()).await.unwrap();
    assert_eq!((workers[0].facts.name.as_str(), workers[0].connected), ("worker1", true));
    let token = client.create_token(&TokenRole::Cluster, Duration::from_secs(3600)).await.unwrap();
    assert!(token.token.starts_with("oak1.c."));
    client.undeploy(&added.job_id, 0).await.unwrap();
    client.undeploy_all(&added.job_id).await.unwrap();
    client.delete_service(&added.job_id).await.unwrap();
    client.delete_application(&application).await.unwrap();
    let error = client.application(&application).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::NotFound);
}

#[tokio::test]
async fn a_client_that_sends_too_much_reads_the_answer() {
    let world = World::start().await;
    let address = listen(&world).await;
    let token = world.admin().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = 2_000_000;
    let head = format!(
        "POST /api/application/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; length]).await.unwrap();
    let mut answer = vec![0; 64];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 Payload Too Large"));
}
