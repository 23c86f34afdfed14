//! What is accepted, what is refused, and with which words.

use serde_json::{Value, json};

use super::{document_with, merged, minimal_service, parse_service, service};
use crate::sla::{SlaErrorKind, parse, parse_services, parse_value};
use crate::{
    Architecture, Area, AreaBound, Balancing, Limit, PortMapping, Protocol, Resources, ServiceBound,
    Strictness,
};

#[test]
fn accepts_what_the_original_accepts() {
    for changes in [
        json!({}),
        json!({"microservice_name": "abcdefghijklmnopqrstuvwxyz0123"}),
        json!({"microserviceID": ""}),
        json!({"memory": 1.0}),
        json!({"memory": 0, "vcpus": 1, "storage": 10, "vgpus": 0, "vtpus": 0, "bandwidth_in": 0, "bandwidth_out": 0.0}),
        json!({"port": ""}),
        json!({"virtualization": "docker"}),
        json!({"cmd": [], "environment": [], "added_files": [], "args": ["x"], "volumes": [], "connectivity": []}),
        json!({"state": "", "sla_violation_strategy": "", "target_node": "", "description": "any text"}),
        json!({"addresses": {}}),
        json!({"addresses": {"rr_ip": "", "rr_ip_v6": "", "closest_ip": "", "instances": []}}),
        json!({"constraints": [{"type": "direct"}]}),
        json!({"constraints": [{"type": "direct", "cluster": "c", "node": "n", "threshold": 0, "rigidness": 0.5}]}),
        json!({"constraints": [{"type": "clusters", "allowed": []}, {"type": "addons", "needs": []}]}),
        json!({"platform": {"any": [1, null]}, "vm_images": ["x"]}),
    ] {
        assert!(parse_service(&changes).is_ok(), "{changes}: {:?}", parse_service(&changes));
    }
    for document in
        [document_with(json!([])), json!({"sla_version": "v2.0", "customerID": "", "applications": []})]
    {
        assert!(parse_value(&document).is_ok(), "{document}");
    }
}

