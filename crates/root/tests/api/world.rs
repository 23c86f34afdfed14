//! A root with two users (`Admin`, still with its first password, and `bob`, an application provider), and a played
//! cluster.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use oak_control::root::{Candidate, Effect, Root, Settings};
use oak_control::token::TokenRole;
use oak_control::{Row, Table};
use oak_link::Fingerprint;
use oak_model::exec::{Channel, ExecEnd, ExecMessage, FrameReader, TerminalSize};
use oak_model::message::{
    ClusterHello, ClusterToRoot, DesiredInstance, InstanceReport, RootToCluster, WorkerSummary,
};
use oak_model::{
    Architecture, Availability, ClusterId, Generation, InstanceKey, OrganizationId, Removal, Resources,
    ServiceId, Status, UserId, WallTime, WorkerFacts, WorkerId,
};
use oak_root::accounts::{Accounts, Member, Organization, Passwords, Profile, Role, Signer, User};
use oak_root::api::{
    ApiParts, AvailabilityConfirmations, BoxFuture, ByteSender, ExecSource, ExecStreams, LogError,
    LogRequest, LogSource, LogStream, RemovalConfirmations, RootApi, TokenConfirmations, seed_accounts,
    settle_organizations,
};
use oak_root::audit::AuditLog;
use oak_root::events::EventHub;
use oak_root::mail::{MailConfig, Mailer};
use oak_store::{Engine, Journal, Sealer, Store, StoreError, SystemClock};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tower::ServiceExt;

pub(crate) const LOCAL: [u8; 4] = [127, 0, 0, 1];
pub(crate) const REMOTE: [u8; 4] = [192, 0, 2, 7];

type Opened = (InstanceKey, LogRequest);

/// Output that the test decides about.
#[derive(Default)]
pub(crate) struct ScriptedLogs {
    pub(crate) opened: Mutex<Vec<Opened>>,
    pub(crate) output: Mutex<Option<Result<LogStream, LogError>>>,
    pub(crate) panics: AtomicBool,
}

impl LogSource for ScriptedLogs {
    fn open(&self, key: InstanceKey, wanted: LogRequest) -> BoxFuture<'_, Result<LogStream, LogError>> {
        assert!(!self.panics.load(Ordering::SeqCst), "the test wants a panic");
        self.opened.lock().unwrap().push((key, wanted));
        let output = self.output.lock().unwrap().take();
        Box::pin(async move { output.unwrap_or_else(|| Err(LogError::NotThere("no script".into()))) })
    }
}

type Started = (InstanceKey, Vec<String>, Option<TerminalSize>);

/// Programs that send back what they get, until they get `exit`.
#[derive(Default)]
pub(crate) struct ScriptedPrograms {
    pub(crate) started: Mutex<Vec<Started>>,
    pub(crate) refuses: AtomicBool,
    /// They take no input and say nothing.
    pub(crate) deaf: AtomicBool,
    /// How many are there.
    pub(crate) running: Arc<AtomicUsize>,
}

struct Input(mpsc::Sender<Bytes>, Arc<AtomicUsize>);

impl Drop for Input {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ByteSender for Input {
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move { self.0.send(bytes).await.map_err(|_| LogError::Failed("gone".into())) })
    }
}

