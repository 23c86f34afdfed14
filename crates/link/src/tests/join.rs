//! Joining, identities and renewal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::child::{Target, dial};
use crate::pki::{client_tls, enrolment_tls, names, new_request};
use crate::proto::RenewCall;
use crate::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_joins_its_cluster_while_the_root_is_away() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    assert!(Identity::Root.is_parent_of(cluster.identity()));
    let mut parent = Parent::cluster(&world.path("cluster"), &world.clock, ParentOptions::default()).await;
    let World { dir, clock, root, .. } = world;
    let root_dir = dir.path().join("root");
    root.stop().await;

    let token = parent.token(NodeKind::Worker, 9);
    let enrolment = Enrolment {
        endpoint: parent.address.to_string(),
        token,
        parent: Some(parent.authority.identity().clone()),
        name: "worker".to_owned(),
        attributes: bytes::Bytes::from_static(b"facts"),
        directory: dir.path().join("worker"),
        clock: clock.clock(),
    };
    let worker = within("joining", enroll(enrolment)).await.unwrap();
    assert!(parent.authority.identity().is_parent_of(worker.identity()));
    let request = parent.shell.members.lock().unwrap().requests.pop().unwrap();
    assert_eq!(
        (request.proposed_name.as_str(), request.attributes.as_ref()),
        ("worker", b"facts".as_slice())
    );

    let mut child = Child::start(parent.address, &worker, &clock);
    let handle = parent.welcome().await;
    assert_eq!(handle.peer(), worker.identity());
    child.connected().await;
    for dir in [root_dir, dir.path().join("cluster"), dir.path().join("worker")] {
        for file in fs::read_dir(&dir).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
    }
}

#[tokio::test]
async fn a_token_of_another_root_keeps_its_secret() {
    let world = World::new().await;
    let other = World::new().await;
    let token = other.root.token(NodeKind::Cluster, 1);
    let enrolment = world.enrolment(world.root.address, token, "cluster");
    let error = within("joining", enroll(enrolment)).await.unwrap_err();
    let EnrollError::Connect(ConnectError::Rejected { source, .. }) = error else { unexpected(error) };
    assert!(matches!(source, PeerRejected::ForeignRoot { .. }), "{source}");
    assert!(world.root.shell.members.lock().unwrap().requests.is_empty());
}

#[tokio::test]
async fn unusable_tokens_are_refused_with_the_reason() {
    let world = World::new().await;
    let mut seed = 0;
    let mut try_join = async |change: &dyn Fn(&mut TokenRecord), kind| {
        seed += 1;
        let token = world.root.token(kind, seed);
        change(world.root.shell.members.lock().unwrap().tokens.get_mut(token.id()).unwrap());
        let enrolment = world.enrolment(world.root.address, token, "cluster");
        match within("joining", enroll(enrolment)).await {
            Err(EnrollError::Refused(refused)) => refused,
            other => unexpected(other),
        }
    };
    let cluster = NodeKind::Cluster;
    assert_eq!(
        try_join(&|token| token.hash = Fingerprint::of(b"else"), cluster).await,
        EnrollRefused::Unknown
    );
    assert_eq!(try_join(&|token| token.is_expired = true, cluster).await, EnrollRefused::Expired);
    assert_eq!(try_join(&|token| token.kind = NodeKind::Worker, cluster).await, EnrollRefused::WrongKind);
    let used = (Fingerprint::of(b"key"), Identity::Root);
    assert_eq!(try_join(&|token| token.used = Some(used.clone()), cluster).await, EnrollRefused::Used);
}

#[tokio::test]
async fn a_worker_token_is_not_shown_to_a_root() {
    let world = World::new().await;
    let token = world.root.token(NodeKind::Worker, 1);
    let error =
        within("joining", enroll(world.enrolment(world.root.address, token, "worker"))).await.unwrap_err();
    let EnrollError::Connect(ConnectError::Rejected { source, .. }) = error else { unexpected(error) };
    assert!(matches!(source, PeerRejected::WrongPeer { found: Identity::Root, .. }), "{source}");
}

