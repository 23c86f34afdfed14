//! What happened: a stream that can be resumed, and the recent past of a service or an application.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use oak_control::root::{Occurrence, Topic};
use oak_model::{ApplicationId, ClusterId, Event, EventKind, InstanceKey, ServiceId, WorkerId};
use serde::Deserialize;

use super::answer::{Answer, plain};
use super::caller::Caller;
use super::error::ApiError;
use super::event_stream::{self, Reader};
use super::parameter::Parameter;
use super::{Shared, record, sse};

/// Streams open at the same time; each may stay for days.
pub(super) const CONCURRENT: usize = 128;
/// Of one user.
pub(super) const PER_USER: usize = 32;

/// Events of one answer, if the client does not say.
const USUAL_LIMIT: usize = 100;
/// Most events of one answer.
const LARGEST_LIMIT: usize = 1_000;

const QUERY_RULE: &str = "the query may hold since=<sequence number>, application=<id>, service=<id>, \
                          instance=<service id>.<number>, worker=<id>, cluster=<id> and kind=<kind>[,<kind>…]";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    since: Option<u64>,
    application: Option<ApplicationId>,
    service: Option<ServiceId>,
    instance: Option<InstanceKey>,
    worker: Option<WorkerId>,
    cluster: Option<ClusterId>,
    kind: Option<String>,
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    application: Option<ApplicationId>,
    service: Option<ServiceId>,
    instance: Option<InstanceKey>,
    worker: Option<WorkerId>,
    cluster: Option<ClusterId>,
    kinds: Vec<EventKind>,
}

impl Filter {
    fn of(wanted: &Wanted) -> Result<Self, ApiError> {
        let words = wanted.kind.as_deref().unwrap_or_default().split(',').filter(|word| !word.is_empty());
        let kinds = words.map(|word| word.trim().parse::<EventKind>()).collect::<Result<_, _>>();
        let kinds = kinds.map_err(|unknown| {
            let known: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
            ApiError::bad_request(format!("kind: {unknown}; known are {}", known.join(", ")))
        })?;
        let &Wanted { application, service, instance, worker, cluster, .. } = wanted;
        Ok(Self { application, service, instance, worker, cluster, kinds })
    }

    /// Whether anything of a topic can be wanted.
    pub(super) fn admits(&self, topic: &Topic) -> bool {
        let service = self.service.or(self.instance.map(|key| key.service));
        let (application, of) = match topic {
            Topic::System => (None, None),
            Topic::Application(application) => (Some(*application), None),
            Topic::Service(application, service) => (Some(*application), Some(*service)),
        };
        let application_fits = self.application.is_none() || self.application == application;
        // Its coming and going is told with its application.
        let service_fits = service.is_none() || of == service || (of.is_none() && application.is_some());
        application_fits && service_fits
    }

    /// Whether an event is wanted.
    pub(super) fn matches(&self, event: &Event) -> bool {
        let fits = |wanted: bool, is: bool| !wanted || is;
        fits(self.application.is_some(), event.application == self.application)
            && fits(self.service.is_some(), event.service == self.service)
            && fits(self.instance.is_some(), event.key() == self.instance)
            && fits(self.worker.is_some(), event.worker == self.worker)
            && fits(self.cluster.is_some(), event.cluster == self.cluster)
            && fits(!self.kinds.is_empty(), self.kinds.contains(&event.kind))
    }
}

/// `GET /api/events`: everything the caller may see, from now on or from a number on, as server-sent events.
pub(super) async fn stream(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted.map_err(|_| ApiError::bad_request(QUERY_RULE))?;
    let filter = Filter::of(&wanted)?;
    let since = match sse::last_event_id(&headers) {
        Some(id) => Some(id.parse().map_err(|_| {
            ApiError::bad_request("Last-Event-ID must be the sequence number of an event of this stream")
        })?),
        None => wanted.since,
    };
    let slot = api.event_streams.take(&caller)?;
    let reader = Reader::open(api, caller, filter, since, slot).await?;
    Ok(sse::response(event_stream::run(reader)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
}

impl Page {
    fn limit(page: Result<Query<Self>, QueryRejection>) -> Result<usize, ApiError> {
        let rule = || ApiError::bad_request(format!("the query may hold limit=<1 to {LARGEST_LIMIT}>"));
        let Query(page) = page.map_err(|_| rule())?;
        let limit = page.limit.unwrap_or(USUAL_LIMIT);
        if (1..=LARGEST_LIMIT).contains(&limit) { Ok(limit) } else { Err(rule()) }
    }
}

/// `GET /api/service/<id>/events`: the recent past of a service, newest last.
pub(super) async fn of_service(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ServiceId>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let limit = Page::limit(page)?;
    let scope = caller.view();
    let events = api.parts.root.call(move |root, _, _| {
        let application = scope.service(root, id)?.application;
        let mut events = root.events_after(0, |topic, _| topic.application() == Some(application)).events;
        events.retain(|occurrence| occurrence.event.service == Some(id));
        Ok::<_, ApiError>(events)
    });
    list(&events.await??, limit)
}

/// `GET /api/application/<id>/events`: the recent past of an application and its services, newest last.
pub(super) async fn of_application(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(id): Parameter<ApplicationId>,
    page: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let limit = Page::limit(page)?;
    let scope = caller.view();
    let events = api.parts.root.call(move |root, _, _| {
        scope.application(root, id)?;
        Ok::<_, ApiError>(root.events_after(0, |topic, _| topic.application() == Some(id)).events)
    });
    list(&events.await??, limit)
}

fn list(events: &[Arc<Occurrence>], limit: usize) -> Answer {
    let newest = events.iter().skip(events.len().saturating_sub(limit));
    plain(&newest.map(|occurrence| record::event(&occurrence.event)).collect::<Vec<_>>())
}
