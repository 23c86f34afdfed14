//! Join tokens for clusters and workers.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use oak_control::root::{Cluster, Root};
use oak_control::token::TokenRole;
use oak_link::{JoinToken, NodeKind};
use oak_model::{ClusterId, WallTime};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, plain};
use super::auth::MAX_NAME_BYTES;
use super::body::Object;
use super::caller::Caller;
use super::clusters::{find, shortened};
use super::error::ApiError;
use super::permission::Action;

/// Life of a token in seconds: least, usual, most.
const LIFE_S: (u64, u64, u64) = (1, 3600, 7 * 24 * 3600);
/// How long a cluster may take to confirm a worker token.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// The cluster a worker will join.
struct Target {
    id: ClusterId,
    name: String,
    address: String,
    port: u16,
}

/// `POST /api/tokens` `{role, cluster?, ttl_seconds?}` → `{token, expires_at, join}`. A worker token is
/// given out only after its cluster has confirmed that it can check it.
pub(super) async fn create(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Object,
) -> Answer {
    caller.require(Action::ManageInfrastructure)?;
    let kind = match body.text("role", 16)? {
        "cluster" => NodeKind::Cluster,
        "worker" => NodeKind::Worker,
        _ => return Err(ApiError::field("role", "must be \"cluster\" or \"worker\"")),
    };
    let life = read_life(body.0.get("ttl_seconds"))?;
    let wanted = body.optional_text("cluster", MAX_NAME_BYTES)?.map(str::to_owned);
    if kind == NodeKind::Cluster && wanted.is_some() {
        let message = "is for workers only: a cluster says its own name when it joins (`oak cluster --name`)";
        return Err(ApiError::field("cluster", message));
    }
    let mut random = StdRng::try_from_os_rng().map_err(|error| ApiError::internal(&error))?;
    let authority = match kind {
        NodeKind::Cluster => api.parts.authority,
        NodeKind::Worker => {
            let wanted = wanted.clone();
            let found = api.parts.root.call(move |root, _, _| {
                target(root, wanted.as_deref()).map(|target| root.cluster(target.id)?.authority.clone())
            });
            // A cluster that outlived its former root is known to its workers by that one's authority.
            found.await??.and_then(|text| text.parse().ok()).unwrap_or(api.parts.authority)
        }
    };
    let token = JoinToken::generate(kind, authority, &mut random);
    let confirmation = api.parts.confirmations.expect(&token.id().to_owned());
    let (id, hash) = (token.id().to_owned(), token.hash().to_string());
    let created = api.parts.root.call(move |root, now, _| {
        let target = match kind {
            NodeKind::Cluster => None,
            NodeKind::Worker => Some(target(root, wanted.as_deref())?),
        };
        let role = target.as_ref().map_or(TokenRole::Cluster, |target| TokenRole::Worker(target.id));
        root.create_token(now, id, hash, role, life);
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        Ok::<_, ApiError>((target, WallTime(now.wall.0.saturating_add(life_ms))))
    });
    let (target, expires) = created.await??;
    if let Some(target) = &target
        && !confirmation.wait(CONFIRMATION).await
    {
        let message = format!("cluster {} did not confirm the token in time: try again", target.name);
        return Err(ApiError::unavailable(message));
    }
    let here = asked_host(&headers);
    let join = match &target {
        None => format!("oak cluster --root {here} --token {token}"),
        Some(target) => format!("oak worker --cluster {} --token {token}", target.reachable_at(&here)),
    };
    plain(&json!({ "token": token.to_string(), "expires_at": expires.unix_seconds(), "join": join }))
}

fn read_life(value: Option<&Value>) -> Result<Duration, ApiError> {
    let (least, usual, most) = LIFE_S;
    let seconds = match value {
        None => Some(usual),
        Some(value) => value.as_u64().filter(|seconds| (least..=most).contains(seconds)),
    };
    let problem =
        || ApiError::field("ttl_seconds", &format!("must be a whole number from {least} to {most}"));
    seconds.map(Duration::from_secs).ok_or_else(problem)
}

/// The cluster that is meant, if it is there to take the token.
fn target(root: &Root, wanted: Option<&str>) -> Result<Target, ApiError> {
    let cluster = match wanted {
        Some(text) => {
            let unknown = || ApiError::not_found(format!("there is no cluster `{}`", shortened(text)));
            find(root, text).ok_or_else(unknown)?
        }
        None => only_cluster(root)?,
    };
    if !cluster.is_active() {
        return Err(ApiError::conflict(format!(
            "cluster {} is not connected and cannot take a worker token: start it and try again",
            cluster.name
        )));
    }
    let Cluster { id, name, address, port, .. } = cluster;
    Ok(Target { id: *id, name: name.clone(), address: address.clone(), port: *port })
}

fn only_cluster(root: &Root) -> Result<&Cluster, ApiError> {
    let mut clusters = root.clusters();
    match (clusters.next(), clusters.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let message = "no cluster has joined yet: create a token with role \"cluster\" first";
            Err(ApiError::conflict(message))
        }
        (Some(_), Some(_)) => {
            let names: Vec<_> = root.clusters().take(20).map(|cluster| cluster.name.as_str()).collect();
            Err(ApiError::field("cluster", &format!("is required, one of {}", names.join(", "))))
        }
    }
}

impl Target {
    /// Address for the command line. The link of a cluster on this machine comes from a loopback address, which a
    /// worker elsewhere cannot use.
    fn reachable_at(&self, here: &str) -> String {
        match self.address.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => {
                let host = here.parse::<Authority>().map_or(here.to_owned(), |here| here.host().to_owned());
                format!("{host}:{}", self.port)
            }
            Ok(IpAddr::V6(address)) => format!("[{address}]:{}", self.port),
            Ok(IpAddr::V4(address)) => format!("{address}:{}", self.port),
            Err(_) => format!("<address of cluster {}>:{}", self.name, self.port),
        }
    }
}

/// Host and port under which the caller reached this root. It ends in a command line that people paste into a
/// shell, so only the characters of addresses pass.
fn asked_host(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_plain = |host: &&str| {
        host.parse::<Authority>().is_ok()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    host.filter(is_plain).unwrap_or("<address of this root>").to_owned()
}
