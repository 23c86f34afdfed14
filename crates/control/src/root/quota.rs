//! Quotas of organisations: how much their applications may ask for together. What is asked for counts, whether or not
//! it has found a place (`ledger.rs`): the sum is known here and does not depend on what clusters report.

use std::fmt;

use oak_model::resources::Cores;
use oak_model::sla::{ApplicationRequest, ServiceRequest};
use oak_model::{OrganizationId, ServiceSpec};
use serde::{Deserialize, Serialize};

use super::Root;

/// What a quota can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Applications.
    Applications,
    /// Services.
    Services,
    /// Instances, those included that wait for a place.
    Instances,
    /// CPU of all instances, thousandths of a core.
    CpuMillis,
    /// Memory of all instances, MiB.
    MemoryMib,
    /// Storage of all instances, MiB.
    StorageMib,
    /// GPUs of all instances.
    Gpus,
}

impl QuotaKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Applications,
        Self::Services,
        Self::Instances,
        Self::CpuMillis,
        Self::MemoryMib,
        Self::StorageMib,
        Self::Gpus,
    ];

    /// Name in the API; `cpu` is in cores there.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applications => "applications",
            Self::Services => "services",
            Self::Instances => "instances",
            Self::CpuMillis => "cpu",
            Self::MemoryMib => "memory_mib",
            Self::StorageMib => "storage_mib",
            Self::Gpus => "gpus",
        }
    }
}

/// The limits of an organisation; what is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Applications.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applications: Option<u64>,
    /// Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<u64>,
    /// Instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u64>,
    /// Thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_mib: Option<u64>,
    /// GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u64>,
}

impl Quota {
    /// The limit of one kind.
    #[must_use]
    pub const fn limit(&self, kind: QuotaKind) -> Option<u64> {
        match kind {
            QuotaKind::Applications => self.applications,
            QuotaKind::Services => self.services,
            QuotaKind::Instances => self.instances,
            QuotaKind::CpuMillis => self.cpu_millis,
            QuotaKind::MemoryMib => self.memory_mib,
            QuotaKind::StorageMib => self.storage_mib,
            QuotaKind::Gpus => self.gpus,
        }
    }

    /// Sets the limit of one kind.
    pub const fn set_limit(&mut self, kind: QuotaKind, limit: Option<u64>) {
        let slot = match kind {
            QuotaKind::Applications => &mut self.applications,
            QuotaKind::Services => &mut self.services,
            QuotaKind::Instances => &mut self.instances,
            QuotaKind::CpuMillis => &mut self.cpu_millis,
            QuotaKind::MemoryMib => &mut self.memory_mib,
            QuotaKind::StorageMib => &mut self.storage_mib,
            QuotaKind::Gpus => &mut self.gpus,
        };
        *slot = limit;
    }

    /// The first kind of which there would be too much. What is not asked for is not looked at: an organisation over
    /// a limit that was lowered may still do everything else.
    pub(super) fn check(&self, used: &Consumption, wanted: &Consumption) -> Result<(), OverQuota> {
        for kind in QuotaKind::ALL {
            let (used, wanted) = (used.amount(kind), wanted.amount(kind));
            if let Some(limit) = self.limit(kind)
                && wanted > 0
                && used.saturating_add(wanted) > limit
            {
                return Err(OverQuota { kind, limit, used, wanted, only_spare: false });
            }
        }
        Ok(())
    }
}

/// How much of everything there is or is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumption {
    applications: u64,
    services: u64,
    instances: u64,
    cpu_millis: u64,
    memory_mib: u64,
    storage_mib: u64,
    gpus: u64,
}

impl Consumption {
    /// How much of one kind.
    #[must_use]
    pub const fn amount(&self, kind: QuotaKind) -> u64 {
        match kind {
            QuotaKind::Applications => self.applications,
            QuotaKind::Services => self.services,
            QuotaKind::Instances => self.instances,
            QuotaKind::CpuMillis => self.cpu_millis,
            QuotaKind::MemoryMib => self.memory_mib,
            QuotaKind::StorageMib => self.storage_mib,
            QuotaKind::Gpus => self.gpus,
        }
    }

