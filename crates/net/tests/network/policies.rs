//! Ways to choose among the instances of a service, and changes of one service among many.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::traffic::{Place, TcpServer, ask_tcp};
use crate::support::{
    World, attach, in_world, instance_address, instances, namespace_address, run, service_address, together,
};
use oak_model::ipv6;
use oak_net::{Attached, Balancing, NodeNetwork, Service, ServiceTable, Tenant};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Service 1 with the given backends.
fn table(policy: Balancing, backends: &[u8]) -> ServiceTable {
    let service = Service {
        addresses: vec![service_address(1)],
        ipv6: vec![],
        policy,
        backends: backends.iter().map(|n| namespace_address(*n)).collect(),
    };
    together(ServiceTable {
        services: vec![service],
        instances: instances(&[2, 3, 4, 8, 9]),
        ..ServiceTable::default()
    })
}

/// A node with servers 2, 3 and 4, each of which says its number, and clients 8 and 9.
struct Shop {
    network: NodeNetwork,
    clients: [Attached; 2],
    _servers: Vec<TcpServer>,
}

impl Shop {
    async fn new(world: &World) -> Self {
        let network = world.open().await;
        let mut servers = Vec::new();
        for n in [2, 3, 4] {
            let attached = attach(&network, n).await;
            let place = Place::Namespace(&attached.namespace);
            servers.push(TcpServer::start(place, ANY, 80, &n.to_string()));
        }
        let clients = [attach(&network, 8).await, attach(&network, 9).await];
        Self { network, clients, _servers: servers }
    }

