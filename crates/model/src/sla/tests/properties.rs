//! Properties: no input panics, and what is written back reads the same.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{document_with, minimal_service};
use crate::sla::{MAX_LISTED_PROBLEMS, SlaErrors, parse, parse_services, parse_value};

/// Keys that mean something, so that arbitrary documents reach the code behind them.
const KEYS: &[&str] = &[
    "sla_version",
    "customerID",
    "applications",
    "microservices",
    "application_name",
    "application_namespace",
    "applicationID",
    "microserviceID",
    "microservice_name",
    "microservice_namespace",
    "virtualization",
    "code",
    "image",
    "memory",
    "vcpus",
    "vcpu",
    "port",
    "cmd",
    "environment",
    "env",
    "addresses",
    "rr_ip",
    "RR_ip",
    "arch",
    "constraints",
    "type",
    "cluster",
    "node",
    "allowed",
    "volumes",
    "volume_id",
    "csi_driver",
    "mount_path",
    "config",
    "host_path",
    "added_files",
    "healthcheck",
    "http",
    "tcp",
    "command",
    "interval_s",
    "restart",
    "stop_grace_s",
    "one_shot",
    "exported",
    "status",
    "memroy",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["v2.0", "direct", "clusters", "docker", "10.30.1.1", "80:80/tcp", "a", ""])
            .prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        let key = prop_oneof![4 => prop::sample::select(KEYS).prop_map(str::to_owned), 1 => ".{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..10)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn is_bounded(errors: &SlaErrors) -> bool {
    errors.problems().len() <= MAX_LISTED_PROBLEMS && errors.to_string().len() < 200 * 1024
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse(&bytes).is_err_and(|errors| is_bounded(&errors)));
        let _ = parse_services(&bytes);
    }

    #[test]
    fn any_json_is_read_or_refused(value in any_value()) {
        let mut inside = document_with(value.clone());
        for document in [value.clone(), inside.clone(), document_with(json!([value.clone()]))] {
            if let Err(errors) = parse_value(&document) {
                prop_assert!(is_bounded(&errors));
            }
        }
        inside["applications"] = json!([value]);
        let _ = parse_value(&inside);
    }

    #[test]
    fn any_member_of_a_service_is_read_or_refused(key in prop::sample::select(KEYS), value in any_value()) {
        let mut service = minimal_service();
        service[key] = value;
        let document = document_with(json!([service]));
        let from_value = parse_value(&document);
        let from_bytes = parse(document.to_string().as_bytes());
        prop_assert_eq!(from_value.is_ok(), from_bytes.is_ok());
        if let Ok(first) = from_value {
            let again = parse_value(&first.to_value());
            prop_assert_eq!(again.as_ref().map(|again| &again.applications), Ok(&first.applications));
            prop_assert_eq!(again.map(|again| again.to_value()), Ok(first.to_value()));
        }
    }

    /// A valid document with one byte changed or cut off: what people and broken links really send.
    #[test]
    fn damaged_documents_are_read_or_refused(position: prop::sample::Index, byte: u8, cut: bool) {
        let mut bytes = include_bytes!("../../../fixtures/deploy_curl_application.json").to_vec();
        let position = position.index(bytes.len());
        if cut {
            bytes.truncate(position);
        } else {
            bytes[position] = byte;
        }
        if let Ok(document) = parse(&bytes) {
            prop_assert_eq!(
                parse_value(&document.to_value()).map(|again| again.applications),
                Ok(document.applications)
            );
        }
    }
}
