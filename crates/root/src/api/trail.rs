//! Writes the audit log: around every request, so that no handler can forget it.
//!
//! What changed something is in the log before it is answered: whoever reads the answer can rely on it. Refusals are
//! not waited for, and of a flood of them only a part is recorded, so that nobody can wear out the disk from outside.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use oak_model::OrganizationId;
use oak_store::{Change, stalled};
use tracing::warn;

use super::peer::Peer;
use super::{Api, Shared};
use crate::accounts::Principal;
use crate::audit::Event;

/// Longest texts from outside that are kept, characters.
const LONGEST: usize = 200;
/// Refusals recorded in a row.
const BURST: u32 = 100;
/// After that one more per this time.
const REFILL: Duration = Duration::from_secs(1);

/// Where handlers leave who the request is from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail(Arc<Mutex<Who>>);

#[derive(Clone, Debug, Default)]
struct Who {
    user: Option<Box<str>>,
    organization: Option<OrganizationId>,
}

impl Trail {
    /// Somebody who is logged in.
    pub(super) fn leads_to(&self, principal: &Principal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Who { user: Some(shortened(&principal.name)), organization: Some(principal.organization) };
    }

    /// Somebody who says to be this user.
    pub(super) fn names(&self, user: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).user = Some(shortened(user));
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Trail {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// In an answer: what was created.
#[derive(Clone, Debug)]
pub(super) struct Created(pub(super) String);

/// How many refusals may still be recorded.
#[derive(Debug)]
pub(super) struct Allowance(Mutex<(Instant, u64)>);

impl Default for Allowance {
    fn default() -> Self {
        let long_ago = Instant::now().checked_sub(REFILL * BURST).unwrap_or_else(Instant::now);
        Self(Mutex::new((long_ago, 0)))
    }
}

impl Allowance {
    /// `Some` with the number of those that were left out before, if one more may be recorded.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (used_until, unrecorded) = &mut *state;
        let earliest = now.checked_sub(REFILL * BURST).unwrap_or(*used_until);
        let next = (*used_until).max(earliest) + REFILL;
        if next > now {
            *unrecorded += 1;
            return None;
        }
        *used_until = next;
        Some(std::mem::take(unrecorded))
    }
}

/// Records a request if it belongs into the log.
pub(super) async fn record(
    State(api): State<Shared>,
    peer: Peer,
    mut request: Request,
    next: Next,
) -> Response {
    let trail = Trail::default();
    request.extensions_mut().insert(trail.clone());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let response = next.run(request).await;
    let Some(route) = route else { return response };
    let status = response.status();
    let is_change = changes_something(&method, &route) || status == StatusCode::SWITCHING_PROTOCOLS;
    let was_done = status.as_u16() < 400;
    if !(is_change || is_refusal(status)) {
        return response;
    }
    let unrecorded = if was_done { Some(0) } else { api.refusals.take(Instant::now()) };
    let Some(unrecorded) = unrecorded else { return response };
    let who = trail.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let event = Event {
        user: who.user,
        organization: who.organization,
        from: peer.address.to_string().into(),
        method: shortened(method.as_str()),
        route: route.trim_end_matches('/').into(),
        path: shortened(&path),
        object: response.extensions().get::<Created>().map(|Created(object)| shortened(object)),
        status: status.as_u16(),
        unrecorded,
    };
    write(&api, event, was_done).await;
    response
}

/// While the disk takes nothing, changes are refused anyway. A row of the log takes the place of another: as long as small
/// rows are written, it is.
async fn write(api: &Api, event: Event, wait: bool) {
    let audit = &api.parts.audit;
    let mut health = audit.health();
    if health.borrow().refusal(Change::Removal).is_some() {
        warn!(?event, "not recorded in the audit log: the disk takes nothing");
        return;
    }
    let writing = async {
        let add = move |log: &mut crate::audit::AuditLog, now, _: &mut dyn oak_control::Entropy| {
            log.add(now, event)
        };
        if wait { audit.call(add).await } else { audit.post(add).await }
    };
    tokio::select! {
        written = writing => if written.is_err() {
            warn!("not recorded in the audit log: the root is stopping");
        },
        why = stalled(&mut health) => warn!(why, "an entry of the audit log waits for the disk"),
    }
}

/// Logging in changes nothing.
fn changes_something(method: &Method, route: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
    !reads && !matches!(route.trim_end_matches('/'), "/api/auth/login" | "/api/auth/refresh")
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
}

fn shortened(text: &str) -> Box<str> {
    text.chars().take(LONGEST).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_of_refusals_a_part_is_recorded_and_the_rest_counted() {
        let (allowance, now) = (Allowance::default(), Instant::now());
        let recorded = (0..1000).filter(|_| allowance.take(now).is_some()).count();
        assert!((99..=101).contains(&recorded), "{recorded}");
        assert_eq!(allowance.take(now + REFILL * 2), Some(1000 - u64::try_from(recorded).unwrap()));
        assert_eq!(allowance.take(now + REFILL * 2), Some(0));
        assert_eq!(allowance.take(now + REFILL * 2), None);
    }
}
