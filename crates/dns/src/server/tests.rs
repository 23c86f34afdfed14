use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::entry::ServiceEntry;
use crate::forward::tests::{Behaviour, Fake};
use crate::lookup::{Nobody, Question};
use crate::zone::tests::{entry, shop, zone_of};

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    server: DnsServer,
    zone: watch::Sender<Arc<Zone>>,
}

async fn start(upstreams: Vec<SocketAddr>, limits: Limits, lookup: Arc<dyn Lookup>) -> Running {
    let zone = watch::Sender::new(Arc::new(shop()));
    let config = DnsConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        clients: vec!["127.0.0.1/32".parse().unwrap()],
        upstreams: Upstreams::Fixed(upstreams),
        limits,
    };
    // Somebody else may have the port that was free for TCP.
    for _ in 0..20 {
        match DnsServer::start(config.clone(), zone.subscribe(), Arc::clone(&lookup)).await {
            Ok(server) => return Running { server, zone },
            Err(error) => assert!(error.is_taken(), "{error}"),
        }
    }
    panic!("no free port")
}

fn query(name: &str) -> Message {
    let mut query = Message::query();
    query.metadata.id = 99;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query
}

async fn client(running: &Running) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(running.server.address()).await.unwrap();
    socket
}

async fn over_udp(running: &Running, query: &Message) -> Message {
    let socket = client(running).await;
    socket.send(&query.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn over_tcp(stream: &mut TcpStream, query: &Message) -> Message {
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let read = async {
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    Message::from_vec(&timeout(PATIENCE, read).await.expect("no answer")).unwrap()
}

fn first(answer: &Message) -> String {
    answer.answers.first().map(|record| record.data.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_new_zone_is_in_force_with_the_next_query() {
    let running = start(Vec::new(), Limits::default(), Arc::new(Nobody)).await;
    let asked = query("web.test.shop.prod.oak.");
    assert_eq!(first(&over_udp(&running, &asked).await), "10.30.0.1");
    running.zone.send_replace(Arc::new(zone_of(vec![entry("web", &["10.30.4.4"], &[])])));
    assert_eq!(first(&over_udp(&running, &asked).await), "10.30.4.4");
    running.zone.send_replace(Arc::new(zone_of(Vec::new())));
    assert_eq!(over_udp(&running, &asked).await.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp_and_a_connection_takes_many_queries() {
    let running = start(Vec::new(), Limits::default(), Arc::new(Nobody)).await;
    let addresses: Vec<String> = (0..200).map(|number| format!("10.30.3.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    running.zone.send_replace(Arc::new(zone_of(vec![entry("web", &addresses, &[])])));
    let asked = query("web.test.shop.prod.oak.");
    let short = over_udp(&running, &asked).await;
    assert!(short.metadata.truncation && short.answers.is_empty());
    let mut stream = TcpStream::connect(running.server.address()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(over_tcp(&mut stream, &asked).await.answers.len(), 200);
    }
}

#[tokio::test]
async fn foreign_names_are_forwarded_and_ours_never() {
    let fake = Fake::start(Behaviour::Answers(60)).await;
    let running = start(vec![fake.address], Limits::default(), Arc::new(Nobody)).await;
    assert_eq!(first(&over_udp(&running, &query("www.example.com.")).await), "192.0.2.80");
    assert_eq!(first(&over_udp(&running, &query("www.example.com.")).await), "192.0.2.80");
    assert_eq!(fake.asked(), 1, "the second answer was kept");
    for ours in ["nothing.test.shop.prod.oak.", "x.oak.", "9.9.30.10.in-addr.arpa."] {
        let answer = over_udp(&running, &query(ours)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{ours}");
    }
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn who_waits_does_not_keep_names_of_the_zone_waiting_and_has_a_bound() {
    let silent = Fake::start(Behaviour::Silent).await;
    let limits = Limits { waiting_per_source: 2, ..Limits::default() };
    let running = start(vec![silent.address], limits, Arc::new(Nobody)).await;
    let socket = client(&running).await;
    let mut buffer = [0; 2048];
    for name in ["a.example.", "b.example.", "c.example."] {
        socket.send(&query(name).to_vec().unwrap()).await.unwrap();
    }
    // The third one finds no place; the first two still wait.
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    let refused = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(refused.queries[0].name.to_ascii(), "c.example.");
    assert_eq!(first(&over_udp(&running, &query("web.test.shop.prod.oak.")).await), "10.30.0.1");
}

#[tokio::test]
async fn strangers_get_nothing() {
    let zone = watch::Sender::new(Arc::new(shop()));
    let config = DnsConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        clients: vec!["127.0.0.2/32".parse().unwrap()],
        upstreams: Upstreams::Fixed(Vec::new()),
        limits: Limits::default(),
    };
    let server = DnsServer::start(config, zone.subscribe(), Arc::new(Nobody)).await.unwrap();
    // Datagrams of one sender after the other are taken in order: when the client has its answer, the stranger's
    // query was looked at.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(server.address()).await.unwrap();
    stranger.send(&query("web.test.shop.prod.oak.").to_vec().unwrap()).await.unwrap();
    let client = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    client.connect(stranger.peer_addr().unwrap()).await.unwrap();
    client.send(&query("web.test.shop.prod.oak.").to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 2048];
    timeout(PATIENCE, client.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(stranger.try_recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut stream = TcpStream::connect(stranger.peer_addr().unwrap()).await.unwrap();
    let end = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn a_taken_port_is_recognised() {
    let running = start(Vec::new(), Limits::default(), Arc::new(Nobody)).await;
    let config = DnsConfig {
        listen: running.server.address(),
        clients: Vec::new(),
        upstreams: Upstreams::Fixed(Vec::new()),
        limits: Limits::default(),
    };
    let error =
        DnsServer::start(config.clone(), running.zone.subscribe(), Arc::new(Nobody)).await.unwrap_err();
    assert!(error.is_taken());
    assert!(error.to_string().contains(&config.listen.to_string()));
}

#[tokio::test]
async fn connections_are_bounded_and_end_when_nothing_is_said() {
    let limits = Limits { connections_per_source: 1, idle: Duration::from_millis(300), ..Limits::default() };
    let running = start(Vec::new(), limits, Arc::new(Nobody)).await;
    let address = running.server.address();
    let mut one = TcpStream::connect(address).await.unwrap();
    assert_eq!(first(&over_tcp(&mut one, &query("web.test.shop.prod.oak.")).await), "10.30.0.1");
    let mut two = TcpStream::connect(address).await.unwrap();
    let mut buffer = [0; 8];
    let end = timeout(PATIENCE, two.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "a second connection: {end:?}");
    let end = timeout(PATIENCE, one.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "after silence: {end:?}");
    let again = async {
        loop {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let bytes = query("web.test.shop.prod.oak.").to_vec().unwrap();
            let message = [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat();
            if stream.write_all(&message).await.is_ok() && stream.read_u16().await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("the place is free again");
}

/// Knows one service of another node.
struct Elsewhere(AtomicUsize);

impl Lookup for Elsewhere {
    fn find<'a>(&'a self, question: &'a Question, _: IpAddr) -> BoxFuture<'a, Option<ServiceEntry>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let service = entry("far", &["10.30.8.8"], &[(3, "10.30.8.9", true)]);
        let is_it = match question {
            Question::Service(name) => name == "far.test.shop.prod",
            Question::Address(address) => *address == service.addresses[0].address,
        };
        Box::pin(std::future::ready(is_it.then_some(service)))
    }
}

#[tokio::test]
async fn what_the_node_does_not_know_somebody_else_may() {
    let elsewhere = Arc::new(Elsewhere(AtomicUsize::new(0)));
    let limits = Limits { lookup_known_for: PATIENCE, lookup_unknown_for: PATIENCE, ..Limits::default() };
    let running = start(Vec::new(), limits, Arc::clone(&elsewhere) as Arc<dyn Lookup>).await;
    assert_eq!(first(&over_udp(&running, &query("Far.test.shop.prod.oak.")).await), "10.30.8.8");
    assert_eq!(first(&over_udp(&running, &query("3.far.test.shop.prod.oak.")).await), "10.30.8.9");
    let mut reverse = query("8.8.30.10.in-addr.arpa.");
    reverse.queries[0].query_type = RecordType::PTR;
    assert_eq!(first(&over_udp(&running, &reverse).await), "far.test.shop.prod.oak.");
    assert_eq!(elsewhere.0.load(Ordering::SeqCst), 2, "one question per service and one per address");
    for unknown in ["4.far.test.shop.prod.oak.", "near.test.shop.prod.oak.", "near.test.shop.prod.oak."] {
        let answer = over_udp(&running, &query(unknown)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{unknown}");
    }
    assert_eq!(elsewhere.0.load(Ordering::SeqCst), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Rubbish over UDP and TCP: afterwards the server answers as before.
    #[test]
    fn rubbish_does_no_harm(rubbish in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let running = start(Vec::new(), Limits::default(), Arc::new(Nobody)).await;
            let socket = client(&running).await;
            for bytes in &rubbish {
                socket.send(bytes).await.unwrap();
                let mut stream = TcpStream::connect(running.server.address()).await.unwrap();
                // It may be closed at the first bytes already.
                let _ = stream.write_all(bytes).await;
            }
            assert_eq!(first(&over_udp(&running, &query("web.test.shop.prod.oak.")).await), "10.30.0.1");
        });
    }
}
