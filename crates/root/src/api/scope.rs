//! Which applications a caller may see and change. Foreign ones look like ones that do not exist.

use oak_control::root::{Application, Refusal, Root, Service};
use oak_model::{ApplicationId, ServiceId};

/// A set of applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of them.
    All,
    /// Those of one user.
    OwnedBy(String),
}

impl Scope {
    /// Whether an application belongs to it.
    pub(super) fn contains(&self, application: &Application) -> bool {
        match self {
            Self::All => true,
            Self::OwnedBy(name) => application.owner == *name,
        }
    }

    /// One application.
    pub(super) fn application<'a>(
        &self,
        root: &'a Root,
        id: ApplicationId,
    ) -> Result<&'a Application, Refusal> {
        let found = root.application(id).filter(|application| self.contains(application));
        found.ok_or(Refusal::UnknownApplication(id))
    }

    /// One service.
    pub(super) fn service<'a>(&self, root: &'a Root, id: ServiceId) -> Result<&'a Service, Refusal> {
        let found = root.service(id).filter(|service| {
            root.application(service.application).is_some_and(|application| self.contains(application))
        });
        found.ok_or(Refusal::UnknownService(id))
    }
}
