//! Whether somebody who has something open may still have it: streams stay for days, their users may not.
//!
//! That a token has only become old ends nothing: it was good when the stream was opened, and its user could get a new
//! one.

use std::time::Duration;

use oak_model::ServiceId;
use tokio::time::{MissedTickBehavior, interval};

use super::Shared;
use super::caller::Caller;
use super::scope::Scope;

/// How often it is looked at.
pub(super) const CHECK: Duration = Duration::from_secs(2);

/// The account is gone, was taken out of its organisation, or has another password.
pub(super) const DISMISSED: &str =
    "the user is gone, left the organisation or has another password: log in again";
const MAY_NOT: &str = "the user may not do this any more";
const STOPPING: &str = "the root is stopping";

/// Waits until the caller may no longer reach a service, and says why. `scope` is what it needs for it. That the service
/// is gone is no reason: its last output may still be on the way.
pub(super) async fn lost(
    api: Shared,
    mut caller: Caller,
    scope: fn(&Caller) -> Scope,
    service: ServiceId,
) -> &'static str {
    let mut checks = interval(CHECK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        checks.tick().await;
        caller = match caller.renewed(&api).await {
            Ok(Some(renewed)) => renewed,
            Ok(None) => return DISMISSED,
            Err(_) => return STOPPING,
        };
        let scope = scope(&caller);
        let allowed = api
            .parts
            .root
            .call(move |root, _, _| root.service(service).is_none() || scope.service(root, service).is_ok());
        match allowed.await {
            Ok(true) => {}
            Ok(false) => return MAY_NOT,
            Err(_) => return STOPPING,
        }
    }
}
