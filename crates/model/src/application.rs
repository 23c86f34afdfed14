//! Applications and services as they are kept: by the root, and by every cluster for what it runs, so that a root
//! that lost its disk can be told again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ipv6;
use crate::sla::ServiceRequest;
use crate::{
    ApplicationId, Balancing, JobName, Name, OrganizationId, Revision, ServiceId, ServiceSpec, Upkeep,
};

/// A set of services of one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Application {
    /// Identity.
    pub id: ApplicationId,
    /// Name of the user it belongs to.
    pub owner: String,
    /// Organisation it belongs to; rows of earlier releases and applications deployed at a cluster have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// Name, unique with the namespace for one owner in one organisation.
    pub name: Name,
    /// Namespace.
    pub namespace: Name,
    /// Free text.
    pub description: String,
    /// Further fields as sent.
    #[serde(default)]
    pub other: Map<String, Value>,
    /// Its services in order of creation.
    pub services: Vec<ServiceId>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub id: ServiceId,
    /// Where it belongs.
    pub application: ApplicationId,
    /// Its four names.
    pub job_name: JobName,
    /// What to run.
    pub spec: Arc<ServiceSpec>,
    /// The descriptor as the API shows it.
    pub document: Map<String, Value>,
    /// Address balanced over its instances.
    pub address: Ipv4Addr,
    /// Further addresses, which choose otherwise than in turn.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<Balancing, Ipv4Addr>,
    /// Number of the next instance.
    pub next_number: u32,
    /// Its instances, revisions and updates.
    #[serde(default, skip_serializing_if = "Upkeep::is_default")]
    pub upkeep: Upkeep,
}

impl Application {
    /// The object clients know (client contract, 1.3).
    #[must_use]
    pub fn record(&self) -> Map<String, Value> {
        let id = ("_id", json!({ "$oid": self.id }));
        let known = [
            id.clone(),
            ("applicationID", json!(self.id)),
            ("application_name", json!(self.name)),
            ("application_namespace", json!(self.namespace)),
            ("application_desc", json!(self.description)),
            ("userId", json!(self.owner)),
            ("microservices", json!(self.services)),
        ];
        // First the identity; then what came with the descriptor, which must not hide what is known.
        let mut record = Map::from_iter([(id.0.to_owned(), id.1)]);
        record.extend(self.other.clone());
        record.extend(known.map(|(key, value)| (key.to_owned(), value)));
        if let Some(organization) = self.organization {
            record.insert("organization".to_owned(), json!(organization));
        }
        record
    }
}

impl Service {
    /// The object clients know (client contract, 1.4), without what became of it: the descriptor as it was sent, and
    /// what the system added.
    #[must_use]
    pub fn into_record(self) -> Map<String, Value> {
        let (name, addresses) = (&self.job_name, self.address_list());
        let address6 = ipv6::service(Balancing::RoundRobin, self.address);
        let mut record = self.document;
        let image = record.get("code").cloned().unwrap_or_else(|| json!(self.spec.image));
        let added = [
            ("_id", json!({ "$oid": self.id })),
            ("microserviceID", json!(self.id)),
            ("applicationID", json!(self.application)),
            ("job_name", json!(name.to_string())),
            ("app_name", json!(name.application)),
            ("app_ns", json!(name.application_namespace)),
            ("service_name", json!(name.service)),
            ("service_ns", json!(name.service_namespace)),
            ("image", image),
            ("RR_ip", json!(self.address)),
            ("service_ip_list", addresses),
            ("next_instance_progressive_number", json!(self.next_number)),
            ("revision", json!(self.upkeep.revision)),
        ];
        record.extend(added.map(|(key, value)| (key.to_owned(), value)));
        if record.contains_key("addresses") {
            record.insert("RR_ip_v6".to_owned(), json!(address6));
        }
        record
    }

