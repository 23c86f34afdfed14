//! Every route against every kind of caller: the permission matrix of `docs/api.md`, as a table.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::tenants::{PASSWORD, ROOT};
use crate::world::{Answer, World, descriptor};

/// What a route is called with; everything is made anew for each call and belongs to `lab`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Nothing,
    Application,
    Service,
    Instance,
    /// A member of `lab` who is an application provider.
    User,
    /// The id of that user.
    UserId,
    /// The caller.
    Own,
    /// The id of the caller.
    OwnId,
    /// `lab` itself.
    Lab,
    /// An organisation without members.
    Organization,
    Cluster,
    Worker,
    /// A worker, named with its cluster.
    ClusterWorker,
    /// A secret of `lab`.
    Secret,
    /// The name of a secret that is not there.
    NewSecret,
    /// A registry to which `lab` has credentials.
    Registry,
    /// One to which nobody has.
    NewRegistry,
}
use Object::{
    Application, Cluster, ClusterWorker, Instance, Lab, NewRegistry, NewSecret, Nothing, Organization, Own,
    OwnId, Registry, Secret, Service, User, UserId, Worker,
};

type Body = fn(&Subject) -> Value;

struct Row {
    method: &'static str,
    route: &'static str,
    object: Object,
    body: Body,
    /// One letter for each of [`CALLERS`], see [`status`].
    expected: &'static str,
}

/// Organisation and role of each column. Everybody else than the first two may do less.
const CALLERS: [(&str, &str); 16] = [
    ("", "anonymous"),
    ("root", "Admin"),
    ("lab", "Admin"),
    ("lab", "Organization_Admin"),
    ("lab", "Application_Provider"),
    ("lab", "Infrastructure_Provider"),
    ("lab", "none"),
    ("shop", "Admin"),
    ("shop", "Organization_Admin"),
    ("shop", "Application_Provider"),
    ("shop", "Infrastructure_Provider"),
    ("shop", "none"),
    ("root", "Organization_Admin"),
    ("root", "Application_Provider"),
    ("root", "Infrastructure_Provider"),
    ("root", "none"),
];

fn status(letter: char) -> u16 {
    match letter {
        '.' => 200,
        'b' => 400,
        'u' => 401,
        'f' => 403,
        'n' => 404,
        'c' => 409,
        'v' => 422,
        'o' => 501,
        other => panic!("{other} means nothing"),
    }
}

const fn row(
    method: &'static str,
    route: &'static str,
    object: Object,
    body: Body,
    expected: &'static str,
) -> Row {
    Row { method, route, object, body, expected }
}

const NONE: Body = |_| Value::Null;
const DESCRIPTOR: Body = |subject| descriptor(&format!("new{}", subject.number), "", &[]);
const SERVICES: Body = |subject| descriptor(&subject.application_name, &subject.application, &["more"]);
const DESCRIPTION: Body = |_| json!({ "application_desc": "changed" });
const EMAIL: Body = |subject| json!({ "email": format!("{}@example.org", subject.number) });
const ADMIN: Body = |_| json!({ "roles": ["Admin"] });
const QUOTA: Body = |subject| json!({ "quota": { "instances": 10_000 + subject.number } });
const NAMED: Body = |subject| json!({ "name": format!("name{}", subject.number) });
const PASSWORDS: Body = |_| json!({ "oldPassword": "wrong", "newPassword": "new" });
const LOGIN: Body = |_| json!({ "username": "bob", "password": "bob's password" });
const RESET: Body = |_| json!({ "username": "bob", "domain": "example.org" });
const NEW_PASSWORD: Body = |_| json!({ "token": "unknown", "password": "new" });
const CLUSTER: Body = |_| json!({ "role": "cluster" });
const NO_REPLICAS: Body = |_| json!({ "replicas": 0 });
const NONSENSE: Body = |_| json!({ "availability": "nonsense" });
const SECRET: Body = |_| json!({ "value": "hunter2" });
const LOGIN_DATA: Body = |_| json!({ "username": "u", "password": "hunter2" });
const PROVIDER: Body = |subject| new_user(subject, "Application_Provider");
const NEW_ADMIN: Body = |subject| new_user(subject, "Admin");
const INFRASTRUCTURE: Body = |subject| new_user(subject, "Infrastructure_Provider");