impl ExecSource for ScriptedPrograms {
    fn open(
        &self,
        key: InstanceKey,
        command: Vec<String>,
        terminal: Option<TerminalSize>,
    ) -> BoxFuture<'_, Result<ExecStreams, LogError>> {
        self.started.lock().unwrap().push((key, command, terminal));
        let refuses = self.refuses.load(Ordering::SeqCst);
        let deaf = self.deaf.load(Ordering::SeqCst);
        let running = Arc::clone(&self.running);
        Box::pin(async move {
            if refuses {
                return Err(LogError::NotThere("command \"x\" not found".into()));
            }
            running.fetch_add(1, Ordering::SeqCst);
            let (input, taken) = mpsc::channel(1);
            if deaf {
                let silence = stream::unfold(taken, |taken| async {
                    let _taken: mpsc::Receiver<Bytes> = taken;
                    std::future::pending().await
                });
                return Ok(ExecStreams {
                    sender: Box::new(Input(input, running)),
                    receiver: silence.boxed(),
                });
            }
            let answers = stream::unfold((taken, FrameReader::default()), |(mut taken, mut frames)| async {
                let piece: Bytes = taken.recv().await?;
                frames.push(&piece);
                let mut out = Vec::new();
                while let Ok(Some(message)) = frames.next_message() {
                    let answer = match (message.channel, message.payload.as_slice()) {
                        (Channel::Stdin, b"exit") => {
                            ExecMessage::end(&ExecEnd { code: Some(3), ..ExecEnd::default() })
                        }
                        (Channel::Stdin, text) => ExecMessage::new(Channel::Stdout, text),
                        (_, text) => ExecMessage::new(Channel::Stderr, text),
                    };
                    out.extend(answer.to_frame());
                }
                Some((Ok(Bytes::from(out)), (taken, frames)))
            });
            Ok(ExecStreams { sender: Box::new(Input(input, running)), receiver: answers.boxed() })
        })
    }
}