    /// Its addresses and what chooses at each; the usual one first.
    pub fn addresses(&self) -> impl Iterator<Item = (Balancing, Ipv4Addr)> {
        let usual = (Balancing::RoundRobin, self.address);
        std::iter::once(usual).chain(self.policies.iter().map(|(policy, address)| (*policy, *address)))
    }

    /// Whether an IPv6 address goes with one of its addresses.
    #[must_use]
    pub fn has_ipv6(&self, address: Ipv6Addr) -> bool {
        self.addresses().any(|(policy, own)| ipv6::service(policy, own) == address)
    }

    /// Whether an address is one of its addresses.
    #[must_use]
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.addresses().any(|(_, own)| own == address)
    }

    /// Its addresses as the API shows them (network reference, 3.1).
    #[must_use]
    pub fn address_list(&self) -> Value {
        let entry = |(policy, address): (Balancing, Ipv4Addr)| json!({ "IpType": policy.ip_type(), "Address": address, "Address_v6": ipv6::service(policy, address) });
        self.addresses().map(entry).collect()
    }

    /// A new service as a descriptor asks for it, without instances.
    #[must_use]
    pub fn of_request(
        id: ServiceId,
        application: ApplicationId,
        job_name: JobName,
        request: ServiceRequest,
        address: Ipv4Addr,
    ) -> Self {
        Self {
            id,
            application,
            job_name,
            spec: Arc::new(request.spec),
            document: request.document,
            address,
            policies: BTreeMap::new(),
            next_number: 0,
            upkeep: Upkeep::new(request.replicas, request.update),
        }
    }

    /// What instances of a revision run. One that nobody remembers any more becomes the present one.
    #[must_use]
    pub fn spec_of(&self, revision: u32) -> &Arc<ServiceSpec> {
        if revision == self.upkeep.revision {
            return &self.spec;
        }
        self.upkeep.other(revision).map_or(&self.spec, |other| &other.spec)
    }

    /// The service as instances of a revision know it.
    #[must_use]
    pub fn at_revision(&self, revision: u32) -> Cow<'_, Self> {
        let spec = self.spec_of(revision);
        if Arc::ptr_eq(spec, &self.spec) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self { spec: Arc::clone(spec), ..self.clone() })
    }

    /// The revision that runs exactly this, the present one first.
    #[must_use]
    pub fn revision_with(&self, spec: &ServiceSpec) -> Option<u32> {
        if *self.spec == *spec {
            return Some(self.upkeep.revision);
        }
        let from = self.upkeep.rollout.iter().filter_map(|rollout| rollout.from.as_ref());
        let others = from.chain(&self.upkeep.former);
        others.into_iter().find(|revision| *revision.spec == *spec).map(|revision| revision.number)
    }

    /// What it is asked to be now.
    #[must_use]
    pub fn present(&self) -> Revision {
        Revision {
            number: self.upkeep.revision,
            spec: Arc::clone(&self.spec),
            document: self.document.clone(),
            replicas: self.upkeep.replicas,
            policy: self.upkeep.policy,
        }
    }

    /// Makes it what a revision asks for.
    pub fn become_revision(&mut self, revision: Revision) {
        self.upkeep.highest = self.upkeep.highest.max(revision.number);
        self.upkeep.revision = revision.number;
        self.upkeep.replicas = revision.replicas;
        self.upkeep.policy = revision.policy;
        self.spec = revision.spec;
        self.document = revision.document;
    }

    /// Tells it how many instances to keep, whatever becomes of an update.
    pub fn set_replicas(&mut self, replicas: u32) {
        self.upkeep.replicas = Some(replicas);
        self.document.insert("replicas".to_owned(), json!(replicas));
        if let Some(from) = self.upkeep.rollout.as_mut().and_then(|rollout| rollout.from.as_mut()) {
            from.replicas = Some(replicas);
            from.document.insert("replicas".to_owned(), json!(replicas));
        }
    }
}
