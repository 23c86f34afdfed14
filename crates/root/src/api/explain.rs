//! Why an instance is where it is, or nowhere, and where the next one would go.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use oak_model::ServiceId;
use serde::Deserialize;

use super::Shared;
use super::answer::{Answer, plain};
use super::caller::Caller;
use super::error::ApiError;
use super::parameter::Parameter;
use super::record::{Extent, explanation};

/// How much is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default)]
    all: bool,
}

/// `GET /api/service/<id>/explain?all=true`: about one more instance.
pub(super) async fn one_more(
    State(api): State<Shared>,
    caller: Caller,
    Parameter(service): Parameter<ServiceId>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    answer(api, caller, service, None, wanted).await
}

/// `GET /api/service/<id>/instance/<number>/explain?all=true`.
pub(super) async fn instance(
    State(api): State<Shared>,
    caller: Caller,
    Parameter((service, number)): Parameter<(ServiceId, u32)>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    answer(api, caller, service, Some(number), wanted).await
}

async fn answer(
    api: Shared,
    caller: Caller,
    service: ServiceId,
    number: Option<u32>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let wanted = wanted.map_err(|_| ApiError::bad_request("the query may hold all=true or all=false"))?;
    let extent = if wanted.all { Extent::All } else { Extent::First };
    let scope = caller.view();
    let explained = api.parts.root.call(move |root, now, _| {
        scope.service(root, service)?;
        Ok::<_, ApiError>(root.explain(now, service, number)?)
    });
    plain(&explanation(&explained.await??, extent))
}