    pub(super) fn of_applications(requests: &[ApplicationRequest]) -> Self {
        let of_one = |request: &ApplicationRequest| {
            Self::of_an_application().plus(&Self::of_services(&request.services))
        };
        requests.iter().map(of_one).fold(Self::default(), |sum, one| sum.plus(&one))
    }

    /// With the instances they keep by themselves.
    pub(super) fn of_services(requests: &[ServiceRequest]) -> Self {
        let of_one = |request: &ServiceRequest| {
            let replicas = request.replicas.unwrap_or_default();
            Self::of_a_service().plus(&Self::of_spec(&request.spec).times(replicas.into()))
        };
        requests.iter().map(of_one).fold(Self::default(), |sum, one| sum.plus(&one))
    }

    /// Nothing but the application itself.
    pub(super) fn of_an_application() -> Self {
        Self { applications: 1, ..Self::default() }
    }

    /// Nothing but the service itself.
    pub(super) fn of_a_service() -> Self {
        Self { services: 1, ..Self::default() }
    }

    /// One instance.
    pub(super) fn of_spec(spec: &ServiceSpec) -> Self {
        let resources = spec.resources;
        Self {
            instances: 1,
            cpu_millis: resources.cpu_millis.into(),
            memory_mib: resources.memory_mib.into(),
            storage_mib: resources.storage_mib.into(),
            gpus: resources.gpus.into(),
            ..Self::default()
        }
    }

    /// What it is more than `other`, kind by kind.
    pub(super) fn beyond(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    pub(super) fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// The larger of both, kind by kind.
    pub(super) fn larger(&self, other: &Self) -> Self {
        self.with(other, u64::max)
    }

    pub(super) fn times(&self, times: u64) -> Self {
        self.with(self, |amount, _| amount.saturating_mul(times))
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            applications: combine(self.applications, other.applications),
            services: combine(self.services, other.services),
            instances: combine(self.instances, other.instances),
            cpu_millis: combine(self.cpu_millis, other.cpu_millis),
            memory_mib: combine(self.memory_mib, other.memory_mib),
            storage_mib: combine(self.storage_mib, other.storage_mib),
            gpus: combine(self.gpus, other.gpus),
        }
    }
}

/// An organisation would use more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the quota `{}` of the organisation does not allow this: the limit is {}, {} used, {} more asked for; delete what \
     is not needed or ask an admin of the organisation `root` for more{}",
    .kind.name(), Amount(*.kind, *.limit), Amount(*.kind, *.used), Amount(*.kind, *.wanted), hint(*.only_spare)
)]
pub struct OverQuota {
    /// Which limit.
    pub kind: QuotaKind,
    /// The limit.
    pub limit: u64,
    /// What is used without this request.
    pub used: u64,
    /// What this request asks for.
    pub wanted: u64,
    /// The update fits, but not with the instances it adds before it takes others away.
    pub only_spare: bool,
}

const fn hint(only_spare: bool) -> &'static str {
    if only_spare { "; with `update.order` \"stop-first\" the update needs nothing to spare" } else { "" }
}

/// CPU in cores, everything else as it is.
struct Amount(QuotaKind, u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, u32::try_from(self.1)) {
            (QuotaKind::CpuMillis, Ok(millis)) => Cores(millis).fmt(f),
            (QuotaKind::CpuMillis, Err(_)) => (self.1 / 1000).fmt(f),
            _ => self.1.fmt(f),
        }
    }
}