#[test]
fn refuses_with_path_rule_and_finding() {
    let at = |field: &str| format!("applications[0].microservices[0].{field}");
    for (changes, path, words) in [
        (
            json!({"microservice_name": "abcdefghijklmnopqrstuvwxyz01234"}),
            "microservice_name",
            "1 to 30 letters",
        ),
        (json!({"microservice_name": ""}), "microservice_name", "found \"\""),
        (json!({"microservice_namespace": "a-b"}), "microservice_namespace", "found \"a-b\""),
        (json!({"microservice_name": "a.b"}), "microservice_name", "letters and digits"),
        (json!({"microservice_name": "é"}), "microservice_name", "letters and digits"),
        (json!({"microserviceID": "4"}), "microserviceID", "found \"4\""),
        (json!({"memory": 1.5}), "memory", "an integer from 0 to 16777216 (MB), found 1.5"),
        (json!({"memory": "1"}), "memory", "found \"1\""),
        (json!({"memory": true}), "memory", "found true"),
        (json!({"memory": null}), "memory", "found null"),
        // Stricter than the original, which takes any number:
        (json!({"memory": -1}), "memory", "found -1"),
        (json!({"vcpus": 1025}), "vcpus", "from 0 to 1024"),
        (json!({"port": 80}), "port", "must be a text, found 80"),
        (json!({"port": "garbage"}), "port", "`garbage` is not a port mapping"),
        (json!({"port": "50103:1/udp"}), "port", "overlay"),
        (json!({"virtualization": "foo"}), "virtualization", "containers with its own runtime only"),
        (json!({"code": ""}), "code", "must name an image"),
        (json!({"code": "https://example.org/x"}), "code", "without `scheme://`"),
        (json!({"code": "a b"}), "code", "without blanks"),
        (json!({"addresses": []}), "addresses", "must be an object, found an empty list"),
        (json!({"addresses": {"rr_ip": "not an ip"}}), "addresses.rr_ip", "10.30.0.1 to 10.30.255.254"),
        (json!({"addresses": {"rr_ip": "10.31.0.1"}}), "addresses.rr_ip", "found \"10.31.0.1\""),
        (json!({"addresses": {"rr_ip": "10.30.0.0"}}), "addresses.rr_ip", "found \"10.30.0.0\""),
        (json!({"addresses": {"rr_ip": "10.30.255.255"}}), "addresses.rr_ip", "10.30.255.254"),
        (json!({"addresses": {"rr_ip": 1}}), "addresses.rr_ip", "must be a text, found 1"),
        (
            json!({"addresses": {"closest_ip": ["x"]}}),
            "addresses.closest_ip",
            "must be a text, found a list of 1",
        ),
        (json!({"addresses": {"sticky_ip": "10.31.0.1"}}), "addresses.sticky_ip", "\"auto\""),
        (
            json!({"addresses": {"rr_ip": "10.30.1.1", "closest_ip": "10.30.1.1"}}),
            "addresses",
            "10.30.1.1 is there twice",
        ),
        (
            json!({"addresses": {"rr_ip_v6": "fdff:1000::1"}}),
            "addresses.rr_ip_v6",
            "fdff:2000::55:55 with 10.30.55.55",
        ),
        (
            json!({"addresses": {"sticky_ip": "10.30.1.2", "sticky_ip_v6": "fdff:5000::1:3"}}),
            "addresses.sticky_ip_v6",
            "fdff:5000::1:2 with 10.30.1.2",
        ),
        (json!({"addresses": {"closest_ip_v6": "2001:db8::1"}}), "addresses.closest_ip_v6", "goes with"),
        (json!({"environment": {"A": "b"}}), "environment", "KEY=value"),
        (json!({"environment": ["A"]}), "environment[0]", "`KEY=value`"),
        (json!({"environment": ["A=1", "A=2"]}), "environment[1]", "already set by entry 0"),
        (json!({"cmd": "ls"}), "cmd", "must be a list of texts, found \"ls\""),
        (json!({"cmd": ["a", 1]}), "cmd[1]", "must be a text, found 1"),
        (json!({"cmd": ["a\u{0}b"]}), "cmd[0]", "NUL"),
        (json!({"cmd": vec!["x"; 1001]}), "cmd", "at most 1000 entries"),
        (json!({"cmd": ["x".repeat(140_000)]}), "cmd", "131072 bytes"),
        (json!({"added_files": [{"url": "x"}]}), "added_files[0]", "must be a text"),
        (json!({"stop_grace_s": 301}), "stop_grace_s", "from 0 to 300"),
        (json!({"restart": "sometimes"}), "restart", "one of always, on-failure, never"),
        (json!({"privileged": 1}), "privileged", "true or false"),
        (json!({"one_shot": "true"}), "one_shot", "true or false"),
        (json!({"arch": "amd64"}), "arch", "a list of texts"),
        (json!({"arch": ["amd64", "sparc"]}), "arch[1]", "one of amd64, arm64, arm, riscv64"),
        (json!({"args": [1]}), "args[0]", "a text"),
        (json!({"constraints": {}}), "constraints", "must be a list"),
        (json!({"constraints": ["x"]}), "constraints[0]", "an object"),
        (json!({"constraints": [{}]}), "constraints[0].type", "is required"),
        (json!({"constraints": [{"type": "direct", "cluster": ["c"]}]}), "constraints[0].cluster", "a text"),
        (
            json!({"constraints": [{"type": "direct", "threshold": ""}]}),
            "constraints[0].threshold",
            "a number",
        ),
        (
            json!({"constraints": [{"type": "clusters", "allowed": "c"}]}),
            "constraints[0].allowed",
            "a list of texts",
        ),
        (json!({"vgpus": 257}), "vgpus", "from 0 to 256"),
        (json!({"max_instances_per_node": -1}), "max_instances_per_node", "0 for any number"),
        (
            json!({"constraints": [{"type": "geo", "location": "91,2", "threshold": 1}]}),
            "constraints[0].location",
            "latitude,longitude",
        ),
        (
            json!({"constraints": [{"type": "geo", "location": "1,2"}]}),
            "constraints[0].threshold",
            "is required and must be a number from 0 to 20100 (km)",
        ),
        (
            json!({"constraints": [{"type": "geo", "location": "1,2", "threshold": 1, "convergence_time": 1.5}]}),
            "constraints[0].convergence_time",
            "an integer",
        ),
        (
            json!({"constraints": [{"type": "latency", "area": "munich", "threshold": ""}]}),
            "constraints[0].threshold",
            "(ms), found \"\"",
        ),
        (
            json!({"constraints": [{"type": "latency", "area": "munich", "threshold": 5, "rigidness": 101}]}),
            "constraints[0].rigidness",
            "from 0 to 1",
        ),
        (
            json!({"constraints": [{"type": "latency", "area": "", "threshold": 5}]}),
            "constraints[0].area",
            "the name of a cluster",
        ),
        (
            json!({"connectivity": [{"con_constraints": []}]}),
            "connectivity[0].target_microservice_id",
            "required",
        ),
        (
            json!({"connectivity": [{"target_microservice_id": "x"}]}),
            "connectivity[0].con_constraints",
            "required",
        ),
    ] {
        let errors = parse_service(&changes).expect_err(&changes.to_string());
        assert_eq!(errors.kind(), SlaErrorKind::Schema);
        let [problem] = errors.problems() else { panic!("{changes}: {errors}") };
        assert_eq!(problem.path, at(path), "{changes}");
        assert!(problem.to_string().contains(words), "{changes}: {problem}");
    }
}