pub(crate) struct World {
    pub(crate) router: axum::Router,
    pub(crate) root: Engine<Root>,
    pub(crate) accounts: Engine<Accounts>,
    pub(crate) logs: Arc<ScriptedLogs>,
    pub(crate) programs: Arc<ScriptedPrograms>,
    /// What clusters were told to run, with the values as they travel.
    pub(crate) wishes: Arc<Mutex<Vec<DesiredInstance>>>,
    /// Worker tokens that were sent to clusters.
    pub(crate) sent_tokens: Option<mpsc::Receiver<(ClusterId, u64, String)>>,
    /// Clusters that were asked to open or close a worker.
    pub(crate) sent_availabilities: Option<mpsc::Receiver<(ClusterId, u64, WorkerId, Availability)>>,
    /// Clusters that were asked to remove a worker.
    pub(crate) sent_removals: Option<mpsc::Receiver<(ClusterId, u64, WorkerId, Removal)>>,
    /// Sessions of clusters that were ended.
    pub(crate) dismissed: Arc<Mutex<Vec<u64>>>,
    tasks: JoinSet<Result<(), StoreError>>,
    directory: Arc<tempfile::TempDir>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let passwords = Passwords::new().unwrap();
        let rows = users(&passwords);
        Self::open(directory, passwords, rows).await
    }

    /// A root that starts for the first time.
    pub(crate) async fn start_empty() -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), Passwords::new().unwrap(), Vec::new()).await
    }

    /// Ends this root and starts another on the same files.
    pub(crate) async fn restart(self) -> Self {
        let Self { router, root, accounts, mut tasks, directory, .. } = self;
        drop((router, root, accounts));
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        Self::open(directory, Passwords::new().unwrap(), Vec::new()).await
    }

    async fn open(directory: Arc<tempfile::TempDir>, passwords: Passwords, users: Vec<Row>) -> Self {
        let (store, mut rows) = Store::open(&directory.path().join("root.db")).unwrap();
        store.submit(users.clone()).unwrap().wait().await.unwrap();
        rows.extend(users);
        Self::on(directory, passwords, rows, store, None).await
    }

    /// A root with one more user, an application provider, whose hash was made elsewhere.
    pub(crate) async fn with_migrated_user(name: &str, hash: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let passwords = Passwords::new().unwrap();
        let mut rows = users(&passwords);
        let profile = Profile { name: name.into(), email: String::new(), created_at: None };
        let user = User::new(UserId::from_parts(1, 9), WallTime(0), profile, hash.to_owned());
        let document = Some(serde_json::to_vec(&user).unwrap());
        rows.push(Row { table: Table::User, key: user.id.to_string(), document });
        Self::open(directory, passwords, rows).await
    }

    /// A root that sends mails.
    pub(crate) async fn with_mail(mail: MailConfig) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let passwords = Passwords::new().unwrap();
        let rows = users(&passwords);
        let (store, _) = Store::open(&directory.path().join("root.db")).unwrap();
        Self::on(directory, passwords, rows, store, Some(mail)).await
    }

    /// A root on a disk that the test plays.
    pub(crate) async fn on_disk(disk: impl Journal) -> Self {
        let passwords = Passwords::new().unwrap();
        let rows = users(&passwords);
        Self::on(Arc::new(tempfile::tempdir().unwrap()), passwords, rows, disk, None).await
    }

    async fn on(
        directory: Arc<tempfile::TempDir>,
        passwords: Passwords,
        rows: Vec<Row>,
        store: impl Journal,
        mail: Option<MailConfig>,
    ) -> Self {
        let (store, clock) = (Arc::new(store), SystemClock::start());
        let mut tasks = JoinSet::new();
        let confirmations = TokenConfirmations::default();
        let (tokens, sent_tokens) = mpsc::channel(8);
        let reporting = confirmations.clone();
        let availability = AvailabilityConfirmations::default();
        let (asked, sent_availabilities) = mpsc::channel(8);
        let opened = availability.clone();
        let removals = RemovalConfirmations::default();
        let removed = removals.clone();
        let (removing, sent_removals) = mpsc::channel(8);
        let dismissed: Arc<Mutex<Vec<u64>>> = Arc::default();
        let dismissed_now = Arc::clone(&dismissed);
        let machine = Root::load(Settings::default(), clock.now(), &rows).unwrap();
        let events = EventHub::new(machine.newest_event());
        let telling = events.clone();
        let secrets = Arc::new(Sealer::open(&directory.path().join("root")).unwrap());
        let sealer = Arc::clone(&secrets);
        let wishes: Arc<Mutex<Vec<DesiredInstance>>> = Arc::default();
        let wishes_sent = Arc::clone(&wishes);
        let perform = move |effect| match effect {
            Effect::TokenReady { id } => reporting.confirm(&id),
            Effect::AvailabilityConfirmed { worker, availability } => opened.confirm(&(worker, availability)),
            Effect::Send {
                cluster,
                session,
                message: RootToCluster::SetAvailability { worker, availability },
            } => {
                asked.try_send((cluster, session, worker, availability)).unwrap();
            }
            Effect::Send { cluster, session, message: RootToCluster::Token(token) } => {
                tokens.try_send((cluster, session, token.id)).unwrap();
            }
            Effect::Send { message: RootToCluster::Set(mut wish), .. } => {
                sealer.reveal(&mut wish);
                wishes_sent.lock().unwrap().push(wish);
            }
            Effect::Events(events) => telling.publish(events),
            Effect::WorkerRemoval { worker, kept } => removed.answer(&worker, &kept),
            Effect::Dismiss { session, .. } => dismissed_now.lock().unwrap().push(session),
            Effect::Send { cluster, session, message: RootToCluster::RemoveWorker { worker, removal } } => {
                // Nobody needs to listen: then it is a cluster that does not answer.
                let _ = removing.try_send((cluster, session, worker, removal));
            }
            Effect::Send { .. } | Effect::Welcome { .. } => {}
        };
        let root = Engine::start(&mut tasks, machine, Arc::clone(&store), clock, perform);
        let accounts = Accounts::load(&rows).unwrap();
        let accounts = Engine::start(&mut tasks, accounts, Arc::clone(&store), clock, |()| {});
        let audit = AuditLog::load(&rows).unwrap();
        let audit = Engine::start(&mut tasks, audit, store, clock, |()| {});
        seed_accounts(&accounts, &passwords).await.unwrap();
        settle_organizations(&root, &accounts).await.unwrap();
        let mailer = mail.map(|mail| Mailer::start(&mut tasks, mail, accounts.clone()).unwrap());
        let logs = Arc::new(ScriptedLogs::default());
        let programs = Arc::new(ScriptedPrograms::default());
        let signer = Signer::open(&directory.path().join("root/jwt-key")).unwrap();
        let api = RootApi::new(ApiParts {
            root: root.clone(),
            accounts: accounts.clone(),
            audit,
            mailer,
            passwords,
            signer,
            clock,
            authority: Fingerprint::of(b"authority"),
            logs: Arc::clone(&logs) as Arc<dyn LogSource>,
            exec: Arc::clone(&programs) as Arc<dyn ExecSource>,
            events,
            secrets,
            confirmations,
            availability,
            removals,
        });
        Self {
            router: api.router(),
            root,
            accounts,
            logs,
            programs,
            wishes,
            sent_tokens: Some(sent_tokens),
            sent_availabilities: Some(sent_availabilities),
            sent_removals: Some(sent_removals),
            dismissed,
            tasks,
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        *request.uri_mut() = path.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((LOCAL, 40_000))));
        Call { request, router: self.router.clone() }
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> Call {
        self.call("GET", path).token(token)
    }

    pub(crate) async fn login(&self, name: &str, password: &str) -> Value {
        let body = json!({ "username": name, "password": password });
        let answer = self.call("POST", "/api/auth/login").json(&body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    pub(crate) async fn token(&self, name: &str, password: &str) -> String {
        self.login(name, password).await["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn admin(&self) -> String {
        self.token("Admin", "Admin").await
    }

    pub(crate) async fn bob(&self) -> String {
        self.token("bob", "bob's password").await
    }

    /// Creates an application with services of these names; returns its record.
    pub(crate) async fn create(&self, token: &str, name: &str, services: &[&str]) -> Value {
        let answer = self
            .call("POST", "/api/application/")
            .token(token)
            .json(&descriptor(name, "", services))
            .send()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let all = answer.nested();
        all.as_array().unwrap().iter().find(|found| found["application_name"] == name).unwrap().clone()
    }

    /// Creates an application with one service; returns the id of the service.
    pub(crate) async fn service(&self, token: &str, name: &str) -> String {
        let application = self.create(token, name, &["web"]).await;
        application["microservices"][0].as_str().unwrap().to_owned()
    }

    pub(crate) async fn deploy(&self, token: &str, service: &str) -> InstanceKey {
        let answer = self.call("POST", &format!("/api/service/{service}/instance")).token(token).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let number = u32::try_from(answer.json()["instance_number"].as_u64().unwrap()).unwrap();
        InstanceKey { service: service.parse().unwrap(), number }
    }

    /// A cluster joins and connects with one worker.
    pub(crate) async fn join(&self, name: &str) -> ClusterId {
        let name = name.to_owned();
        let token_id = format!("token-of-{name}");
        self.root
            .call(move |root, now, entropy| {
                let life = Duration::from_secs(60);
                root.create_token(now, token_id.clone(), "secret".into(), TokenRole::Cluster, life);
                let candidate = Candidate {
                    token_id: &token_id,
                    secret_hash: "secret",
                    key_fingerprint: &name,
                    name: &name,
                    location: "48.1374,11.5755,1000",
                    former: None,
                };
                let id = root.enrol_cluster(now, entropy, candidate).unwrap();
                root.cluster_opened(now, id, 1, "192.0.2.20", hello(&name)).unwrap();
                id
            })
            .await
            .unwrap()
    }

    pub(crate) async fn disconnect(&self, cluster: ClusterId) {
        self.root.call(move |root, now, _| root.cluster_closed(now, cluster, 1)).await.unwrap();
    }

    pub(crate) async fn message(&self, cluster: ClusterId, message: ClusterToRoot) {
        self.root
            .call(move |root, now, _| root.cluster_message(now, cluster, 1, message))
            .await
            .unwrap()
            .unwrap();
    }

    /// The cluster reports a status of an instance it was given.
    pub(crate) async fn report(&self, cluster: ClusterId, key: InstanceKey, status: Status, detail: &str) {
        let generation =
            self.root.call(move |root, _, _| root.instance(key).map(|found| found.generation)).await.unwrap();
        let report = InstanceReport {
            key,
            generation: generation.unwrap(),
            status,
            detail: detail.into(),
            worker: Some(worker_id()),
            host_address: "192.0.2.31".into(),
            address: None,
            ended: false,
        };
        self.message(cluster, ClusterToRoot::Instances(vec![report])).await;
    }

    pub(crate) async fn record(&self, token: &str, service: ServiceId) -> Value {
        let answer = self.get(&format!("/api/service/{service}"), token).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.nested()
    }
}

pub(crate) struct Call {
    request: Request<Body>,
    router: axum::Router,
}

impl Call {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn from(mut self, address: [u8; 4]) -> Self {
        self.request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 40_000))));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        *self.request.body_mut() = body.into();
        self
    }

    /// Sends the request and hangs up before there is an answer.
    pub(crate) fn hang_up(self) {
        assert!(self.router.oneshot(self.request).now_or_never().is_none(), "answered at once");
    }

    /// The body of an answer that goes on.
    pub(crate) async fn open(self) -> Body {
        let response = self.router.oneshot(self.request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }

    pub(crate) async fn send(self) -> Answer {
        let response = self.router.oneshot(self.request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes: Bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// JSON in a JSON string, and nothing else.
    pub(crate) fn nested(&self) -> Value {
        let outer = self.json();
        serde_json::from_str(outer.as_str().unwrap_or_else(|| panic!("not nested: {outer}"))).unwrap()
    }

    /// Asserts an error in the common form and returns its message.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["code"], status);
        assert_eq!(body["status"], self.status.canonical_reason().unwrap());
        let message = body["message"].as_str().unwrap();
        assert!(!message.is_empty());
        message.to_owned()
    }
}

/// Waits until something is so, at most 20 s.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A descriptor with one application; `id` is empty for a new one.
pub(crate) fn descriptor(name: &str, id: &str, services: &[&str]) -> Value {
    let services: Vec<_> = services
        .iter()
        .map(|service| {
            json!({
                "microserviceID": "", "microservice_name": service, "microservice_namespace": "test",
                "virtualization": "container", "code": "docker.io/library/nginx:latest",
                "memory": 100, "vcpus": 1, "port": "", "cmd": ["nginx"], "environment": ["A=b"],
                "state": "", "unknown": {"kept": true}
            })
        })
        .collect();
    json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{
            "applicationID": id, "application_name": name, "application_namespace": "test",
            "application_desc": "a description", "microservices": services
        }]
    })
}