impl Root {
    /// The quota of an organisation.
    #[must_use]
    pub fn quota(&self, organization: OrganizationId) -> Quota {
        self.quotas.get(&organization).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use oak_model::{Now, Resources, ServiceSpec};
    use serde_json::Map;

    use super::*;
    use crate::SeededEntropy;
    use crate::root::{Owner, Refusal, Settings};

    fn application(name: &str, services: usize) -> ApplicationRequest {
        let spec = ServiceSpec {
            resources: Resources { cpu_millis: 1500, memory_mib: 100, ..Resources::default() },
            ..ServiceSpec::default()
        };
        let service = |number: usize| ServiceRequest {
            name: format!("s{number}").parse().unwrap(),
            namespace: "test".parse().unwrap(),
            spec: spec.clone(),
            document: Map::new(),
            replicas: None,
            update: oak_model::UpdatePolicy::default(),
        };
        ApplicationRequest {
            application_id: None,
            name: name.parse().unwrap(),
            namespace: "test".parse().unwrap(),
            description: String::new(),
            services: (0..services).map(service).collect(),
            other: Map::new(),
        }
    }

    fn limited(quota: Quota) -> (Root, SeededEntropy, Owner) {
        let organization = OrganizationId::from_parts(1, 2);
        let mut root = Root::new(Settings::default());
        root.settle_organizations(OrganizationId::from_parts(1, 1), [organization]);
        root.set_quota(organization, quota);
        (root, SeededEntropy::new(1), Owner { user: "bob".into(), organization: Some(organization) })
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_whole_with_the_numbers() {
        let quota = Quota { applications: Some(2), services: Some(3), ..Quota::default() };
        let (mut root, mut entropy, bob) = limited(quota);
        let now = Now::default();
        root.create_applications(now, &mut entropy, &bob, vec![application("one", 2)]).unwrap();
        let _ = root.take_outbox();
        let both = vec![application("two", 0), application("three", 0)];
        let refused = root.create_applications(now, &mut entropy, &bob, both).unwrap_err();
        let expected =
            OverQuota { kind: QuotaKind::Applications, limit: 2, used: 1, wanted: 2, only_spare: false };
        assert_eq!(refused, Refusal::OverQuota(expected));
        let refused =
            root.create_applications(now, &mut entropy, &bob, vec![application("two", 2)]).unwrap_err();
        assert!(refused.to_string().contains("`services`"), "{refused}");
        assert!(refused.to_string().contains("the limit is 3, 2 used, 2 more asked for"), "{refused}");
        assert!(root.take_outbox().is_empty(), "nothing was changed");
        let id = root.create_applications(now, &mut entropy, &bob, vec![application("two", 0)]).unwrap()[0];
        root.add_services(now, &mut entropy, id, application("two", 1).services).unwrap();
        let more = application("x", 2).services.split_off(1);
        assert!(matches!(root.add_services(now, &mut entropy, id, more), Err(Refusal::OverQuota(_))));
        // Others are not touched by it.
        let eve = Owner { user: "eve".into(), organization: Some(OrganizationId::from_parts(1, 1)) };
        let many = (0..5).map(|number| application(&format!("app{number}"), 2)).collect();
        root.create_applications(now, &mut entropy, &eve, many).unwrap();
    }

    #[test]
    fn instances_that_a_service_keeps_count_when_it_is_created() {
        let (mut root, mut entropy, bob) = limited(Quota { cpu_millis: Some(3500), ..Quota::default() });
        let kept = |replicas| {
            let mut request = application("app", 1);
            request.services[0].replicas = Some(replicas);
            vec![request]
        };
        let now = Now::default();
        let refused = root.create_applications(now, &mut entropy, &bob, kept(3)).unwrap_err();
        let over =
            OverQuota { kind: QuotaKind::CpuMillis, limit: 3500, used: 0, wanted: 4500, only_spare: false };
        assert_eq!(refused, Refusal::OverQuota(over));
        assert_eq!(root.plan(now, &mut entropy, &bob, kept(3), 1), Err(refused.into()));
        assert_eq!(root.plan(now, &mut entropy, &bob, kept(2), 9).unwrap()[0].instances.len(), 2);
        let _ = root.take_outbox();
        assert_eq!(root.plan(now, &mut entropy, &bob, vec![application("app", 1)], 3).ok(), None);
        assert!(root.take_outbox().is_empty());
        root.create_applications(now, &mut entropy, &bob, kept(2)).unwrap();
    }

    #[test]
    fn waiting_instances_count_and_a_removed_one_makes_room() {
        let (mut root, mut entropy, bob) = limited(Quota { cpu_millis: Some(3500), ..Quota::default() });
        let now = Now::default();
        let id = root.create_applications(now, &mut entropy, &bob, vec![application("app", 1)]).unwrap()[0];
        let service = root.application(id).unwrap().services[0];
        let first = root.deploy(now, service).unwrap();
        root.deploy(now, service).unwrap();
        assert!(root.instance(first).unwrap().cluster.is_none(), "there is no cluster: both wait");
        let refused = root.deploy(now, service).unwrap_err().to_string();
        assert!(refused.contains("`cpu`") && refused.contains("3.5, 3 used, 1.5 more"), "{refused}");
        assert_eq!(root.instances_of(service).count(), 2);
        assert_eq!(root.addresses_in_use(), 3);
        root.undeploy(now, first).unwrap();
        root.deploy(now, service).unwrap();
        // A limit below what is used takes nothing away and does not stop other kinds.
        root.set_quota(OrganizationId::from_parts(1, 2), Quota { instances: Some(1), ..Quota::default() });
        assert_eq!(root.instances_of(service).count(), 2);
        root.create_applications(now, &mut entropy, &bob, vec![application("more", 1)]).unwrap();
        assert!(root.deploy(now, service).is_err());
    }

    #[test]
    fn a_change_of_a_service_is_held_against_the_quota() {
        let (mut root, mut entropy, bob) = limited(Quota { memory_mib: Some(450), ..Quota::default() });
        let now = Now::default();
        let id = root.create_applications(now, &mut entropy, &bob, vec![application("app", 1)]).unwrap()[0];
        let service = root.application(id).unwrap().services[0];
        root.scale(now, service, 2).unwrap();
        let _ = root.take_outbox();
        let with = |memory_mib: u32, replicas: u32| {
            let mut request = application("app", 1).services.remove(0);
            request.spec.resources.memory_mib = memory_mib;
            request.replicas = Some(replicas);
            request
        };
        for (memory_mib, replicas) in [(151, 2), (150, 4)] {
            let refused = root.change_service(now, service, with(memory_mib, replicas)).unwrap_err();
            assert!(matches!(refused, Refusal::OverQuota(_)), "{refused}");
        }
        assert!(root.take_outbox().is_empty(), "nothing was changed");
        root.change_service(now, service, with(150, 2)).unwrap();
    }

    #[test]
    fn quotas_survive_a_restart_and_leave_with_their_organization() {
        let quota = Quota { gpus: Some(1), ..Quota::default() };
        let (mut root, ..) = limited(quota);
        let organization = OrganizationId::from_parts(1, 2);
        let rows = root.take_outbox().rows;
        let mut again = Root::load(Settings::default(), Now::default(), &rows).unwrap();
        assert_eq!(again.quota(organization), quota);
        again.settle_organizations(OrganizationId::from_parts(1, 1), [organization]);
        again.retire_organization(organization).unwrap();
        let rows = again.take_outbox().rows;
        assert_eq!((rows.len(), rows[0].document.as_ref()), (1, None));
    }

    #[test]
    fn gpus_count_as_the_descriptor_asks_for_them() {
        let mut request = application("app", 1);
        request.services[0].spec.resources.gpus = 2;
        let (mut root, mut entropy, bob) = limited(Quota { gpus: Some(3), ..Quota::default() });
        let id = root.create_applications(Now::default(), &mut entropy, &bob, vec![request]).unwrap()[0];
        let service = root.application(id).unwrap().services[0];
        root.deploy(Now::default(), service).unwrap();
        assert!(root.deploy(Now::default(), service).is_err());
    }
}
