//! Secrets of organisations and credentials of registries. Values come sealed and leave sealed: this code cannot read
//! them.
//!
//! Clusters get what their instances need with the wish; a changed value is sent to all of them at once. Programs that
//! run keep what they have; the next start of a container takes the new value.

use std::collections::BTreeMap;

use oak_model::message::{DesiredInstance, RootToCluster};
use oak_model::{
    ApplicationId, Confidential, InstanceKey, Material, Now, OrganizationId, Purpose, RegistryHost,
    SecretName, ServiceSpec, WallTime,
};
use serde::{Deserialize, Serialize};

use super::{Refusal, Root, Service};
use crate::Table;

/// Most secrets and registries of one organisation.
pub const MAX_SECRETS: usize = 1_000;

/// Whose a value is: an organisation's, or, in the first organisation, where everybody works for themselves, a user's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretOwner {
    /// The organisation.
    pub organization: OrganizationId,
    /// Name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Identity of a value.
pub type SecretKey = (SecretOwner, Purpose);

/// A value of an organisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Secret {
    /// Whose.
    #[serde(flatten)]
    pub owner: SecretOwner,
    /// What for.
    pub purpose: Purpose,
    /// Grows with every change.
    pub version: u64,
    /// When it was made.
    pub created: WallTime,
    /// When the value was last changed.
    pub changed: WallTime,
    /// User name of a registry; of a secret nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The value, sealed.
    value: Confidential,
}

impl Secret {
    fn row_key(&self) -> String {
        let SecretOwner { organization, user } = &self.owner;
        let user = user.as_deref().unwrap_or_default();
        match &self.purpose {
            Purpose::Secret(name) => format!("{organization}/{user}/secret/{name}"),
            Purpose::Registry(host) => format!("{organization}/{user}/registry/{host}"),
        }
    }
}

/// Why a secret is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretRefusal {
    /// There is none of that name.
    #[error("there is no {0}")]
    Unknown(Purpose),
    /// Services use it.
    #[error("{purpose} is used by {users}: delete these services first")]
    InUse {
        /// Which one.
        purpose: Purpose,
        /// Names of services.
        users: String,
    },
    /// The organisation has too many.
    #[error("an organisation can have {MAX_SECRETS} secrets and registries: remove some that are not needed")]
    TooMany,
}

impl Root {
    /// Stores a value that is already sealed; returns its version.
    ///
    /// # Errors
    /// There are too many.
    pub fn put_secret(
        &mut self,
        now: Now,
        key: SecretKey,
        username: Option<String>,
        value: Confidential,
    ) -> Result<u64, SecretRefusal> {
        let former = self.secrets.get(&key);
        if former.is_none() && self.secrets_of(&key.0).count() >= MAX_SECRETS {
            return Err(SecretRefusal::TooMany);
        }
        // Above every earlier version, also of one that was removed and of an earlier life of this root.
        let version = former.map_or(0, |former| former.version).max(now.wall.0) + 1;
        let created = former.map_or(now.wall, |former| former.created);
        let (owner, purpose) = key.clone();
        let secret = Secret { owner, purpose, version, created, changed: now.wall, username, value };
        self.outbox.put(Table::Secret, secret.row_key(), &secret);
        self.secrets.insert(key.clone(), secret);
        self.renew_wishes(&key);
        Ok(version)
    }

    /// Removes a value that no service uses.
    ///
    /// # Errors
    /// There is none, or it is in use.
    pub fn remove_secret(&mut self, key: &SecretKey) -> Result<(), SecretRefusal> {
        let secret = self.secrets.get(key).ok_or_else(|| SecretRefusal::Unknown(key.1.clone()))?;
        let row = secret.row_key();
        let (owner, purpose) = key;
        if matches!(purpose, Purpose::Secret(_)) {
            let users = self.services.values().filter(|service| {
                uses(&service.spec, purpose) && self.secret_owner(service.application).as_ref() == Some(owner)
            });
            let names: Vec<_> = users.take(5).map(|service| service.job_name.to_string()).collect();
            if !names.is_empty() {
                let purpose = purpose.clone();
                return Err(SecretRefusal::InUse { purpose, users: names.join(", ") });
            }
        }
        self.secrets.remove(key);
        self.outbox.delete(Table::Secret, row);
        Ok(())
    }

    /// Values of an owner, by kind and name.
    pub fn secrets_of(&self, owner: &SecretOwner) -> impl Iterator<Item = &Secret> {
        self.secrets.values().filter(move |secret| secret.owner == *owner)
    }

    /// Forgets the values of an organisation, or of a user, that is deleted.
    pub(super) fn forget_secrets(&mut self, is_gone: impl Fn(&SecretOwner) -> bool) {
        let gone: Vec<_> = self.secrets.keys().filter(|(owner, _)| is_gone(owner)).cloned().collect();
        for key in gone {
            if let Some(secret) = self.secrets.remove(&key) {
                self.outbox.delete(Table::Secret, secret.row_key());
            }
        }
    }

