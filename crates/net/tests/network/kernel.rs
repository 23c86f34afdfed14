//! What the kernel's WireGuard decrypts is treated as what the engine decrypts. Needs WireGuard in the kernel.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

use crate::support::node::{Node, Somebody, attach, peer, subnet, table, underlay};
use crate::support::traffic::{Place, SOON, TcpServer, UdpClient, UdpServer, ask_tcp, is_refused_tcp, ping};
use crate::support::{in_world, inside, run, service_address};
use oak_net::{Peer, Way, teardown};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const CLIENT: Somebody = Somebody { node: 1, n: 2 };
const SERVER: Somebody = Somebody { node: 2, n: 3 };

fn lane_to(other: u8, own: u8) -> String {
    format!("{} dev oak0w src 10.18.{own}.1 metric 500", subnet(other))
}

/// Makes the devices of a node as its engine would, and says its public key.
fn make_devices(node: &Node, directory: &Path) -> String {
    let file = directory.join(format!("key{}", node.number));
    std::fs::write(&file, run("wg", "genkey")).unwrap();
    for line in [
        "tuntap add oak0e mode tun",
        "link set oak0e up",
        "link add oak0w type wireguard",
        "link set oak0w group 7299435 mtu 1420",
    ] {
        node.run("ip", line);
    }
    node.run("wg", &format!("set oak0w listen-port 50106 private-key {}", file.display()));
    node.run("ip", "link set oak0w up");
    inside(&node.place, || {
        for (setting, value) in
            [("oak0w/rp_filter", "0"), ("oak0e/rp_filter", "0"), ("oak0w/forwarding", "1")]
        {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{setting}"), value).unwrap();
        }
    });
    node.run("wg", "show oak0w public-key").trim().to_owned()
}

fn received(node: &Node) -> u64 {
    let transfer = node.run("wg", "show oak0w transfer");
    transfer.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn calls_go_through_the_kernel_in_one_direction_or_both() {
    in_world(async |world| {
        let nodes = [1, 2].map(|number| Node::new(&world, number));
        let made = inside(&nodes[0].place, || {
            let mut ip = std::process::Command::new("ip");
            ip.args(["link", "add", "probe", "type", "wireguard"])
                .output()
                .is_ok_and(|made| made.status.success())
        });
        if !made {
            eprintln!("skipped: the kernel has no WireGuard");
            return;
        }
        let networks = [nodes[0].open(), nodes[1].open()];
        let client_at = attach(&networks[0], CLIENT).await.namespace;
        let server_at = attach(&networks[1], SERVER).await.namespace;
        let (client, server) = (Place::Namespace(&client_at), Place::Namespace(&server_at));
        let keys = [0, 1].map(|node| make_devices(&nodes[node], world.directory()));
        for (own, other) in [(0, 1), (1, 0)] {
            let (number, other_number) = (nodes[own].number, nodes[other].number);
            nodes[own].run(
                "wg",
                &format!(
                    "set oak0w peer {} endpoint {}:50106 allowed-ips {}",
                    keys[other],
                    underlay(other_number),
                    subnet(other_number)
                ),
            );
            let encrypted = Peer { way: Way::Encrypted, ..peer(other_number) };
            assert_eq!(networks[own].set_peers(vec![encrypted]).await.unwrap(), []);
            nodes[own].run("ip", &format!("route add {}", lane_to(other_number, number)));
            // Whose route that is is known.
            assert_eq!(networks[own].set_peers(vec![encrypted]).await.unwrap(), []);
            assert!(nodes[own].run("ip", "route").contains("dev oak0w"));
            networks[own].apply(table(&[SERVER], &[CLIENT, SERVER])).await.unwrap();
        }
        let _tcp = TcpServer::start(server, ANY, 80, "b");
        let _udp = UdpServer::start(server, ANY, 53, "b");
        let expected = format!("b {}", CLIENT.instance());
        for address in [service_address(1), SERVER.instance()] {
            assert_eq!(ask_tcp(client, address, 80).unwrap(), expected);
            assert_eq!(UdpClient::open(client, address, 53).ask().unwrap(), expected);
            assert!(ping(client, address, 64) && ping(client, address, 4000));
        }
        assert!(is_refused_tcp(client, service_address(1), 81));
        let host = Place::Namespace(&nodes[0].place);
        assert!(ask_tcp(host, service_address(1), 80).is_ok());
        assert!(received(&nodes[1]) > 4000);
        // Another node reaches instances and nothing else.
        assert!(ask_tcp(host, Ipv4Addr::new(10, 18, 2, 1), 80).is_err());

        // The other side leads packets to its engine, which nobody plays here: what comes still arrives.
        nodes[1].run("ip", &format!("route del {}", lane_to(1, 2)));
        let receiver = inside(&server_at, || UdpSocket::bind((ANY, 9)).unwrap());
        receiver.set_read_timeout(Some(SOON)).unwrap();
        let sender = inside(&client_at, || UdpSocket::bind((ANY, 0)).unwrap());
        sender.send_to(b"one way", (SERVER.instance(), 9)).unwrap();
        assert_eq!(receiver.recv(&mut [0; 16]).unwrap(), 7);

        drop(networks);
        inside(&nodes[0].place, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let config = &nodes[0].config;
            runtime.block_on(teardown(&config.state_directory, &config.bridge, &config.table)).unwrap();
        });
        let links = nodes[0].run("ip", "-br link");
        assert!(!links.contains("oak0"), "{links}");
    });
}