fn new_user(subject: &Subject, role: &str) -> Value {
    json!({ "name": format!("new{}", subject.number), "password": "x", "email": "", "roles": [role] })
}

//                                                   lab   shop  root
// anonymous, system admin                        || AOPI- AOPI- OPI-
const ROWS: &[Row] = &[
    row("POST", "/api/auth/login", Nothing, LOGIN, ".. ..... ..... ...."),
    row("POST", "/api/auth/refresh", Nothing, NONE, "uv vvvvv vvvvv vvvv"),
    row("POST", "/api/auth/register", Nothing, PROVIDER, "u. ..fff ..fff .fff"),
    row("POST", "/api/auth/register", Nothing, NEW_ADMIN, "u. .ffff .ffff ffff"),
    row("POST", "/api/auth/register", Nothing, INFRASTRUCTURE, "u. fffff fffff ffff"),
    row("GET", "/api/permission/{name}", Own, NONE, "u. ..... ..... ...."),
    row("GET", "/api/permission/{name}", User, NONE, "uf fffff fffff ffff"),
    row("POST", "/api/user", Nothing, RESET, "cc ccccc ccccc cccc"),
    row("PUT", "/api/user", Nothing, NEW_PASSWORD, "bb bbbbb bbbbb bbbb"),
    row("GET", "/api/user/{name}", Own, NONE, "u. ..... ..... ...."),
    row("GET", "/api/user/{name}", User, NONE, "uf fffff fffff ffff"),
    row("POST", "/api/user/{name}", Own, PASSWORDS, "ub bbbbb bbbbb bbbb"),
    row("POST", "/api/user/{name}", User, PASSWORDS, "uf fffff fffff ffff"),
    row("PUT", "/api/user/{name}", User, EMAIL, "u. ..fff nnfff nfff"),
    row("PUT", "/api/user/{name}", User, ADMIN, "u. .ffff nnfff nfff"),
    row("DELETE", "/api/user/{name}", User, NONE, "u. ..fff nnfff nfff"),
    row("GET", "/api/users", Nothing, NONE, "u. ..fff ..fff .fff"),
    row("GET", "/api/users/{organization}", Lab, NONE, "u. ..fff nnfff nfff"),
    row("GET", "/api/organization", Nothing, NONE, "u. ..fff ..fff .fff"),
    row("POST", "/api/organization", Nothing, NAMED, "u. fffff fffff ffff"),
    row("GET", "/api/organization/{id}", Lab, NONE, "u. ..fff nnfff nfff"),
    row("PUT", "/api/organization/{id}", Lab, |_| json!({}), "u. ..fff nnfff nfff"),
    row("PUT", "/api/organization/{id}", Lab, QUOTA, "u. fffff nnfff nfff"),
    row("PUT", "/api/organization/{id}", Organization, NAMED, "u. nnfff nnfff nfff"),
    row("DELETE", "/api/organization/{id}", Organization, NONE, "u. fffff fffff ffff"),
    row("POST", "/api/application", Nothing, DESCRIPTOR, "u. .f.ff .f.ff f.ff"),
    row("GET", "/api/application/{id}", Application, NONE, "u. ...nn nnnnn nnnn"),
    row("PUT", "/api/application/{id}", Application, DESCRIPTION, "u. .f.nn nnnnn nnnn"),
    row("DELETE", "/api/application/{id}", Application, NONE, "u. .f.nn nnnnn nnnn"),
    row("GET", "/api/applications", Nothing, NONE, "u. ..... ..... ...."),
    row("GET", "/api/applications/{user}", OwnId, NONE, "u. ..... ..... ...."),
    row("GET", "/api/applications/{user}", UserId, NONE, "uu uuuuu uuuuu uuuu"),
    row("POST", "/api/service", Application, SERVICES, "u. .f.nn nnnnn nnnn"),
    row("GET", "/api/service/{id}", Service, NONE, "u. ...nn nnnnn nnnn"),
    row("PUT", "/api/service/{id}", Service, NONSENSE, "uv vvvvv vvvvv vvvv"),
    row("PUT", "/api/service/{id}/scale", Service, NO_REPLICAS, "u. .f.nn nnnnn nnnn"),
    row("DELETE", "/api/service/{id}/update", Service, NONE, "uc cfcnn nnnnn nnnn"),
    row("GET", "/api/service/{id}/explain", Service, NONE, "u. ...nn nnnnn nnnn"),
    row("DELETE", "/api/service/{id}", Service, NONE, "u. .f.nn nnnnn nnnn"),
    row("GET", "/api/services", Nothing, NONE, "u. ..... ..... ...."),
    row("GET", "/api/services/{application}", Application, NONE, "u. ...nn nnnnn nnnn"),
    row("POST", "/api/service/{id}/instance", Service, NONE, "u. .f.nn nnnnn nnnn"),
    row("DELETE", "/api/service/{id}/instance/{number}", Instance, NONE, "u. .f.nn nnnnn nnnn"),
    row("GET", "/api/service/{id}/instance/{number}/logs", Instance, NONE, "uc cccnn nnnnn nnnn"),
    row("GET", "/api/service/{id}/instance/{number}/explain", Instance, NONE, "u. ...nn nnnnn nnnn"),
    row("GET", "/api/service/{id}/instance/{number}/exec", Instance, NONE, "ub bfbnn nnnnn nnnn"),
    row("GET", "/api/service/{id}/events", Service, NONE, "u. ...nn nnnnn nnnn"),
    row("GET", "/api/application/{id}/events", Application, NONE, "u. ...nn nnnnn nnnn"),
    row("GET", "/api/events", Nothing, NONE, "ub bbbbb bbbbb bbbb"),
    row("GET", "/api/secrets", Nothing, NONE, "u. .f.ff .f.ff f.ff"),
    row("GET", "/api/secrets/{name}", Secret, NONE, "un .f.ff nfnff fnff"),
    row("PUT", "/api/secrets/{name}", NewSecret, SECRET, "u. .f.ff .f.ff f.ff"),
    row("DELETE", "/api/secrets/{name}", Secret, NONE, "un .f.ff nfnff fnff"),
    row("GET", "/api/registry-credentials", Nothing, NONE, "u. .f.ff .f.ff f.ff"),
    row("GET", "/api/registry-credentials/{host}", Registry, NONE, "un .f.ff nfnff fnff"),
    row("PUT", "/api/registry-credentials/{host}", NewRegistry, LOGIN_DATA, "u. .f.ff .f.ff f.ff"),
    row("DELETE", "/api/registry-credentials/{host}", Registry, NONE, "un .f.ff nfnff fnff"),
    row("GET", "/api/clusters", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/api/clusters/active", Nothing, NONE, ".. ..... ..... ...."),
    // What exists is not removed here: the query is wrong.
    row("DELETE", "/api/clusters/{id}", Cluster, NONE, "ub fffff fffff ffff"),
    row("DELETE", "/api/clusters/{id}/workers/{worker}", ClusterWorker, NONE, "ub fffff fffff ffff"),
    row("GET", "/api/clusters/{id}/workers", Cluster, NONE, "u. fff.f fff.f f..f"),
    row("GET", "/api/workers/{id}", Worker, NONE, "u. fff.f fff.f f..f"),
    row("PUT", "/api/workers/{id}/availability", Worker, NONSENSE, "uv fffvf fffvf ffvf"),
    row("POST", "/api/tokens", Nothing, CLUSTER, "u. fff.f fff.f ff.f"),
    row("GET", "/api/audit", Nothing, NONE, "u. .ffff .ffff ffff"),
    row("GET", "/healthz", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/readyz", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/status", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/metrics", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/api/v1/info", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/api/v1/clusters", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/docs/openapi.json", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/api/docs", Nothing, NONE, ".. ..... ..... ...."),
    row("GET", "/api/settings", Nothing, NONE, "uo fffff fffff ffff"),
    row("PUT", "/api/settings", Nothing, NONE, "uo fffff fffff ffff"),
    row("PUT", "/apisettings", Nothing, NONE, "uo fffff fffff ffff"),
    row("GET", "/api/net/service/{service}/instances", Service, NONE, "u. ...nn nnnnn nnnn"),
    row("GET", "/api/pubnet/service/netinfo/{service}", Service, NONE, "u. ...nn nnnnn nnnn"),
    // These objects have no address and no number.
    row("GET", "/api/net/service/ip/{address}/instances", Worker, NONE, "ub bbbbb bbbbb bbbb"),
    row("GET", "/api/pubnet/service/netinfo/ip/{address}", Worker, NONE, "ub bbbbb bbbbb bbbb"),
    row("GET", "/api/pubnet/service/netinfo/available-ip", Nothing, NONE, "u. ..... ..... ...."),
    row("GET", "/api/pubnet/service/netinfo/available-ip/{count}", Worker, NONE, "un nnnnn nnnnn nnnn"),
];

/// One call's surroundings.
#[derive(Clone, Debug, Default)]
struct Subject {
    number: usize,
    application: String,
    application_name: String,
    /// What stands in the path for the parameters of the route.
    parameters: Vec<String>,
}

struct Caller {
    name: String,
    id: String,
    token: Option<String>,
}

struct Matrix {
    world: World,
    cluster: String,
    lab: String,
    callers: Vec<Caller>,
    number: usize,
}

impl Matrix {
    async fn new() -> Self {
        let world = World::start().await;
        let cluster = world.join("cluster1").await.to_string();
        let (lab, shop) = (world.organization("lab").await, world.organization("shop").await);
        let mut callers = Vec::new();
        for (organization, role) in CALLERS {
            let id = match organization {
                "lab" => &lab,
                "shop" => &shop,
                _ => ROOT,
            };
            callers.push(match (organization, role) {
                ("", _) => Caller { name: "nobody".into(), id: "none".into(), token: None },
                ("root", "Admin") => {
                    let id = "000000010000000000000001".to_owned();
                    Caller { name: "Admin".into(), id, token: Some(world.admin().await) }
                }
                _ => {
                    let name = format!("{organization}-{role}");
                    let roles = if role == "none" { vec![] } else { vec![role] };
                    let record = world.register(id, &name, &roles).await;
                    let id = record["_id"]["$oid"].as_str().unwrap().to_owned();
                    let token = Some(world.token(&name, PASSWORD).await);
                    Caller { name, id, token }
                }
            });
        }
        Self { world, cluster, lab, callers, number: 0 }
    }

    /// The provider of `lab` owns what the calls are about.
    fn owner(&self) -> &str {
        self.callers[4].token.as_deref().unwrap()
    }

    async fn subject(&mut self, object: Object, caller: usize) -> Subject {
        self.number += 1;
        let number = self.number;
        let mut subject = Subject { number, ..Subject::default() };
        if matches!(object, Application | Service | Instance) {
            subject.application_name = format!("app{number}");
            let record = self.world.create(self.owner(), &subject.application_name, &["web"]).await;
            record["applicationID"].as_str().unwrap().clone_into(&mut subject.application);
            let service = record["microservices"][0].as_str().unwrap();
            subject.parameters = match object {
                Application => vec![subject.application.clone()],
                _ => vec![service.to_owned()],
            };
            if object == Instance {
                self.world.deploy(self.owner(), service).await;
                subject.parameters.push("0".into());
            }
        }
        if matches!(object, User | UserId) {
            let name = format!("user{number}");
            let record = self.world.register(&self.lab, &name, &["Application_Provider"]).await;
            let id = record["_id"]["$oid"].as_str().unwrap();
            subject.parameters = vec![if object == User { name } else { id.to_owned() }];
        }
        let (secret, registry) = (format!("s{number}"), format!("r{number}.example"));
        let stored = match object {
            Secret => Some((format!("/api/secrets/{secret}"), SECRET(&subject))),
            Registry => Some((format!("/api/registry-credentials/{registry}"), LOGIN_DATA(&subject))),
            _ => None,
        };
        if let Some((path, body)) = stored {
            let answer = self.world.call("PUT", &path).token(self.owner()).json(&body).send().await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let other = match object {
            Secret | NewSecret => secret,
            Registry | NewRegistry => registry,
            Own => self.callers[caller].name.clone(),
            OwnId => self.callers[caller].id.clone(),
            Lab => self.lab.clone(),
            Organization => self.world.organization(&format!("organization{number}")).await,
            Cluster => self.cluster.clone(),
            Worker => "worker1".into(),
            ClusterWorker => {
                subject.parameters = vec![self.cluster.clone(), "worker1".into()];
                return subject;
            }
            _ => return subject,
        };
        subject.parameters = vec![other];
        subject
    }

    /// What does not exist, in the same form.
    fn unknown(&self, subject: &Subject) -> Subject {
        let mut unknown = subject.clone();
        unknown.number += 1_000_000;
        let is_id = |text: &str| text.len() == 24;
        for text in unknown.parameters.iter_mut().chain([&mut unknown.application]) {
            if is_id(text) {
                "0123456789abcdef01234567".clone_into(text);
            } else if text.parse::<u32>().is_err() {
                "unknown".clone_into(text);
            }
        }
        unknown
    }

    async fn send(&self, row: &Row, subject: &Subject, caller: usize) -> Answer {
        let mut path = String::new();
        let mut parameters = subject.parameters.iter();
        for part in row.route.split('/').skip(1) {
            let text = if part.starts_with('{') { parameters.next().unwrap() } else { part };
            path.push('/');
            path.push_str(text);
        }
        match row.route {
            "/api/service/{id}/instance/{number}/exec" => path.push_str("?command=x"),
            "/api/clusters/{id}" | "/api/clusters/{id}/workers/{worker}" => path.push_str("?force=x"),
            // A stream would not end.
            "/api/events" => path.push_str("?since=x"),
            _ => {}
        }
        let mut call = self.world.call(row.method, &path);
        if let Some(token) = &self.callers[caller].token {
            call = call.token(token);
        }
        match (row.body)(subject) {
            Value::Null => call.send().await,
            body => call.json(&body).send().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_every_kind_of_caller_as_documented() {
    let mut matrix = Matrix::new().await;
    let mut wrong = Vec::new();
    for row in ROWS {
        let letters: Vec<char> = row.expected.chars().filter(|letter| *letter != ' ').collect();
        assert_eq!(letters.len(), CALLERS.len(), "{} {}", row.method, row.route);
        for (caller, letter) in letters.into_iter().enumerate() {
            let subject = matrix.subject(row.object, caller).await;
            let answer = matrix.send(row, &subject, caller).await;
            let (method, route, who) = (row.method, row.route, CALLERS[caller]);
            if answer.status != status(letter) {
                let expected = status(letter);
                wrong.push(format!(
                    "{method} {route} by {who:?}: {} instead of {expected}: {}",
                    answer.status, answer.text
                ));
            }
            let is_foreign = who.0 != "lab" && who != ("root", "Admin");
            if !is_foreign
                || matches!(
                    row.object,
                    Nothing | Own | OwnId | Cluster | Worker | ClusterWorker | NewSecret | NewRegistry
                )
            {
                continue;
            }
            let unknown = matrix.unknown(&subject);
            let other = matrix.send(row, &unknown, caller).await;
            let (mut here, mut there) = (answer.text.clone(), other.text.clone());
            for (known, unknown) in subject.parameters.iter().zip(&unknown.parameters) {
                here = here.replace(known, "X");
                there = there.replace(unknown, "X");
            }
            if (answer.status, &here) != (other.status, &there) {
                wrong.push(format!("{method} {route} by {who:?} leaks: {} / {}", answer.text, other.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn every_route_is_in_the_table() {
    let world = World::start().await;
    let known: BTreeSet<_> = ROWS.iter().map(|row| (row.method, row.route)).collect();
    let mut there = BTreeSet::new();
    for route in oak_root::api::paths() {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if world.call(method, route.replace(['{', '}'], "x").as_str()).send().await.status != 405 {
                there.insert((method, route));
            }
        }
    }
    assert_eq!(there.difference(&known).collect::<Vec<_>>(), Vec::<&(&str, &str)>::new(), "not in the table");
    assert_eq!(
        known.difference(&there).collect::<Vec<_>>(),
        Vec::<&(&str, &str)>::new(),
        "not in the router"
    );
}