#[test]
fn refuses_what_it_cannot_honour_with_reason_and_fix() {
    for (changes, field, reason, fix) in [
        (json!({"vtpus": 1}), "vtpus", "TPUs", "set it to 0"),
        (json!({"bandwidth_in": 5}), "bandwidth_in", "bandwidth", "set it to 0"),
        (json!({"bandwidth_out": 5}), "bandwidth_out", "bandwidth", "set it to 0"),
        (
            json!({"connectivity": [{"target_microservice_id": "db", "con_constraints": [
                {"type": "bandwidth", "threshold": 5, "rigidness": 1, "convergence_time": 300}]}]}),
            "connectivity[0].con_constraints[0].type",
            "nor reserves bandwidth",
            "latency",
        ),
        (json!({"target_node": "n"}), "target_node", "never evaluated", "direct"),
        (json!({"sla_violation_strategy": "x"}), "sla_violation_strategy", "strategy", "remove"),
        (
            json!({"addresses": {"instances": [{"from": "a"}]}}),
            "addresses.instances",
            "addresses of instances",
            "remove",
        ),
        (
            json!({"virtualization": "unikernel", "code": "https://x/y.tar.gz"}),
            "virtualization",
            "unikernels",
            "container",
        ),
        (json!({"virtualization": "crosvm"}), "virtualization", "virtual machines", "container"),
        (json!({"constraints": [{"type": "foo"}]}), "constraints[0].type", "not a known kind", "direct"),
    ] {
        let errors = parse_service(&changes).expect_err(&changes.to_string());
        let [problem] = errors.problems() else { panic!("{changes}: {errors}") };
        assert!(problem.path.ends_with(field), "{problem}");
        assert!(problem.message.contains(reason), "{problem}");
        assert!(problem.fix.as_deref().is_some_and(|text| text.contains(fix)), "{problem}");
    }
}

#[test]
fn refuses_broken_outer_levels() {
    let good = document_with(json!([minimal_service()]));
    for (changes, path) in [
        (json!({"customerID": 1}), "customerID"),
        (json!({"applications": {}}), "applications"),
        (json!({"applications": [1]}), "applications[0]"),
        (json!({"args": "x"}), "args"),
    ] {
        let errors = parse_value(&merged(good.clone(), &changes)).expect_err(path);
        assert_eq!((errors.kind(), errors.problems()[0].path.as_str()), (SlaErrorKind::Schema, path));
    }
    for (changes, field) in [
        (json!({"microservices": null}), "microservices"),
        (json!({"application_name": "a b"}), "application_name"),
        (json!({"application_namespace": 7}), "application_namespace"),
        (json!({"application_desc": 7}), "application_desc"),
        (json!({"applicationID": "shop"}), "applicationID"),
    ] {
        let mut document = good.clone();
        document["applications"][0] = merged(good["applications"][0].clone(), &changes);
        let errors = parse_value(&document).expect_err(field);
        assert_eq!(errors.problems()[0].path, format!("applications[0].{field}"));
    }
}

