//! A node with more instances than one subnet has addresses for.

use std::net::Ipv4Addr;

use crate::support::node::{Node, Somebody, attach, gateway, peer, subnet, table};
use crate::support::traffic::{Place, TcpServer, ask_tcp, ping};
use crate::support::{in_world, service_address};
use oak_net::{NetworkConfig, Peer};

const CLIENT: Somebody = Somebody { node: 1, n: 2 };
const FIRST: Somebody = Somebody { node: 2, n: 3 };
/// On the second node, too, in its further subnet 10.18.12.0/24.
const FURTHER: Somebody = Somebody { node: 12, n: 4 };

#[test]
fn a_node_gets_a_further_subnet_while_it_works() {
    in_world(async |world| {
        let nodes = [1, 2].map(|number| Node::new(&world, number));
        let further = Peer { subnet: subnet(12), ..peer(2) };
        let here = nodes[0].open();
        assert_eq!(here.set_peers(vec![peer(2), further]).await.unwrap(), []);
        let there = nodes[1].open_with(&[1]).await;
        let client = attach(&here, CLIENT).await;
        let first = attach(&there, FIRST).await;
        for network in [&here, &there] {
            network.apply(table(&[FIRST], &[CLIENT, FIRST])).await.unwrap();
        }
        let client = Place::Namespace(&client.namespace);
        let first = Place::Namespace(&first.namespace);
        let _server = TcpServer::start(first, Ipv4Addr::UNSPECIFIED, 80, "first");

        drop(there);
        let wide = NetworkConfig { more_subnets: vec![subnet(12)], ..nodes[1].config.clone() };
        let wide = Node { number: 2, place: nodes[1].place.clone(), config: wide };
        let there = wide.open();
        // The rules are those of before until there is a table.
        let expected = format!("first {}", CLIENT.instance());
        assert_eq!(ask_tcp(client, service_address(1), 80).unwrap(), expected);
        assert_eq!(there.set_peers(vec![peer(1)]).await.unwrap(), []);
        let known = [CLIENT, FIRST, FURTHER];
        for network in [&here, &there] {
            network.apply(table(&[FURTHER], &known)).await.unwrap();
        }
        let attached = attach(&there, FURTHER).await;
        let further = Place::Namespace(&attached.namespace);
        let _further = TcpServer::start(further, Ipv4Addr::UNSPECIFIED, 80, "further");
        let _client = TcpServer::start(client, Ipv4Addr::UNSPECIFIED, 80, "client");

        // From another node, from the same node, from itself, and the other way round.
        for (from, who) in [(client, CLIENT), (first, FIRST), (further, FURTHER)] {
            let expected = format!("further {}", who.instance());
            for address in [service_address(1), FURTHER.instance()] {
                assert_eq!(ask_tcp(from, address, 80).unwrap(), expected);
                assert!(ping(from, address, 64));
            }
        }
        for (address, name) in [(FIRST.instance(), "first"), (CLIENT.instance(), "client")] {
            let expected = format!("{name} {}", FURTHER.instance());
            assert_eq!(ask_tcp(further, address, 80).unwrap(), expected);
        }
        // Nobody calls addresses of nodes.
        assert!(!ping(further, FIRST.namespace(), 64) && !ping(further, CLIENT.namespace(), 64));
        assert!(ping(further, gateway(2), 64), "the node itself");
        let host = wide.run("ip", "-4 -br address show oak0");
        assert!(host.contains("10.18.2.1/24") && !host.contains("10.18.12."), "{host}");
    });
}
