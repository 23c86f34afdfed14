//! To whom applications belong: a user in an organisation. Users and organisations themselves are kept by the accounts of
//! the shell; here it is made sure that nothing belongs to somebody who is gone.

use std::collections::{BTreeSet, HashSet};

use oak_model::{Application, Name, OrganizationId};
use serde::{Deserialize, Serialize};

use super::{Quota, Refusal, Root};
use crate::Table;

/// Who creates applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the user.
    pub user: String,
    /// Organisation it works for; `None` only where there are no accounts.
    pub organization: Option<OrganizationId>,
}

/// What is unique: name and namespace of an application for one owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FullName {
    organization: Option<OrganizationId>,
    owner: String,
    name: Name,
    namespace: Name,
}

impl FullName {
    pub(super) fn new(owner: &Owner, name: &Name, namespace: &Name) -> Self {
        Self {
            organization: owner.organization,
            owner: owner.user.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
        }
    }

    pub(super) fn of(application: &Application) -> Self {
        Self {
            organization: application.organization,
            owner: application.owner.clone(),
            name: application.name.clone(),
            namespace: application.namespace.clone(),
        }
    }
}

/// A stored quota.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QuotaRow {
    pub(super) organization: OrganizationId,
    pub(super) quota: Quota,
}

/// Names of deleted users that are remembered; a request of theirs that is still on the way is answered within a minute.
const MAX_RETIRED: usize = 10_000;

/// What is known about the accounts. Nothing of it is stored: the accounts tell it again after a start.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    /// Where applications without an organisation belong, once the accounts have told.
    home: Option<OrganizationId>,
    organizations: BTreeSet<OrganizationId>,
    /// Deleted users.
    retired: HashSet<String>,
}

impl Tenants {
    pub(super) fn check(&self, owner: &Owner) -> Result<(), Refusal> {
        if self.retired.contains(&owner.user) {
            return Err(Refusal::OwnerGone(owner.user.clone()));
        }
        let is_known = |id| self.home.is_none() || self.organizations.contains(&id);
        if owner.organization.is_some_and(|id| !is_known(id)) {
            return Err(Refusal::OrganizationGone);
        }
        Ok(())
    }

    /// Whether everybody works for themselves there.
    pub(super) fn is_home(&self, organization: OrganizationId) -> bool {
        self.home == Some(organization)
    }

    /// An application of no organisation, or of one that this root does not have, belongs to the first one. True when
    /// that is a change.
    pub(super) fn house(&self, application: &mut Application) -> bool {
        let Some(home) = self.home else { return false };
        if application.organization.is_some_and(|id| self.organizations.contains(&id)) {
            return false;
        }
        application.organization = Some(home);
        true
    }
}

impl Root {
    /// Tells after a start which organisations there are. Applications of none of them, such as those of releases
    /// without organisations, become applications of `home`.
    pub fn settle_organizations(
        &mut self,
        home: OrganizationId,
        organizations: impl IntoIterator<Item = OrganizationId>,
    ) {
        self.tenants.home = Some(home);
        self.tenants.organizations = organizations.into_iter().chain([home]).collect();
        for application in self.applications.values_mut() {
            let former = FullName::of(application);
            if self.tenants.house(application) {
                self.application_names.remove(&former);
                self.application_names.insert(FullName::of(application), application.id);
                self.outbox.put(Table::Application, application.id, application);
            }
        }
        self.recount_all();
    }

    /// A new organisation may have applications from now on.
    pub fn admit_organization(&mut self, id: OrganizationId) {
        self.tenants.organizations.insert(id);
    }

    /// An organisation is to be deleted: forgets its quota, and takes no more applications of it.
    ///
    /// # Errors
    /// The number of applications it still has; nothing is changed then.
    pub fn retire_organization(&mut self, id: OrganizationId) -> Result<(), usize> {
        let left =
            self.applications.values().filter(|application| application.organization == Some(id)).count();
        if left > 0 {
            return Err(left);
        }
        self.tenants.organizations.remove(&id);
        self.forget_secrets(|owner| owner.organization == id);
        if self.quotas.remove(&id).is_some() {
            self.outbox.delete(Table::Quota, id);
        }
        Ok(())
    }