    /// Who answers so many calls of a client.
    fn ask(&self, client: usize, times: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            let from = Place::Namespace(&self.clients[client].namespace);
            let answer = ask_tcp(from, service_address(1), 80).unwrap();
            *counts.entry(answer.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
        }
        counts
    }
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn a_caller_sticks_to_its_instance_while_others_come_and_go() {
    in_world(async |world| {
        let shop = Shop::new(&world).await;
        shop.network.apply(table(Balancing::Sticky, &[2, 3, 4])).await.unwrap();
        let chosen = shop.ask(0, 20);
        assert_eq!(chosen.len(), 1, "{chosen:?}");
        let chosen: u8 = chosen.keys().next().unwrap().parse().unwrap();
        let others: Vec<u8> = [2, 3, 4].into_iter().filter(|n| *n != chosen).collect();
        for backends in [vec![chosen, others[0]], vec![chosen, others[1]], vec![2, 3, 4]] {
            shop.network.apply(table(Balancing::Sticky, &backends)).await.unwrap();
            assert_eq!(shop.ask(0, 5), counts(&[(&chosen.to_string(), 5)]), "{backends:?}");
        }
        shop.network.apply(table(Balancing::Sticky, &others)).await.unwrap();
        let next = shop.ask(0, 5);
        assert!(next.len() == 1 && !next.contains_key(&chosen.to_string()), "{next:?}");
    });
}

#[test]
fn who_has_more_weight_gets_more() {
    in_world(async |world| {
        let shop = Shop::new(&world).await;
        let weights = BTreeMap::from([(namespace_address(2), 12), (namespace_address(3), 4)]);
        let weighted = ServiceTable { weights, ..table(Balancing::Weighted, &[2, 3]) };
        shop.network.apply(weighted.clone()).await.unwrap();
        assert_eq!(shop.ask(0, 40), counts(&[("2", 30), ("3", 10)]));
        // A change of something else does not begin the row again.
        let mut changed = weighted;
        changed.services.push(Service {
            addresses: vec![service_address(2)],
            backends: vec![namespace_address(3), namespace_address(4)],
            ..Service::default()
        });
        let mut all = shop.ask(0, 2);
        assert!(shop.network.apply(changed).await.unwrap().changed);
        for (name, count) in shop.ask(1, 2) {
            *all.entry(name).or_insert(0) += count;
        }
        assert_eq!(all, counts(&[("2", 3), ("3", 1)]));
    });
}

#[test]
fn what_differs_is_told_and_comes_to_the_same_as_everything() {
    in_world(async |world| {
        let network = world.open().await;
        let policies = [Balancing::RoundRobin, Balancing::Sticky, Balancing::Weighted, Balancing::Random];
        let service = |n: u8, policy, backends: &[u8]| Service {
            addresses: vec![service_address(n)],
            ipv6: vec![ipv6::service(oak_model::Balancing::RoundRobin, service_address(n))],
            policy,
            backends: backends.iter().map(|n| namespace_address(*n)).collect(),
        };
        let port = |port, backends: &[u8]| oak_net::PortMapping {
            protocol: oak_net::PortProtocol::Tcp,
            host_port: port,
            backends: backends
                .iter()
                .map(|n| std::net::SocketAddrV4::new(namespace_address(*n), 80))
                .collect(),
        };
        let steps: [(&[u8], &[u8], &[u8]); 6] = [
            (&[], &[], &[2]),
            (&[2], &[2, 3], &[2, 3]),
            (&[2, 3], &[2], &[3]),
            (&[3], &[], &[]),
            (&[3, 4], &[4, 5, 6], &[2, 3, 4]),
            (&[], &[], &[]),
        ];
        let tenant = |members: &[u8], reaches, refused| {
            let members = members.iter().map(|n| namespace_address(*n)).collect();
            Tenant { members, reaches, refused }
        };
        let (mut made, mut known) = (BTreeSet::new(), None);
        for (first, second, third) in steps {
            let mut table = ServiceTable { instances: instances(third), ..ServiceTable::default() };
            for (n, policy) in policies.into_iter().enumerate() {
                let n = u8::try_from(n).unwrap() * 2;
                table.services.extend([service(n + 1, policy, first), service(n + 2, policy, second)]);
            }
            table.ports = vec![port(80, second), port(81, third)];
            table.untold = vec![service_address(1)];
            let reaches: Vec<_> = third.iter().map(|n| instance_address(*n)).collect();
            table.owned = [reaches.clone(), vec![service_address(2)]].concat();
            table.tenants = vec![
                tenant(first, reaches.clone(), vec![]),
                tenant(&[7, 8], vec![service_address(2)], reaches),
            ];
            network.apply(table.clone()).await.unwrap();
            // One that was made anew has another number.
            let number = run("nft", "-a list tables");
            assert!(known.is_none_or(|known| known == number), "a difference is enough");
            let by_difference = run("nft", "list table inet oakestra");
            run("nft", "delete table inet oakestra");
            network.apply(table).await.unwrap();
            assert_eq!(sorted(&by_difference), sorted(&run("nft", "list table inet oakestra")));
            known = Some(run("nft", "-a list tables"));
            made.insert(sorted(&by_difference));
        }
        assert_eq!(made.len(), 6);
    });
}

/// The lines in an order of their own and without what depends on the number of the transaction.
fn sorted(rules: &str) -> Vec<String> {
    let is_turn = |line: &&str| !line.contains("numgen");
    let words = rules.lines().filter(is_turn).flat_map(|line| line.split_whitespace());
    let mut words: Vec<String> = words.map(|word| word.trim_matches(',').to_owned()).collect();
    words.sort();
    words
}

/// Prints what a change of one service costs; the bound is only there to notice that it is not everything again.
#[test]
fn a_change_among_thousands_of_services_costs_little() {
    in_world(async |world| {
        let network = world.open().await;
        let address = |base: u8, n: u16| {
            let [high, low] = n.to_be_bytes();
            Ipv4Addr::new(10, base, high, low)
        };
        let services = |count: u16| {
            (0..count).map(|n| Service {
                addresses: vec![address(30, n + 1)],
                backends: vec![address(19, n * 2 + 1), address(19, n * 2 + 2)],
                ..Service::default()
            })
        };
        let mut table = ServiceTable { services: services(5_000).collect(), ..ServiceTable::default() };
        let began = Instant::now();
        network.apply(table.clone()).await.unwrap();
        let whole = began.elapsed();
        let mut changes = Vec::new();
        for n in 0..5_u8 {
            table.services[usize::from(n) * 100].backends.push(Ipv4Addr::new(10, 20, 0, n));
            let began = Instant::now();
            assert!(network.apply(table.clone()).await.unwrap().changed);
            changes.push(began.elapsed());
        }
        println!("5000 services: {whole:?} as a whole, a change {changes:?}");
        let best = changes.iter().min().copied().unwrap_or_default();
        assert!(best < whole / 2 && best < Duration::from_secs(1), "{best:?} of {whole:?}");
    });
}