#[tokio::test]
async fn joining_can_be_repeated_after_a_crash_but_not_by_another_node() {
    let world = World::new().await;
    let token = world.root.token(NodeKind::Cluster, 1);
    let join = |name| enroll(world.enrolment(world.root.address, token.clone(), name));
    let first = within("joining", join("cluster")).await.unwrap();
    // As if the process had died before it could store the answer.
    fs::remove_file(world.path("cluster").join(names::CHAIN)).unwrap();
    assert!(matches!(Credentials::open(&world.path("cluster")), Err(PkiError::NotEnrolled { .. })));
    let second = within("joining", join("cluster")).await.unwrap();
    assert_eq!(first.identity(), second.identity());
    let stranger = within("joining", join("stranger")).await;
    assert!(matches!(stranger, Err(EnrollError::Refused(EnrollRefused::Used))), "{stranger:?}");
}

#[tokio::test]
async fn a_node_learns_whether_it_was_removed_and_which_token_it_had() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let clock = world.clock.clock();
    let endpoint = world.root.address.to_string();
    let asks = |endpoint: String| {
        let (cluster, clock) = (Arc::clone(&cluster), clock.clone());
        async move { within("asking", is_removed(&cluster, &endpoint, clock)).await }
    };
    assert!(!asks(endpoint.clone()).await, "a member");
    world.root.shell.members.lock().unwrap().revoked.insert(cluster.identity().clone());
    assert!(asks(endpoint.clone()).await);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(!asks(nobody.to_string()).await, "nobody says so");

    let token = world.root.token(NodeKind::Cluster, 77);
    let other = world.root.token(NodeKind::Cluster, 78);
    let joined = within("joining", enroll(world.enrolment(world.root.address, token.clone(), "one"))).await;
    let joined = joined.unwrap();
    assert!(joined.joined_with(&token) && !joined.joined_with(&other));
    let opened = Credentials::open(&world.path("one")).unwrap();
    assert!(opened.joined_with(&token) && !opened.joined_with(&other));
    fs::remove_file(world.path("one").join(names::TOKEN)).unwrap();
    assert!(!opened.joined_with(&token), "joined under a release that did not keep it");
}

#[tokio::test]
async fn nothing_listening_is_a_readable_error() {
    let world = World::new().await;
    let token = world.root.token(NodeKind::Cluster, 1);
    let mut enrolment = world.enrolment(world.root.address, token, "cluster");
    enrolment.endpoint = "no-port".to_owned();
    let error = within("joining", enroll(enrolment)).await.unwrap_err();
    assert!(matches!(error, EnrollError::Connect(ConnectError::Endpoint { .. })), "{error:?}");
}

#[tokio::test]
async fn a_certificate_renews_itself_at_half_life_on_the_same_session() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let first_end = cluster.not_after();
    let mut config = Child::config(world.root.address, &cluster, &world.clock);
    config.renewal_check = Duration::from_millis(20);
    let mut child = Child::with(config, "hello".into());
    world.root.welcome().await;
    child.connected().await;
    world.clock.advance(4);
    eventually("the renewal", || cluster.not_after() > first_end).await;
    let stored = Credentials::open(&world.path("cluster"));
    eventually("the file", || Credentials::open(&world.path("cluster")).unwrap().not_after() > first_end)
        .await;
    assert_eq!(stored.unwrap().identity(), cluster.identity());
}

#[tokio::test]
async fn an_expired_certificate_still_connects_and_renews() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    world.clock.advance(400);
    assert!(cluster.not_after() < world.clock.now());
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    world.root.welcome().await;
    child.connected().await;
    eventually("the renewal", || cluster.not_after() > world.clock.now()).await;
}

