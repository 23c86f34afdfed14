//! Join tokens, and the clusters that enrol with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use oak_model::message::{RootToCluster, WorkerToken};
use oak_model::{ClusterId, EventKind, Now, WallTime};
use oak_placement::Fleet;

use super::{Cluster, Root};
use crate::token::{Token, TokenRefused, TokenRole, TokenUse};
use crate::{Entropy, Table};

/// A cluster that presents a token.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Public part of the token.
    pub token_id: &'a str,
    /// SHA-256 of the presented secret, hexadecimal.
    pub secret_hash: &'a str,
    /// Fingerprint of its key.
    pub key_fingerprint: &'a str,
    /// Name it wants.
    pub name: &'a str,
    /// Place it says it is at.
    pub location: &'a str,
    /// The identity it had under a root that is lost.
    pub former: Option<ClusterId>,
}

impl Root {
    /// Stores a new token. A worker token is handed to its cluster as well.
    pub fn create_token(
        &mut self,
        now: Now,
        id: String,
        secret_hash: String,
        role: TokenRole,
        life: Duration,
    ) {
        self.drop_old_tokens(now.wall);
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let expires = WallTime(now.wall.0.saturating_add(life_ms));
        if let TokenRole::Worker(cluster) = role {
            let token =
                WorkerToken { id: id.clone(), secret_hash: secret_hash.clone(), valid_for_ms: life_ms };
            self.send(cluster, RootToCluster::Token(token));
        }
        self.tell_token_created(now, &role, life);
        let token = Token { id: id.clone(), secret_hash, role, expires, used_by: None };
        self.outbox.put(Table::Token, &id, &token);
        self.tokens.insert(id, token);
    }

    /// Enrols a cluster. A known name keeps its identity, so that a rebuilt machine takes its old place.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn enrol_cluster(
        &mut self,
        now: Now,
        entropy: &mut dyn Entropy,
        candidate: Candidate<'_>,
    ) -> Result<ClusterId, TokenRefused> {
        let token = self.tokens.get(candidate.token_id).ok_or(TokenRefused::Unknown)?;
        let repeated = token.check(candidate.secret_hash, candidate.key_fingerprint, now.wall)?;
        if token.role != TokenRole::Cluster {
            return Err(TokenRefused::WrongRole);
        }
        if let Some(earlier) = repeated {
            let id: ClusterId = earlier.identity.parse().map_err(|_| TokenRefused::Used)?;
            return if self.clusters.contains_key(&id) { Ok(id) } else { Err(TokenRefused::Removed) };
        }
        let existing = self.clusters.values().find(|cluster| cluster.name == candidate.name);
        if existing.is_some_and(Cluster::is_active) {
            return Err(TokenRefused::NameInUse);
        }
        let former = candidate.former.filter(|id| !self.clusters.contains_key(id));
        let id = match (existing, former) {
            (Some(cluster), _) => cluster.id,
            (None, Some(former)) => former,
            (None, None) => ClusterId::new(now.wall, entropy.next_u64()),
        };
        let is_new = !self.clusters.contains_key(&id);
        self.clusters.entry(id).or_insert_with(|| Cluster {
            id,
            name: candidate.name.to_owned(),
            location: candidate.location.to_owned(),
            address: String::new(),
            port: 0,
            relay: None,
            node_blocks: Vec::new(),
            local_block: None,
            taken_over: None,
            // One that has an identity of its own to bring may bring instances, too.
            known_in: if former.is_none() { self.meta.lineage } else { None },
            adopted: BTreeSet::new(),
            authority: None,
            session: None,
            asked_for_holdings: false,
            given_up: false,
            lost_since: None,
            last_seen: WallTime(0),
            workers: BTreeMap::new(),
            usage: BTreeMap::new(),
            history: VecDeque::new(),
            round_trip_us: None,
            fleet: Fleet::new(),
            instances: BTreeSet::new(),
        });
        self.save_cluster(id);
        if is_new {
            self.tell_cluster(now.wall, EventKind::ClusterJoined, id, " joined");
        }
        if let Some(token) = self.tokens.get_mut(candidate.token_id) {
            let identity = id.to_string();
            token.used_by =
                Some(TokenUse { key_fingerprint: candidate.key_fingerprint.to_owned(), identity });
            self.outbox.put(Table::Token, &token.id, token);
        }
        Ok(id)
    }

    fn drop_old_tokens(&mut self, now: WallTime) {
        let old: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.is_history(now))
            .map(|token| token.id.clone())
            .collect();
        for id in old {
            self.tokens.remove(&id);
            self.outbox.delete(Table::Token, &id);
        }
    }
}
