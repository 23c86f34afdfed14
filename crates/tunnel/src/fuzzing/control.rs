//! The control socket: lines of JSON.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::mate::{WALL, key};
use crate::allowed::Allowed;
use crate::config::{check_peers, check_relays};
use crate::core::relays::Relays;
use crate::core::timers::Traffic;
use crate::core::{Core, Now};
use crate::request::Request;

/// Each line is a request; time goes on between them.
pub fn control(data: &[u8]) {
    let mut random = StdRng::seed_from_u64(1);
    let mut at = 1;
    let mut core =
        Core::new(&key(1), std::time::Duration::ZERO, &Now { at, wall: WALL, random: &mut random });
    let mut relays = Relays::default();
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(request) = serde_json::from_slice::<Request>(line) else { continue };
        let again = serde_json::to_vec(&request).expect("what was read can be written");
        serde_json::from_slice::<Request>(&again).expect("what was written can be read");
        at += 1000;
        match request {
            Request::SetPeers { peers } if check_peers(&peers).is_ok() => {
                core.set_peers(at, &peers, &BTreeMap::new());
                let mut allowed = Allowed::default();
                for network in peers.iter().flat_map(|peer| &peer.networks) {
                    allowed.insert(network.trunc(), ());
                }
                let mut networks = peers.iter().flat_map(|peer| &peer.networks);
                assert!(networks.all(|network| allowed.peer_of(network.addr()).is_some()), "somebody has it");
            }
            Request::SetRelays { relays: list } if check_relays(&list).is_ok() => relays.configure(at, &list),
            Request::SetKey { private_key, former_key } => core.set_key(&private_key, former_key.as_ref()),
            Request::Handshake { peer } => {
                let mut now = Now { at, wall: WALL, random: &mut random };
                if let Some(id) = core.peer_named(&peer) {
                    core.renew(&mut now, id);
                }
            }
            Request::SetPeers { .. } | Request::SetRelays { .. } | Request::Status | Request::Stop => {}
        }
        core.tick(&mut Now { at, wall: WALL, random: &mut random }, |_| Traffic::default());
        relays.tick(at, &mut random);
        assert!(relays.seen().count() <= crate::config::MAX_RELAYS);
    }
}