#[tokio::test]
async fn a_device_that_woke_up_in_1970_joins_and_connects() {
    let mut world = World::new().await;
    let device = TestClock::new();
    device.reset_to_1970();
    let token = world.root.token(NodeKind::Cluster, 1);
    let mut enrolment = world.enrolment(world.root.address, token, "cluster");
    enrolment.clock = device.clock();
    let cluster = within("joining", enroll(enrolment)).await.unwrap();
    // It signs its workers although its clock is wrong.
    let mut parent = Parent::cluster(&world.path("cluster"), &device, ParentOptions::default()).await;
    let worker = world.join_worker(&parent, "worker").await;
    let mut child = Child::start(parent.address, &worker, &world.clock);
    parent.welcome().await;
    child.connected().await;
    let mut upward = Child::start(world.root.address, &cluster, &device);
    world.root.welcome().await;
    upward.connected().await;
}

#[tokio::test]
async fn a_renewal_keeps_the_key() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let tls = client_tls(&cluster, Identity::Root, world.clock.clock()).unwrap();
    let mut dialled = dial(&Target::Address(world.root.address), tls).await.unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let csr = new_request(&other).unwrap().into();
    let refused = within("the call", dialled.client.renew(RenewCall { csr })).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let csr = cluster.request().unwrap().into();
    let answer = within("the call", dialled.client.renew(RenewCall { csr })).await.unwrap();
    assert_eq!(answer.into_inner().chain.len(), 2);
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_works() {
    let world = World::new().await;
    let tls =
        enrolment_tls(world.root.authority.root_fingerprint(), NodeKind::Cluster, None, world.clock.clock())
            .unwrap();
    let mut client = dial(&Target::Address(world.root.address), tls).await.unwrap().client;
    let renew = within("the call", client.renew(RenewCall::default())).await.unwrap_err();
    let session = within("the call", client.session(futures_util::stream::pending())).await.unwrap_err();
    let bulk = within("the call", client.bulk(futures_util::stream::pending())).await.unwrap_err();
    for status in [renew, session, bulk] {
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status:?}");
    }
}

#[tokio::test]
async fn a_worker_is_refused_by_every_parent_but_its_own() {
    let mut world = World::new().await;
    world.join_cluster("one").await;
    world.join_cluster("two").await;
    let one = Parent::cluster(&world.path("one"), &world.clock, ParentOptions::default()).await;
    let two = Parent::cluster(&world.path("two"), &world.clock, ParentOptions::default()).await;
    let worker = world.join_worker(&one, "worker").await;

    // The honest worker notices that it dialled another cluster.
    let mut child = Child::start(two.address, &worker, &world.clock);
    let failure = child.failure().await;
    assert!(failure.contains(&two.authority.identity().to_string()), "{failure}");

    // A dishonest one is refused by the other parents.
    for parent in [&two, &world.root] {
        let tls = client_tls(&worker, parent.authority.identity().clone(), world.clock.clock()).unwrap();
        let mut client = dial(&Target::Address(parent.address), tls).await.unwrap().client;
        let status = within("the call", client.session(futures_util::stream::pending())).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
        let csr = worker.request().unwrap().into();
        let status = within("the call", client.renew(RenewCall { csr })).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    }
}

#[tokio::test]
async fn a_cluster_cannot_name_members_of_others_or_itself_anew() {
    let mut world = World::new().await;
    let one = world.join_cluster("one").await;
    let two = world.join_cluster("two").await;
    let authority = Authority::open_cluster(&world.path("one")).unwrap();
    let Identity::Cluster { cluster: other } = two.identity().clone() else { unexpected(two) };
    let worker: NodeId = "0123456789abcdef01234567".parse().unwrap();
    let forgeries = [
        Identity::Worker { cluster: other.clone(), worker },
        Identity::Cluster { cluster: other },
        one.identity().clone(),
        Identity::Root,
    ];
    for (number, identity) in forgeries.into_iter().enumerate() {
        let forged = forge(&authority, &identity, &world.path(&format!("forged-{number}")), &world.clock);
        let error = handshake_error(&world, &forged).await;
        assert!(error.is_some(), "{identity} was accepted");
    }
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    let other = World::new().await;
    let path = world.path("forged");
    let forged = forge(&other.root.authority, cluster.identity(), &path, &world.clock);
    assert!(handshake_error(&world, &forged).await.is_some());
}