pub(crate) fn worker_id() -> WorkerId {
    WorkerId::from_parts(1, 31)
}

fn hello(name: &str) -> ClusterHello {
    let facts = WorkerFacts {
        name: "worker1".into(),
        address: "192.0.2.31".into(),
        address6: None,
        architecture: Architecture::Amd64,
        capacity: Resources { cpu_millis: 4000, memory_mib: 8000, storage_mib: 10_000, gpus: 0 },
        virtualization: vec!["docker".into()],
        version: "0.1.0".into(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: vec!["csi.oakestra.io/hostpath".into()],
        tunnel: None,
        plain: true,
    };
    let worker = WorkerSummary {
        id: worker_id(),
        facts,
        reserved: Resources { memory_mib: 500, ..Resources::ZERO },
        instances: 0,
        connected: true,
        host_ports: Vec::new(),
        availability: oak_model::Availability::Open,
        round_trip_us: None,
        subnet: None,
        more_subnets: Vec::new(),
        outside: None,
    };
    ClusterHello {
        name: name.into(),
        location: "48.1374,11.5755,1000".into(),
        port: 10_100,
        generation: Generation(0),
        workers: vec![worker],
        ..ClusterHello::default()
    }
}

fn users(passwords: &Passwords) -> Vec<Row> {
    let user = |number, name: &str, password: &str| {
        let profile = Profile {
            name: name.into(),
            email: format!("{name}@example.org"),
            created_at: Some("01/01/2026 10:00".into()),
        };
        let hash = passwords.hash_blocking(password).unwrap();
        let mut user = User::new(UserId::from_parts(1, number), WallTime(0), profile, hash);
        user.default_password = name == "Admin";
        user
    };
    let (admin, bob) = (user(1, "Admin", "Admin"), user(2, "bob", "bob's password"));
    let organization = Organization {
        id: OrganizationId::from_parts(1, 3),
        name: "root".into(),
        members: vec![
            Member { user: admin.id, roles: Role::ALL.to_vec() },
            Member { user: bob.id, roles: vec![Role::ApplicationProvider] },
        ],
    };
    let row = |table, key: String, document: Vec<u8>| Row { table, key, document: Some(document) };
    vec![
        row(Table::User, admin.id.to_string(), serde_json::to_vec(&admin).unwrap()),
        row(Table::User, bob.id.to_string(), serde_json::to_vec(&bob).unwrap()),
        row(Table::Organization, organization.id.to_string(), serde_json::to_vec(&organization).unwrap()),
    ]
}
