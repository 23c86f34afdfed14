//! The addresses of services: which are asked for, which are given, and when they are free again.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use oak_model::sla::ServiceRequest;
use oak_model::{Balancing, Service, ServiceId, ServiceSpec};

use super::{Refusal, Root};

impl Root {
    /// Takes one address out of the pool for every way of choosing the service has none for and `spec` asks for. Those that
    /// are asked for by number were checked before.
    pub(super) fn give_addresses(&mut self, service: &mut Service, spec: &ServiceSpec) {
        // Those somebody asked for first, so that an automatic one cannot be in the way.
        let mut missing: Vec<(Balancing, Option<Ipv4Addr>)> = spec
            .policies
            .iter()
            .filter(|(policy, _)| !service.policies.contains_key(policy))
            .map(|(policy, wish)| (*policy, *wish))
            .collect();
        missing.sort_by_key(|(_, wish)| wish.is_none());
        for (policy, wish) in missing {
            if let Some(address) = wish {
                self.addresses.claim(address);
            }
            let given = wish.or_else(|| self.addresses.allocate());
            service.policies.extend(given.map(|address| (policy, address)));
        }
    }

    /// Marks all addresses of a service as used; those that others have are replaced.
    pub(super) fn claim_addresses(&mut self, service: &mut Service) -> Option<()> {
        let mut own = |address: &mut Ipv4Addr| {
            if !self.addresses.claim(*address) {
                *address = self.addresses.allocate()?;
            }
            Some(())
        };
        own(&mut service.address)?;
        service.policies.retain(|_, address| own(address).is_some());
        Some(())
    }

    /// Whether what new services ask for can be given: to each of them, and to all together with this many instances.
    pub(super) fn check_addresses<'a>(
        &self,
        requests: impl Iterator<Item = &'a ServiceRequest>,
    ) -> Result<(), Refusal> {
        let (mut chosen, mut wanted) = (HashSet::new(), 0);
        for request in requests {
            for address in request.spec.chosen_addresses() {
                if self.addresses.is_used(address) || !chosen.insert(address) {
                    return Err(Refusal::AddressTaken { address, holder: self.holder(address) });
                }
            }
            wanted += 1 + request.spec.policies.len() + request.replicas.unwrap_or(0) as usize;
        }
        if wanted > self.addresses.free() { Err(Refusal::AddressesExhausted) } else { Ok(()) }
    }

    /// The addresses a changed service has in addition, if they can be given.
    pub(super) fn check_more_addresses(
        &self,
        service: &Service,
        wanted: &ServiceSpec,
    ) -> Result<(), Refusal> {
        let missing = wanted.policies.iter().filter(|(policy, _)| !service.policies.contains_key(policy));
        let missing: Vec<Option<Ipv4Addr>> = missing.map(|(_, wish)| *wish).collect();
        for address in missing.iter().copied().flatten() {
            if self.addresses.is_used(address) {
                return Err(Refusal::AddressTaken { address, holder: self.holder(address) });
            }
        }
        if missing.len() > self.addresses.free() { Err(Refusal::AddressesExhausted) } else { Ok(()) }
    }

    /// Gives a service the further addresses that a change asks for.
    pub(super) fn give_more_addresses(&mut self, id: ServiceId, spec: &ServiceSpec) {
        let Some(mut service) = self.services.remove(&id) else { return };
        let before = service.policies.len();
        self.give_addresses(&mut service, spec);
        let is_news = service.policies.len() > before;
        self.services.insert(id, service);
        if is_news {
            self.save_meta();
            self.overlay_readdressed(id);
        }
    }

    fn holder(&self, address: Ipv4Addr) -> String {
        if self.addresses.is_in_block(address) {
            return "a cluster, for what is deployed there while the root is away".to_owned();
        }
        let service = self.services.values().find(|service| service.has_address(address));
        let instance = self.instances.values().find(|instance| instance.address == address);
        match (service, instance) {
            (Some(service), _) => service.job_name.to_string(),
            (None, Some(instance)) => format!("instance {}", instance.key),
            (None, None) => {
                "another service of this descriptor or an instance that is being removed".to_owned()
            }
        }
    }
}

/// What a changed service may ask for: the addresses it has, and further ones. Those that are left out stay.
pub(super) fn keep_addresses(service: &Service, spec: &mut ServiceSpec) -> Result<(), Refusal> {
    let fixed = |present: Ipv4Addr, wanted: Option<Ipv4Addr>| match wanted {
        Some(wanted) if wanted != present => Err(Refusal::AddressFixed { present, wanted }),
        _ => Ok(()),
    };
    fixed(service.address, spec.service_address)?;
    spec.service_address = service.spec.service_address;
    for (policy, present) in &service.policies {
        fixed(*present, spec.policies.get(policy).copied().flatten())?;
        let asked = service.spec.policies.get(policy).copied();
        spec.policies.insert(*policy, asked.unwrap_or_default());
    }
    Ok(())
}
