use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A resolver that answers each question as it is told, and counts questions.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// What a [`Fake`] does.
#[derive(Clone, Copy)]
pub(crate) enum Behaviour {
    /// Answers with one address, kept for these seconds.
    Answers(u32),
    /// Says over UDP that the answer is too large, and answers over TCP.
    OverTcp,
    /// First answers something else, then with another number, then properly.
    ForgedFirst,
    Fails,
    Silent,
}

impl Fake {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                for answer in over_udp(behaviour, &question) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let answer = proper(&Message::from_vec(&bytes).unwrap(), 60).to_vec().unwrap();
                stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn proper(question: &Message, ttl: u32) -> Message {
    let mut answer = question.clone().into_response();
    let data = RData::A(A::new(192, 0, 2, 80));
    answer.answers.push(Record::from_rdata(question.queries[0].name.clone(), ttl, data));
    answer
}

fn over_udp(behaviour: Behaviour, question: &Message) -> Vec<Message> {
    let good = proper(question, 60);
    match behaviour {
        Behaviour::Answers(ttl) => vec![proper(question, ttl)],
        Behaviour::OverTcp => vec![good.truncate()],
        Behaviour::ForgedFirst => {
            let mut other_name = good.clone();
            other_name.queries[0].name = Name::from_ascii("evil.example.").unwrap();
            let mut other_number = good.clone();
            other_number.metadata.id = question.metadata.id.wrapping_add(1);
            other_number.metadata.response_code = ResponseCode::NXDomain;
            vec![other_name, other_number, good]
        }
        Behaviour::Fails => {
            let mut failed = question.clone().into_response();
            failed.metadata.response_code = ResponseCode::ServFail;
            vec![failed]
        }
        Behaviour::Silent => Vec::new(),
    }
}

fn limits() -> Limits {
    Limits { upstream_timeout: Duration::from_millis(200), ..Limits::default() }
}

fn forwarder(servers: &[&Fake]) -> Forwarder {
    let servers = servers.iter().map(|fake| fake.address).collect();
    Forwarder::new(Upstreams::Fixed(servers), Vec::new(), limits())
}

fn query() -> Message {
    let mut query = Message::query();
    query.metadata.id = 7;
    query.add_query(Query::query(Name::from_ascii("wWw.example.com.").unwrap(), RecordType::A));
    query
}

fn address_in(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn an_answer_is_kept_and_comes_back_under_the_askers_number() {
    let fake = Fake::start(Behaviour::Answers(60)).await;
    let forwarder = forwarder(&[&fake]);
    assert!(forwarder.cached(&query()).is_none());
    let first = forwarder.resolve(&query()).await;
    assert_eq!((first.metadata.id, address_in(&first)), (7, vec!["192.0.2.80".to_owned()]));
    assert_eq!(first.queries, query().queries);
    let mut again = query();
    again.metadata.id = 8;
    assert_eq!(forwarder.cached(&again).unwrap().metadata.id, 8);
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn an_answer_that_lasts_no_time_is_not_kept() {
    let fake = Fake::start(Behaviour::Answers(0)).await;
    let forwarder = forwarder(&[&fake]);
    forwarder.resolve(&query()).await;
    assert!(forwarder.cached(&query()).is_none());
}

#[tokio::test]
async fn the_next_resolver_is_asked_when_one_fails_or_is_silent() {
    let (fails, silent) = (Fake::start(Behaviour::Fails).await, Fake::start(Behaviour::Silent).await);
    let good = Fake::start(Behaviour::Answers(60)).await;
    let answer = forwarder(&[&fails, &silent, &good]).resolve(&query()).await;
    assert_eq!(address_in(&answer), ["192.0.2.80"]);
    assert_eq!((fails.asked(), silent.asked(), good.asked()), (1, 1, 1));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_fetched_over_tcp() {
    let fake = Fake::start(Behaviour::OverTcp).await;
    let answer = forwarder(&[&fake]).resolve(&query()).await;
    assert_eq!(address_in(&answer), ["192.0.2.80"]);
    assert!(!answer.metadata.truncation);
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let fake = Fake::start(Behaviour::ForgedFirst).await;
    let answer = forwarder(&[&fake]).resolve(&query()).await;
    assert_eq!(address_in(&answer), ["192.0.2.80"]);
}

#[tokio::test]
async fn without_a_resolver_the_asker_hears_so() {
    let silent = Fake::start(Behaviour::Silent).await;
    for forwarder in [forwarder(&[]), forwarder(&[&silent])] {
        let answer = forwarder.resolve(&query()).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(silent.asked(), 2, "each resolver is asked twice");
}

#[tokio::test(start_paused = true)]
async fn the_file_of_the_host_is_read_again_and_never_leads_back_to_us() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 10.18.0.1\nnameserver 127.0.0.53\n").unwrap();
    let ours = vec!["10.18.0.0/25".parse().unwrap()];
    let forwarder = Forwarder::new(Upstreams::File(file.clone()), ours, limits());
    assert_eq!(forwarder.servers(), ["127.0.0.53:53".parse::<SocketAddr>().unwrap()]);
    std::fs::write(&file, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
    tokio::time::advance(LOOK_AGAIN).await;
    assert_eq!(
        forwarder.servers(),
        ["192.0.2.1:53".parse::<SocketAddr>().unwrap(), "192.0.2.2:53".parse::<SocketAddr>().unwrap()]
    );
    std::fs::remove_file(&file).unwrap();
    tokio::time::advance(LOOK_AGAIN).await;
    assert!(forwarder.servers().is_empty());
}
