//! Clusters that stay away: their instances are placed elsewhere where that is possible and safe.
//!
//! A cluster that is only cut off goes on running them; when it is back it is told what it lost and stops that. So
//! instances of services of which at most one may run stay with their cluster until it is back or is removed.

use oak_model::{ClusterId, InstanceKey, Moment, Now};

use super::Root;

/// Refusals in a row after which the rest waits for the next attempt: what does not fit once rarely fits the next
/// moment.
const REFUSALS: usize = 50;

impl Root {
    /// When the next cluster has been away for too long.
    pub(super) fn next_loss(&self) -> Option<Moment> {
        let after = self.settings.cluster_lost_after?;
        let away =
            self.clusters.values().filter(|cluster| !cluster.given_up && !cluster.instances.is_empty());
        away.filter_map(|cluster| cluster.lost_since).map(|since| since + after).min()
    }

    /// Gives up clusters that have been away for too long, and tries again for those given up before.
    pub(super) fn give_up_clusters(&mut self, now: Now) {
        let Some(after) = self.settings.cluster_lost_after else { return };
        let lost: Vec<_> = self
            .clusters
            .values_mut()
            .filter(|cluster| cluster.lost_since.is_some_and(|since| since + after <= now.moment))
            .map(|cluster| {
                cluster.given_up = true;
                cluster.id
            })
            .collect();
        for id in lost {
            self.move_instances_of(now, id);
        }
    }

    fn move_instances_of(&mut self, now: Now, id: ClusterId) {
        let keys: Vec<_> = self.clusters.get(&id).into_iter().flat_map(|c| &c.instances).copied().collect();
        let mut refusals = 0;
        for key in keys {
            match self.move_from_lost(now, key, id) {
                Moved::Yes => refusals = 0,
                Moved::NoRoom => refusals += 1,
                Moved::NotNow => {}
            }
            if refusals == REFUSALS {
                break;
            }
        }
        let remains = self.clusters.get(&id).is_some_and(|cluster| !cluster.instances.is_empty());
        if remains {
            self.pending.due_by(now.moment + self.settings.retry_interval);
        }
    }

    fn move_from_lost(&mut self, now: Now, key: InstanceKey, from: ClusterId) -> Moved {
        let Some(instance) = self.instances.get(&key).filter(|i| i.cluster == Some(from) && !i.moving) else {
            return Moved::NotNow;
        };
        let Some(service) = self.services.get(&key.service) else { return Moved::NotNow };
        let service = service.at_revision(instance.revision);
        let name = self.clusters.get(&from).map(|cluster| cluster.name.clone()).unwrap_or_default();
        if service.spec.at_most_one {
            self.say(
                now,
                key,
                format!("cluster {name} is away; it stays there, because at most one may run"),
            );
            return Moved::NotNow;
        }
        if instance.has_ended() {
            return Moved::NotNow;
        }
        match self.choose(&service, Some(from)) {
            Ok((to, worker)) if to != from => {
                self.forget_in_cluster(from, key);
                self.assign(now, key, to, worker);
                Moved::Yes
            }
            Ok(_) => Moved::NoRoom,
            Err(refusal) => {
                let detail = format!("cluster {name} is away and no other can take it: {}", refusal.detail);
                self.say(now, key, detail);
                Moved::NoRoom
            }
        }
    }

    fn say(&mut self, now: Now, key: InstanceKey, detail: String) {
        let Some(instance) = self.instances.get_mut(&key).filter(|instance| instance.detail != detail) else {
            return;
        };
        instance.detail = detail;
        instance.changed = now.wall;
        self.save_instance(key);
    }
}

enum Moved {
    Yes,
    NoRoom,
    NotNow,
}
