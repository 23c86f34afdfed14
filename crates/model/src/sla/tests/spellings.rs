//! Historical spellings, stored documents and warnings.

use serde_json::json;

use super::{document_with, merged, minimal_service, parse_service, service};
use crate::sla::parse_value;

#[test]
fn reads_every_historical_spelling() {
    let mut sent = minimal_service();
    sent.as_object_mut().expect("an object").shift_remove("code");
    let older = json!({
        "image": "nginx", "vcpu": 3, "vgpu": 0, "env": ["A=b"], "bandwith_in": 0, "bandwith_out": 0,
        "addresses": {"RR_ip": "10.30.1.2"}, "virtualization": "docker"
    });
    let document = parse_value(&document_with(json!([merged(sent, &older)]))).expect("valid");
    let request = &document.applications[0].services[0];
    assert_eq!((request.spec.image.as_str(), request.spec.resources.cpu_millis), ("nginx", 3000));
    assert_eq!(request.spec.environment, ["A=b"]);
    assert_eq!(request.spec.service_address, Some([10, 30, 1, 2].into()));
    for (key, value) in [
        ("code", json!("nginx")),
        ("vcpus", json!(3)),
        ("environment", json!(["A=b"])),
        ("addresses", json!({"rr_ip": "10.30.1.2"})),
    ] {
        assert_eq!(request.document.get(key), Some(&value), "{key}");
    }
    for older in ["image", "vcpu", "vgpu", "env", "bandwith_in"] {
        assert!(!request.document.contains_key(older), "{older}");
    }
    assert!(document.warnings.is_empty(), "{:?}", document.warnings);
}

#[test]
fn older_spellings_still_ask_for_what_they_ask() {
    let errors = parse_service(&json!({"vgpu": -1})).expect_err("negative");
    assert!(errors.problems()[0].path.ends_with("vgpus"), "{errors}");
}

#[test]
fn the_same_thing_may_be_said_twice_but_not_differently() {
    assert!(parse_service(&json!({"vcpus": 1, "vcpu": 1.0})).is_ok());
    for changes in [json!({"vcpus": 1, "vcpu": 2}), json!({"vcpu": 1, "vcpus": 2})] {
        let errors = parse_service(&changes).expect_err("contradiction");
        assert!(errors.to_string().contains("`vcpu` is another spelling of `vcpus`"), "{errors}");
    }
    let errors = parse_service(&json!({"image": "other"})).expect_err("contradiction");
    assert!(errors.to_string().contains("`image` is another spelling of `code`"), "{errors}");
}

#[test]
fn stores_unknown_fields_and_normal_values() {
    let document = service(&json!({"memory": 64.0, "platform": {"x": [1, null]}, "my_own": 1.0})).document;
    assert_eq!(document["memory"].to_string(), "64");
    assert_eq!(document["my_own"].to_string(), "1.0");
    assert_eq!(document["platform"], json!({"x": [1, null]}));
    assert_eq!(document["virtualization"], "docker");
}

#[test]
fn warns_about_likely_mistakes() {
    let changes = json!({"memroy": 5, "status": "RUNNING", "colour": "blue", "constraints": [
        {"type": "direct", "node": "n", "location": "x"}
    ]});
    let document = parse_service(&changes).expect("valid");
    let warnings: Vec<String> = document.warnings.iter().map(ToString::to_string).collect();
    let place = "applications[0].microservices[0]";
    assert_eq!(
        warnings,
        [
            format!("{place}.memroy: is not a known field and has no effect; did you mean `memory`?"),
            format!("{place}.status: is set by the server; the value sent is left out"),
            format!("{place}.constraints[0].location: has no effect in this kind of constraint"),
        ]
    );
    assert!(!document.applications[0].services[0].document.contains_key("status"));
    assert!(document.applications[0].services[0].document.contains_key("memroy"));
}