#[tokio::test]
async fn a_revoked_member_is_refused_and_told_so() {
    let mut world = World::new().await;
    let cluster = world.join_cluster("cluster").await;
    world.root.shell.members.lock().unwrap().revoked.insert(cluster.identity().clone());
    let mut child = Child::start(world.root.address, &cluster, &world.clock);
    let failure = child.failure().await;
    assert!(
        failure.contains("was removed here") && failure.contains("oak token create cluster"),
        "{failure}"
    );
}

#[test]
fn the_root_keeps_its_authority_and_renews_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let (authority, credentials) = open_root(dir.path(), &[], clock.now()).unwrap();
    let first_end = credentials.not_after();
    assert!(!renew_root(&authority, &credentials, &[], clock.now()).unwrap());
    clock.advance(5);
    assert!(renew_root(&authority, &credentials, &[], clock.now()).unwrap());
    assert!(credentials.not_after() > first_end);
    assert_eq!(Credentials::open(dir.path()).unwrap().not_after(), credentials.not_after());
    let (again, _) = open_root(dir.path(), &["localhost".to_owned()], clock.now()).unwrap();
    assert_eq!(again.root_fingerprint(), authority.root_fingerprint());
}

#[tokio::test]
async fn damaged_files_are_named() {
    let mut world = World::new().await;
    world.join_cluster("cluster").await;
    let dir = world.path("cluster");
    fs::write(dir.join(names::CHAIN), "garbage").unwrap();
    assert!(
        matches!(Credentials::open(&dir), Err(PkiError::Damaged { path, .. }) if path == dir.join(names::CHAIN))
    );
    fs::write(dir.join(names::AUTHORITY), vec![b'a'; 1024 * 1024]).unwrap();
    assert!(matches!(Authority::open_cluster(&dir), Err(PkiError::File { .. })));
}

/// Makes credentials as a dishonest authority would, with the right root in `ca.pem` so that TLS can start.
fn forge(
    authority: &Authority,
    identity: &Identity,
    dir: &std::path::Path,
    clock: &TestClock,
) -> Arc<Credentials> {
    let key = crate::pki::load_or_create_key(dir, names::KEY).unwrap();
    let chain = authority.issue_leaf(identity, &key, &[], clock.now()).unwrap();
    crate::pki::NewCredentials { chain, authority_chain: None, token: None }.install(dir).unwrap();
    Credentials::open(dir).unwrap()
}

/// Dials the root with forged credentials but the right idea of the root; returns how the first call fails.
async fn handshake_error(world: &World, forged: &Arc<Credentials>) -> Option<String> {
    let root = client_tls(forged, Identity::Root, world.clock.clock()).unwrap();
    let honest = enrolment_tls(
        world.root.authority.root_fingerprint(),
        NodeKind::Cluster,
        Some(Identity::Root),
        world.clock.clock(),
    )
    .unwrap();
    let mut config = (*honest).clone();
    config.client_auth_cert_resolver = Arc::clone(&root.client_auth_cert_resolver);
    let dialled = dial(&Target::Address(world.root.address), Arc::new(config)).await;
    // In TLS 1.3 the client learns only with its first read that its certificate was refused.
    match dialled {
        Err(error) => Some(error.to_string()),
        Ok(mut dialled) => {
            let call = within("the call", dialled.client.session(futures_util::stream::pending())).await;
            let status = call.err()?;
            assert_ne!(status.code(), tonic::Code::PermissionDenied, "refused only by the call: {status:?}");
            Some(status.to_string())
        }
    }
}