    /// A user is to be deleted: takes no more applications of it, in any organisation.
    ///
    /// # Errors
    /// The number of applications it still has; nothing is changed then.
    pub fn retire_owner(&mut self, user: &str) -> Result<(), usize> {
        let left = self.applications.values().filter(|application| application.owner == user).count();
        if left > 0 {
            return Err(left);
        }
        if self.tenants.retired.len() >= MAX_RETIRED {
            self.tenants.retired.clear();
        }
        self.tenants.retired.insert(user.to_owned());
        self.forget_secrets(|owner| owner.user.as_deref() == Some(user));
        Ok(())
    }

    /// A user of this name exists.
    pub fn admit_owner(&mut self, user: &str) {
        self.tenants.retired.remove(user);
    }

    /// Limits an organisation from now on. What it has stays, even if it is more.
    pub fn set_quota(&mut self, organization: OrganizationId, quota: Quota) {
        if quota == self.quota(organization) {
            return;
        }
        if quota == Quota::default() {
            self.quotas.remove(&organization);
            self.outbox.delete(Table::Quota, organization);
            return;
        }
        self.outbox.put(Table::Quota, organization, &QuotaRow { organization, quota });
        self.quotas.insert(organization, quota);
    }
}

#[cfg(test)]
mod tests {
    use oak_model::Now;
    use oak_model::sla::ApplicationRequest;
    use serde_json::Map;

    use super::*;
    use crate::SeededEntropy;
    use crate::root::Settings;

    fn request() -> Vec<ApplicationRequest> {
        vec![ApplicationRequest {
            application_id: None,
            name: "app".parse().unwrap(),
            namespace: "test".parse().unwrap(),
            description: String::new(),
            services: Vec::new(),
            other: Map::new(),
        }]
    }

    fn id(number: u64) -> OrganizationId {
        OrganizationId::from_parts(1, number)
    }

    #[test]
    fn what_belongs_to_no_known_organization_belongs_to_the_first() {
        let (mut root, mut entropy) = (Root::new(Settings::default()), SeededEntropy::new(1));
        let nobody = Owner { user: "bob".into(), organization: None };
        let old = root.create_applications(Now::default(), &mut entropy, &nobody, request()).unwrap()[0];
        root.settle_organizations(id(1), [id(2)]);
        assert_eq!(root.application(old).unwrap().organization, Some(id(1)));
        let rows = root.take_outbox().rows;
        let again = Root::load(Settings::default(), Now::default(), &rows).unwrap();
        assert_eq!(again.application(old).unwrap().organization, Some(id(1)));
        // The name is taken there and free elsewhere.
        let owner = |number| Owner { user: "bob".into(), organization: Some(id(number)) };
        let taken = root.create_applications(Now::default(), &mut entropy, &owner(1), request());
        assert!(matches!(taken, Err(Refusal::ApplicationExists { .. })));
        root.create_applications(Now::default(), &mut entropy, &owner(2), request()).unwrap();
    }

    #[test]
    fn nothing_is_created_for_those_who_are_gone() {
        let (mut root, mut entropy) = (Root::new(Settings::default()), SeededEntropy::new(1));
        root.settle_organizations(id(1), [id(2)]);
        let bob = Owner { user: "bob".into(), organization: Some(id(2)) };
        let application = root.create_applications(Now::default(), &mut entropy, &bob, request()).unwrap()[0];
        assert_eq!((root.retire_owner("bob"), root.retire_organization(id(2))), (Err(1), Err(1)));
        root.delete_application(Now::default(), application).unwrap();
        root.retire_owner("bob").unwrap();
        let refused = root.create_applications(Now::default(), &mut entropy, &bob, request());
        assert_eq!(refused, Err(Refusal::OwnerGone("bob".into())));
        root.admit_owner("bob");
        root.retire_organization(id(2)).unwrap();
        let refused = root.create_applications(Now::default(), &mut entropy, &bob, request());
        assert_eq!(refused, Err(Refusal::OrganizationGone));
    }
}