    /// Secrets that services of an owner use and this root does not have, with those services.
    #[must_use]
    pub fn missing_secrets(&self, owner: &SecretOwner) -> Vec<(SecretName, Vec<&Service>)> {
        let mut missing: BTreeMap<SecretName, Vec<&Service>> = BTreeMap::new();
        let with_secrets = self.services.values().filter(|service| !service.spec.secrets.is_empty());
        for service in
            with_secrets.filter(|service| self.secret_owner(service.application).as_ref() == Some(owner))
        {
            for secret in &service.spec.secrets {
                if !self.secrets.contains_key(&(owner.clone(), Purpose::Secret(secret.name.clone()))) {
                    missing.entry(secret.name.clone()).or_default().push(service);
                }
            }
        }
        missing.into_iter().collect()
    }

    /// Refuses services that name what their owner does not have.
    ///
    /// # Errors
    /// The first secret or registry that is missing.
    pub fn check_secrets<'a>(
        &self,
        owner: &SecretOwner,
        specs: impl Iterator<Item = &'a ServiceSpec>,
    ) -> Result<(), Refusal> {
        for spec in specs {
            let secrets = spec.secrets.iter().map(|secret| Purpose::Secret(secret.name.clone()));
            let registry = spec.registry_credentials.iter().cloned().map(Purpose::Registry);
            for purpose in secrets.chain(registry) {
                if !self.secrets.contains_key(&(owner.clone(), purpose.clone())) {
                    return Err(Refusal::UnknownSecret(purpose));
                }
            }
        }
        Ok(())
    }

    /// Refuses an instance that could not start for lack of a secret: this root may have been rebuilt without them.
    pub(super) fn check_secrets_of(&self, service: &Service) -> Result<(), Refusal> {
        let spec = &*service.spec;
        let first = match spec.secrets.first() {
            None if spec.registry_credentials.is_none() => return Ok(()),
            first => first,
        };
        match (self.secret_owner(service.application), first) {
            (Some(owner), _) => self.check_secrets(&owner, std::iter::once(spec)),
            (None, Some(secret)) => Err(Refusal::UnknownSecret(Purpose::Secret(secret.name.clone()))),
            (None, None) => Ok(()),
        }
    }

    /// Adds to a wish what the instance needs.
    pub(super) fn supply(&self, desired: &mut DesiredInstance) {
        if self.secrets.is_empty() {
            return;
        }
        let Some(owner) = self.secret_owner(desired.application) else { return };
        let spec = &desired.spec;
        let secrets = spec.secrets.iter().map(|secret| Purpose::Secret(secret.name.clone()));
        let registry = registry_of(spec).map(Purpose::Registry);
        let mut purposes: Vec<_> = secrets.chain(registry).collect();
        purposes.dedup();
        let known = purposes.into_iter().filter_map(|purpose| self.secrets.get(&(owner.clone(), purpose)));
        let material = known.map(|secret| Material {
            purpose: secret.purpose.clone(),
            version: secret.version,
            value: secret.value.clone(),
        });
        desired.material = material.collect();
    }

    /// Sends a changed value to every cluster that runs an instance with it.
    fn renew_wishes(&mut self, (owner, purpose): &SecretKey) {
        let services: Vec<_> = self
            .services
            .values()
            .filter(|service| uses(&service.spec, purpose))
            .filter(|service| self.secret_owner(service.application).as_ref() == Some(owner))
            .map(|service| service.id)
            .collect();
        let has_place = |instance: &&super::Instance| instance.cluster.is_some() && !instance.moving;
        let keys: Vec<InstanceKey> = services
            .into_iter()
            .flat_map(|service| self.instances_of(service).filter(has_place).map(|instance| instance.key))
            .collect();
        for key in keys {
            let generation = self.next_generation();
            let Some(instance) = self.instances.get_mut(&key) else { continue };
            instance.generation = generation;
            let Some(cluster) = instance.cluster else { continue };
            self.save_instance(key);
            let Some(desired) = self.wish(key) else { continue };
            self.send(cluster, RootToCluster::Set(desired));
        }
    }

    /// Whose secrets the services of an application use.
    #[must_use]
    pub fn secret_owner(&self, application: ApplicationId) -> Option<SecretOwner> {
        let application = self.applications.get(&application)?;
        let organization = application.organization?;
        let is_home = self.tenants.is_home(organization);
        Some(SecretOwner { organization, user: is_home.then(|| application.owner.clone()) })
    }
}

fn registry_of(spec: &ServiceSpec) -> Option<RegistryHost> {
    spec.registry_credentials.clone().or_else(|| RegistryHost::of_image(&spec.image).ok())
}

fn uses(spec: &ServiceSpec, purpose: &Purpose) -> bool {
    match purpose {
        Purpose::Secret(name) => spec.secrets.iter().any(|secret| secret.name == *name),
        Purpose::Registry(host) => registry_of(spec).as_ref() == Some(host),
    }
}
