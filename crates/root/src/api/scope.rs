//! Which applications a caller may see or change. Foreign ones look like ones that do not exist.

use oak_control::root::{Application, Refusal, Root, Service};
use oak_model::{ApplicationId, ServiceId};

use super::error::ApiError;
use super::permission::{Action, Object, allowed};
use crate::accounts::Principal;

/// The applications on which somebody may do something.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    principal: Principal,
    action: Action,
}

impl Scope {
    pub(super) fn new(principal: Principal, action: Action) -> Self {
        Self { principal, action }
    }

    /// Whether an application belongs to it.
    pub(super) fn contains(&self, application: &Application) -> bool {
        allowed(&self.principal, self.action, Object::Application(application))
    }

    /// One application.
    pub(super) fn application<'a>(
        &self,
        root: &'a Root,
        id: ApplicationId,
    ) -> Result<&'a Application, ApiError> {
        self.check(root.application(id)).unwrap_or_else(|| Err(Refusal::UnknownApplication(id).into()))
    }

    /// One service.
    pub(super) fn service<'a>(&self, root: &'a Root, id: ServiceId) -> Result<&'a Service, ApiError> {
        let found = root.service(id).and_then(|service| {
            let checked = self.check(root.application(service.application))?;
            Some(checked.map(|_| service))
        });
        found.unwrap_or_else(|| Err(Refusal::UnknownService(id).into()))
    }

    /// `None` if the caller must not know of it.
    fn check<'a>(&self, application: Option<&'a Application>) -> Option<Result<&'a Application, ApiError>> {
        let object = Object::Application(application?);
        if allowed(&self.principal, self.action, object) {
            return application.map(Ok);
        }
        allowed(&self.principal, Action::ViewApplications, object).then(|| Err(ApiError::forbidden()))
    }
}
