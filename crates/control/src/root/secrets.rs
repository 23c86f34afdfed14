//! Secrets of organisations and credentials of registries. Values come sealed and leave sealed: this code cannot read
//! them.
//!
//! Clusters get what their instances need with the wish; a changed value is sent to all of them at once. Programs that
//! run keep what they have; the next start of a container takes the new value.

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

/// Identity of a value.
pub type SecretKey = (OrganizationId, Purpose);

/// A value of an organisation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Secret {
    /// Whose.
    pub organization: OrganizationId,
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
        match &self.purpose {
            Purpose::Secret(name) => format!("{}/secret/{name}", self.organization),
            Purpose::Registry(host) => format!("{}/registry/{host}", self.organization),
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
        (organization, purpose): SecretKey,
        username: Option<String>,
        value: Confidential,
    ) -> Result<u64, SecretRefusal> {
        let key = (organization, purpose);
        let former = self.secrets.get(&key);
        if former.is_none() && self.secrets_of(organization).count() >= MAX_SECRETS {
            return Err(SecretRefusal::TooMany);
        }
        // Above every earlier version, also of one that was removed and of an earlier life of this root.
        let version = former.map_or(0, |former| former.version).max(now.wall.0) + 1;
        let created = former.map_or(now.wall, |former| former.created);
        let purpose = key.1.clone();
        let secret = Secret { organization, purpose, version, created, changed: now.wall, username, value };
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
        let (organization, purpose) = key;
        if matches!(purpose, Purpose::Secret(_)) {
            let users = self.services.values().filter(|service| {
                self.organization_of(service.application) == Some(*organization)
                    && uses(&service.spec, purpose)
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

    /// Values of an organisation, by kind and name.
    pub fn secrets_of(&self, organization: OrganizationId) -> impl Iterator<Item = &Secret> {
        self.secrets.values().filter(move |secret| secret.organization == organization)
    }

    /// Names of services of an organisation that use a secret.
    #[must_use]
    pub fn missing_secrets(&self, organization: OrganizationId) -> Vec<(SecretName, Vec<&Service>)> {
        let mut missing: std::collections::BTreeMap<SecretName, Vec<&Service>> = Default::default();
        let services = self.services.values();
        for service in
            services.filter(|service| self.organization_of(service.application) == Some(organization))
        {
            for secret in &service.spec.secrets {
                let purpose = Purpose::Secret(secret.name.clone());
                if !self.secrets.contains_key(&(organization, purpose)) {
                    missing.entry(secret.name.clone()).or_default().push(service);
                }
            }
        }
        missing.into_iter().collect()
    }

    /// Refuses services that name what their organisation does not have.
    ///
    /// # Errors
    /// The first secret or registry that is missing.
    pub fn check_secrets<'a>(
        &self,
        organization: OrganizationId,
        specs: impl Iterator<Item = &'a ServiceSpec>,
    ) -> Result<(), Refusal> {
        for spec in specs {
            let secrets = spec.secrets.iter().map(|secret| Purpose::Secret(secret.name.clone()));
            let registry = spec.registry_credentials.iter().cloned().map(Purpose::Registry);
            for purpose in secrets.chain(registry) {
                if !self.secrets.contains_key(&(organization, purpose.clone())) {
                    return Err(Refusal::UnknownSecret(purpose));
                }
            }
        }
        Ok(())
    }

    /// Refuses an instance that could not start for lack of a secret: this root may have been rebuilt without them.
    pub(super) fn check_secrets_of(&self, service: &Service) -> Result<(), Refusal> {
        match self.organization_of(service.application) {
            Some(organization) => self.check_secrets(organization, std::iter::once(&*service.spec)),
            None => match service.spec.secrets.first() {
                Some(secret) => Err(Refusal::UnknownSecret(Purpose::Secret(secret.name.clone()))),
                None => Ok(()),
            },
        }
    }

    /// Adds to a wish what the instance needs.
    pub(super) fn supply(&self, desired: &mut DesiredInstance) {
        let Some(organization) = self.organization_of(desired.application) else { return };
        let spec = &desired.spec;
        let secrets = spec.secrets.iter().map(|secret| Purpose::Secret(secret.name.clone()));
        let registry = registry_of(spec).map(Purpose::Registry);
        let mut purposes: Vec<_> = secrets.chain(registry).collect();
        purposes.dedup();
        let known = purposes.into_iter().filter_map(|purpose| self.secrets.get(&(organization, purpose)));
        let material = known.map(|secret| Material {
            purpose: secret.purpose.clone(),
            version: secret.version,
            value: secret.value.clone(),
        });
        desired.material = material.collect();
    }

    /// Sends a changed value to every cluster that runs an instance with it.
    fn renew_wishes(&mut self, (organization, purpose): &SecretKey) {
        let services: Vec<_> = self
            .services
            .values()
            .filter(|service| self.organization_of(service.application) == Some(*organization))
            .filter(|service| uses(&service.spec, purpose))
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
            let Some(service) = self.services.get(&key.service) else { continue };
            let desired = super::state::desired(service, instance);
            self.save_instance(key);
            self.send(cluster, RootToCluster::Set(desired));
        }
    }

    fn organization_of(&self, application: ApplicationId) -> Option<OrganizationId> {
        self.applications.get(&application)?.organization
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
