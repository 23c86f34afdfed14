//! Join tokens of workers, and the workers that enrol with them.

use oak_model::message::{ClusterToRoot, WorkerToken};
use oak_model::{
    Architecture, Availability, ClusterId, Moment, Now, Resources, WallTime, WorkerFacts, WorkerId,
};

use super::state::Reliability;
use super::{Cluster, Effect, Worker};
use crate::token::{Token, TokenRefused, TokenRole, TokenUse};
use crate::{Entropy, Table};

/// A worker that presents a token.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// This cluster.
    pub cluster: ClusterId,
    /// Public part of the token.
    pub token_id: &'a str,
    /// SHA-256 of the presented secret, hexadecimal.
    pub secret_hash: &'a str,
    /// Fingerprint of its key.
    pub key_fingerprint: &'a str,
    /// Name it wants.
    pub name: &'a str,
}

impl Cluster {
    /// A worker token made by the root, or by this cluster itself (`created` tells the root that it may be used).
    pub fn token_received(&mut self, now: Now, token: WorkerToken, created: bool) {
        if created {
            self.outbox.emit(Effect::ToRoot(ClusterToRoot::TokenStored { id: token.id.clone() }));
        }
        let old: Vec<_> =
            self.tokens.values().filter(|t| t.is_history(now.wall)).map(|t| t.id.clone()).collect();
        for id in old {
            self.tokens.remove(&id);
            self.outbox.delete(Table::Token, &id);
        }
        if self.tokens.contains_key(&token.id) {
            return;
        }
        let token = Token {
            id: token.id,
            secret_hash: token.secret_hash,
            role: TokenRole::Worker(ClusterId::from_parts(0, 0)),
            expires: WallTime(now.wall.0.saturating_add(token.valid_for_ms)),
            used_by: None,
        };
        self.outbox.put(Table::Token, &token.id, &token);
        self.tokens.insert(token.id.clone(), token);
    }

    /// Enrols a worker under the name it wants, or that name with a number when another machine has it: two boards
    /// fresh from one image have the same host name and must not be taken for each other.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn enrol_worker(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        candidate: Candidate<'_>,
    ) -> Result<WorkerId, TokenRefused> {
        let token = self.tokens.get(candidate.token_id).ok_or(TokenRefused::Unknown)?;
        if let Some(earlier) = token.check(candidate.secret_hash, candidate.key_fingerprint, now.wall)? {
            let id: WorkerId = earlier.identity.parse().map_err(|_| TokenRefused::Used)?;
            return if self.workers.contains_key(&id) { Ok(id) } else { Err(TokenRefused::Removed) };
        }
        let name = self.free_name(candidate.name);
        let id = WorkerId::new(now.wall, entropy.next_u64());
        let worker = Worker {
            id,
            facts: WorkerFacts {
                name,
                address: String::new(),
                address6: None,
                architecture: Architecture::of_this_program(),
                capacity: Resources::ZERO,
                virtualization: Vec::new(),
                version: String::new(),
                labels: Vec::new(),
                addons: Vec::new(),
                position: None,
                csi_drivers: Vec::new(),
                tunnel: None,
                plain: true,
            },
            subnet: None,
            more_subnets: Vec::new(),
            availability: Availability::Open,
            outside: None,
            session: None,
            lost_at: None,
            is_restarting: false,
            waiting: false,
            leased_until: Moment::default(),
            round_trip_us: None,
            record: Reliability::default(),
        };
        self.workers.insert(id, worker);
        self.save_worker(id);
        if let Some(token) = self.tokens.get_mut(candidate.token_id) {
            let key_fingerprint = candidate.key_fingerprint.to_owned();
            token.used_by = Some(TokenUse { key_fingerprint, identity: id.to_string() });
            self.outbox.put(Table::Token, &token.id, token);
        }
        Ok(id)
    }

    fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| self.workers.values().any(|worker| worker.facts.name == name);
        if !taken(wanted) {
            return wanted.to_owned();
        }
        (2_u32..).map(|n| format!("{wanted}-{n}")).find(|name| !taken(name)).unwrap_or_default()
    }
}
