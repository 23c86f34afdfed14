//! The network information API, paths of the original that have no use here, and its aliases.

use oak_model::Status;

use crate::world::World;

#[tokio::test]
async fn a_service_is_found_by_id_name_and_address() {
    let world = World::start().await;
    let token = world.bob().await;
    let service = world.service(&token, "shop").await;
    let cluster = world.join("near").await;
    let key = world.deploy(&token, &service).await;
    world.report(cluster, key, Status::Running, "").await;
    let record = world.record(&token, service.parse().unwrap()).await;
    let (address, name) = (record["RR_ip"].as_str().unwrap(), record["job_name"].as_str().unwrap());
    let instance = record["instance_list"][0]["instance_ip"].as_str().unwrap();
    for (text, kind) in [
        (service.clone(), ""),
        (name.to_owned(), ""),
        (name.replace('.', "_"), ""),
        (address.to_owned(), "ip/"),
        (address.replace('.', "_"), "ip/"),
        (instance.to_owned(), "ip/"),
        (record["service_ip_list"][0]["Address_v6"].as_str().unwrap().to_owned(), "ip/"),
    ] {
        let path = format!("/api/net/service/{kind}{text}/instances");
        let full = world.get(&path, &token).send().await.json();
        assert_eq!(full["_id"], *service, "{path}");
        assert_eq!(full["service_ip_list"][0]["Address"], *address);
        assert_eq!(full["instance_list"][0]["instance_ip"], *instance);
        let own: std::net::Ipv4Addr = instance.parse().unwrap();
        assert_eq!(full["instance_list"][0]["instance_ip_v6"], oak_model::ipv6::instance(own).to_string());
        assert_eq!(full["instance_list"][0]["host_ip"], "192.0.2.31");
        let short =
            world.get(&format!("/api/pubnet/service/netinfo/{kind}{text}"), &token).send().await.json();
        assert_eq!(short["service_job_id"], *service);
        assert_eq!(short["instance_list"][0]["cluster_id"], cluster.to_string());
        assert_eq!(world.call("GET", &path).send().await.status, 401);
    }
    let foreign = world.service(&world.admin().await, "foreign").await;
    let answer = world.get(&format!("/api/net/service/{foreign}/instances"), &token).send().await;
    assert_eq!(answer.status, 404, "{}", answer.text);
}

#[tokio::test]
async fn proposed_addresses_are_free_and_can_be_asked_for() {
    let world = World::start().await;
    let token = world.bob().await;
    let path = "/api/pubnet/service/netinfo/available-ip";
    let answer = world.get(&format!("{path}/3?v=4"), &token).send().await.json();
    let all = answer["available_service_ips"].as_array().unwrap().clone();
    assert_eq!(all.len(), 3);
    let one = world.get(path, &token).send().await.json();
    let six = serde_json::json!({ "Address": null, "Address_v6": "fdff:2000::1", "IpType": "IPv6" });
    assert_eq!(one["available_service_ips"], serde_json::json!([all[0], six]));
    let only = world.get(&format!("{path}/1?v=6"), &token).send().await.json();
    assert_eq!(only["available_service_ips"], serde_json::json!([six]));
    let service = world.service(&token, "shop").await;
    let record = world.record(&token, service.parse().unwrap()).await;
    assert_eq!(record["RR_ip"], all[0]["Address"]);
    for (rest, status) in [("/0", 400), ("/101", 400), ("?v=5", 400), ("?v=x", 400), ("/x", 404)] {
        let answer = world.get(&format!("{path}{rest}"), &token).send().await;
        assert_eq!(answer.status, status, "{rest}: {}", answer.text);
    }
}

#[tokio::test]
async fn calls_between_components_of_the_original_are_refused_with_the_reason() {
    let world = World::start().await;
    for (method, path) in [
        ("POST", "/api/net/cluster"),
        ("GET", "/api/net/subnet"),
        ("DELETE", "/api/net/service/6b055f7562584cae3c2d2606"),
        ("POST", "/api/net/service/net_deploy_status"),
        ("POST", "/api/information/6b055f7562584cae3c2d2606"),
        ("POST", "/api/result/deploy"),
    ] {
        let answer = world.call(method, path).send().await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.text.contains("link of their own"), "{}", answer.text);
    }
}

#[tokio::test]
async fn guides_of_the_original_come_true_and_settings_say_where_they_are() {
    let world = World::start().await;
    world.join("near").await;
    assert_eq!(world.call("GET", "/status").send().await.json()["status"], "ready");
    let info = world.call("GET", "/api/v1/info").send().await.json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let clusters = world.call("GET", "/api/v1/clusters").send().await.json();
    assert_eq!(clusters[0]["cluster_name"], "near");
    let token = world.admin().await;
    for (method, path) in [("GET", "/api/settings"), ("PUT", "/api/settings"), ("PUT", "/apisettings")] {
        assert_eq!(world.call(method, path).send().await.status, 401);
        let bob = world.bob().await;
        assert_eq!(world.call(method, path).token(&bob).send().await.status, 403);
        let answer = world.call(method, path).token(&token).send().await;
        assert_eq!(answer.status, 501, "{}", answer.text);
        assert!(answer.text.contains("oak config show"), "{}", answer.text);
    }
}