#[test]
fn reports_missing_fields_and_all_problems_at_once() {
    let errors =
        parse_value(&json!({"sla_version": "v2.0", "applications": [{"microservices": [{"memory": "x"}]}]}))
            .expect_err("incomplete");
    let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
    let service = "applications[0].microservices[0]";
    let missing = ["microservice_name", "microservice_namespace", "virtualization", "code"];
    let mut expected = vec!["customerID".to_owned()];
    expected
        .extend(["application_name", "application_namespace"].map(|key| format!("applications[0].{key}")));
    expected.extend(missing.map(|key| format!("{service}.{key}")));
    expected.push(format!("{service}.memory"));
    assert_eq!(paths, expected);
}

#[test]
fn lists_at_most_fifty_problems() {
    let services: Vec<Value> = (0..70).map(|_| json!(1)).collect();
    let errors = parse_value(&document_with(Value::from(services))).expect_err("70 wrong services");
    assert_eq!((errors.problems().len(), errors.more()), (50, 20));
    assert!(errors.to_string().ends_with("and 20 more"));
}

#[test]
fn tells_the_kinds_of_refusal_apart() {
    for (bytes, kind) in [
        (&b"{"[..], SlaErrorKind::Syntax),
        (b"\xff", SlaErrorKind::Syntax),
        (b"", SlaErrorKind::Syntax),
        (b"[]", SlaErrorKind::NotAnObject),
        (b"\"text\"", SlaErrorKind::NotAnObject),
        (b"{}", SlaErrorKind::Version),
        (br#"{"sla_version": "v1.0"}"#, SlaErrorKind::Version),
        (br#"{"sla_version": 2}"#, SlaErrorKind::Version),
        (br#"{"sla_version": "v2.0"}"#, SlaErrorKind::Schema),
    ] {
        let errors = parse(bytes).expect_err("refused");
        assert_eq!(errors.kind(), kind, "{errors}");
        assert!(!errors.problems().is_empty());
    }
}

#[test]
fn bounds_say_to_what_how_far_and_how_strictly() {
    let spec = service(&json!({
        "max_instances_per_node": 2,
        "constraints": [
            {"type": "addons", "needs": ["gpu", "gpu", "imageBuilder"]},
            {"type": "geo", "location": "48.26, 11.67, 500", "threshold": 30.5},
            {"type": "latency", "area": "Munich 1", "threshold": 20, "rigidness": 0.25, "convergence_time": 60},
            {"type": "latency", "area": "48.26,11.67", "threshold": 5, "rigidness": 50}
        ],
        "connectivity": [{"target_microservice_id": "db", "con_constraints": [
            {"type": "latency", "threshold": 2, "rigidness": 1, "convergence_time": 10},
            {"type": "geo", "threshold": 1, "rigidness": 1, "convergence_time": 300}
        ]}]
    }))
    .spec;
    let centre = "48.26,11.67".parse().unwrap();
    let strict = |rigidness, convergence_s| Strictness { rigidness, convergence_s };
    let near = |area, limit, strictness| AreaBound { area, limit, strictness };
    assert_eq!(spec.target.needs, ["gpu", "imageBuilder"]);
    assert_eq!(spec.target.max_per_worker, Some(2));
    assert_eq!(
        spec.target.near,
        [
            near(Area::Around { centre, radius_m: 500 }, Limit::DistanceM(30_500), Strictness::default()),
            near(Area::Named("Munich 1".into()), Limit::RoundTripUs(20_000), strict(250, 60)),
            near(Area::Around { centre, radius_m: 0 }, Limit::RoundTripUs(5_000), strict(500, 300)),
        ]
    );
    let to = |limit, strictness| ServiceBound { target: "db".into(), limit, strictness };
    assert_eq!(
        spec.connectivity,
        [to(Limit::RoundTripUs(2_000), strict(1000, 10)), to(Limit::DistanceM(1_000), Strictness::default())]
    );
}

#[test]
fn refuses_two_services_of_one_name() {
    let errors =
        parse_value(&document_with(json!([minimal_service(), minimal_service()]))).expect_err("twins");
    assert_eq!(errors.problems()[0].path, "applications[0].microservices[1].microservice_name");
}

#[test]
fn fills_the_specification() {
    let request = service(&json!({
        "memory": 100, "vcpus": 2, "storage": 5, "vgpus": 2, "cmd": ["sh", "-c", "sleep 1"], "environment": ["A=b=c", "B="],
        "port": "6080:80/tcp;53/udp", "addresses": {"rr_ip": "10.30.55.55", "rr_ip_v6": "fdff:2000::55:55", "closest_ip": "auto", "sticky_ip_v6": "fdff:5000::5:6"}, "one_shot": true, "privileged": true, "exported": true,
        "arch": ["x86_64", "amd64", "arm64"],
        "constraints": [
            {"type": "direct", "cluster": "a; b;", "node": "n1;n2"},
            {"type": "clusters", "allowed": ["b", "c"]}
        ]
    }));
    let spec = request.spec;
    assert_eq!(spec.image, "docker.io/library/nginx:latest");
    assert_eq!(spec.command, ["sh", "-c", "sleep 1"]);
    assert_eq!(spec.environment, ["A=b=c", "B="]);
    assert_eq!(spec.resources, Resources { cpu_millis: 2000, memory_mib: 100, storage_mib: 5, gpus: 2 });
    assert_eq!(
        spec.ports,
        [
            PortMapping { host: 6080, container: 80, protocol: Protocol::Tcp },
            PortMapping { host: 53, container: 53, protocol: Protocol::Udp }
        ]
    );
    assert_eq!(spec.service_address, Some([10, 30, 55, 55].into()));
    let policies = [(Balancing::Closest, None), (Balancing::Sticky, Some([10, 30, 5, 6].into()))];
    assert_eq!(spec.policies, policies.into());
    assert!(spec.one_shot && spec.privileged && spec.exported);
    assert_eq!(spec.architectures, [Architecture::Amd64, Architecture::Arm64]);
    assert_eq!(
        (spec.target.clusters, spec.target.workers),
        (vec!["b".into()], vec!["n1".into(), "n2".into()])
    );
}

#[test]
fn refuses_constraints_that_exclude_each_other() {
    let errors = parse_service(&json!({"constraints": [
        {"type": "direct", "node": "n1"}, {"type": "direct", "node": "n2"}
    ]}))
    .expect_err("no place left");
    assert_eq!(errors.problems()[0].path, "applications[0].microservices[0].constraints[1].node");
}

#[test]
fn reads_the_documents_in_circulation() {
    let curl = parse(include_bytes!("../../../fixtures/deploy_curl_application.json")).expect("valid");
    assert_eq!(curl.applications[0].services.len(), 2);
    assert_eq!(curl.applications[0].description, "Simple demo with curl client and Nginx server");
    assert!(curl.warnings.is_empty(), "{:?}", curl.warnings);

    let services =
        parse_services(include_bytes!("../../../fixtures/dashboard_services.json")).expect("valid");
    assert_eq!(services.services[0].spec.service_address, Some([10, 30, 55, 55].into()));

    let errors = parse(include_bytes!("../../../fixtures/nginx_unikernel.json")).expect_err("unikernels");
    let [problem] = errors.problems() else { panic!("{errors}") };
    assert_eq!(
        problem.to_string(),
        "applications[0].microservices[0].virtualization: this release does not run unikernels, \
         found \"unikernel\"; set virtualization to \"container\" and code to a container image"
    );
}
