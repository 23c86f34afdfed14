//! What is known about the addresses of services: the reading part of the original's network component, which had a
//! port of its own (10099, see `start`).
//!
//! Names may be written with `_` for `.`, as old clients do.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{Query, State};
use axum::routing::{MethodRouter, get};
use oak_control::root::{Instance, Root, Service};
use oak_model::{Balancing, ServiceId, ipv6};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::answer::{Answer, plain};
use super::caller::Caller;
use super::clusters::shortened;
use super::error::ApiError;
use super::parameter::Parameter;
use super::scope::Scope;

/// Port of the overlay on every worker.
const OVERLAY_PORT: u16 = 50_103;
/// Most addresses proposed at once.
const MOST_PROPOSED: usize = 100;

/// The routes, here and on the port of their own.
pub(super) fn routes() -> [(&'static str, MethodRouter<Shared>); 6] {
    [
        ("/api/net/service/{service}/instances", get(of_service)),
        ("/api/net/service/ip/{address}/instances", get(of_address)),
        ("/api/pubnet/service/netinfo/{service}", get(info_of_service)),
        ("/api/pubnet/service/netinfo/ip/{address}", get(info_of_address)),
        ("/api/pubnet/service/netinfo/available-ip", get(one_free_address)),
        ("/api/pubnet/service/netinfo/available-ip/{count}", get(free_addresses)),
    ]
}

/// `GET /api/net/service/<name or id>/instances`.
async fn of_service(api: State<Shared>, caller: Caller, service: Parameter<String>) -> Answer {
    show(api, &caller, service, named, full).await
}

/// `GET /api/net/service/ip/<address>/instances`.
async fn of_address(api: State<Shared>, caller: Caller, address: Parameter<String>) -> Answer {
    show(api, &caller, address, addressed, full).await
}

/// `GET /api/pubnet/service/netinfo/<name or id>`.
async fn info_of_service(api: State<Shared>, caller: Caller, service: Parameter<String>) -> Answer {
    show(api, &caller, service, named, info).await
}

/// `GET /api/pubnet/service/netinfo/ip/<address>`.
async fn info_of_address(api: State<Shared>, caller: Caller, address: Parameter<String>) -> Answer {
    show(api, &caller, address, addressed, info).await
}

/// Finds a service the caller may see.
type Find = for<'a> fn(&'a Root, &Scope, &str) -> Result<&'a Service, ApiError>;

async fn show(
    State(api): State<Shared>,
    caller: &Caller,
    Parameter(text): Parameter<String>,
    find: Find,
    render: fn(&Root, &Service) -> Value,
) -> Answer {
    let scope = caller.view();
    let record = api.parts.root.call(move |root, _, _| {
        let service = find(root, &scope, &text)?;
        Ok::<_, ApiError>(render(root, service))
    });
    plain(&record.await??)
}

/// Which family of addresses is wanted.
#[derive(Debug, Deserialize)]
struct Family {
    v: Option<u8>,
}

type Wanted = Result<Query<Family>, axum::extract::rejection::QueryRejection>;

/// `GET /api/pubnet/service/netinfo/available-ip`.
async fn one_free_address(state: State<Shared>, caller: Caller, family: Wanted) -> Answer {
    propose(state, &caller, 1, family).await
}

/// `GET /api/pubnet/service/netinfo/available-ip/<count>?v=4`: addresses that `addresses.rr_ip` and `rr_ip_v6` may ask
/// for now, of both families if the query does not say which. They are not held back for the caller.
async fn free_addresses(
    state: State<Shared>,
    caller: Caller,
    Parameter(count): Parameter<usize>,
    family: Wanted,
) -> Answer {
    propose(state, &caller, count, family).await
}

async fn propose(State(api): State<Shared>, _caller: &Caller, count: usize, family: Wanted) -> Answer {
    let wrong = || ApiError::bad_request("the query may hold v=4 or v=6");
    let family = family.map_err(|_| wrong())?.0.v;
    if !(1..=MOST_PROPOSED).contains(&count) {
        return Err(ApiError::bad_request(format!("ask for 1 to {MOST_PROPOSED} addresses")));
    }
    if family.is_some_and(|family| family != 4 && family != 6) {
        return Err(wrong());
    }
    let addresses = api.parts.root.call(move |root, _, _| root.next_addresses(count)).await?;
    let four = |address: &Ipv4Addr| json!({ "Address": address, "Address_v6": null, "IpType": "IPv4" });
    let six = |address: &Ipv4Addr| {
        let address = ipv6::service(Balancing::RoundRobin, *address);
        json!({ "Address": null, "Address_v6": address, "IpType": "IPv6" })
    };
    let of_four = addresses.iter().map(four).filter(|_| family != Some(6));
    let of_six = addresses.iter().map(six).filter(|_| family != Some(4));
    plain(&json!({ "available_service_ips": of_four.chain(of_six).collect::<Vec<_>>() }))
}

/// A service by id or by its four names.
fn named<'a>(root: &'a Root, scope: &Scope, text: &str) -> Result<&'a Service, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no service `{}`", shortened(text)));
    let by_id = text.parse::<ServiceId>().ok().and_then(|id| scope.service(root, id).ok());
    let by_name = || {
        // Several owners may use the same names.
        let name = text.replace('_', ".");
        let mut named = root.services().filter(|service| service.job_name.to_string() == name);
        named.find(|service| scope.service(root, service.id).is_ok())
    };
    by_id.or_else(by_name).ok_or_else(unknown)
}

/// The service that has an address, or an instance that has it.
fn addressed<'a>(root: &'a Root, scope: &Scope, text: &str) -> Result<&'a Service, ApiError> {
    let unknown = || ApiError::not_found(format!("no service has the address `{}`", shortened(text)));
    let address: IpAddr = text.replace('_', ".").parse().map_err(|_| {
        ApiError::bad_request("the path must end in an IP address, such as 10.30.0.1 or 10_30_0_1")
    })?;
    let by_service = root.services().find(|service| match address {
        IpAddr::V4(address) => service.has_address(address),
        IpAddr::V6(address) => service.has_ipv6(address),
    });
    let by_service = by_service.map(|service| service.id);
    let is_own = |instance: &&Instance| match address {
        IpAddr::V4(address) => instance.address == address,
        IpAddr::V6(address) => ipv6::instance(instance.address) == address,
    };
    let by_instance = || root.instances().find(is_own).map(|instance| instance.key.service);
    let id = by_service.or_else(by_instance).ok_or_else(unknown)?;
    scope.service(root, id).map_err(|_| unknown())
}

/// The record with everything, as the components of the original exchange it.
fn full(root: &Root, service: &Service) -> Value {
    let mut record = service.clone().into_record();
    // Here the id is plain text, unlike everywhere else.
    record.insert("_id".to_owned(), json!(service.id));
    record.insert("service_ip_list".to_owned(), service.address_list());
    let instances = root.instances_of(service.id).map(|instance| {
        let mut entry = short(instance);
        entry.insert("status".to_owned(), json!(instance.status));
        if !instance.host_address.is_empty() {
            entry.insert("host_ip".to_owned(), json!(instance.host_address));
            entry.insert("host_port".to_owned(), json!(OVERLAY_PORT));
        }
        Value::Object(entry)
    });
    record.insert("instance_list".to_owned(), Value::Array(instances.collect()));
    Value::Object(record)
}

/// The record for users.
fn info(root: &Root, service: &Service) -> Value {
    let name = &service.job_name;
    let instances = root.instances_of(service.id).map(|instance| Value::Object(short(instance)));
    json!({
        "_id": service.id,
        "applicationID": service.application,
        "app_name": name.application,
        "app_ns": name.application_namespace,
        "service_name": name.service,
        "service_ns": name.service_namespace,
        "service_job_id": service.id,
        "service_ip_list": service.address_list(),
        "instance_list": instances.collect::<Vec<_>>(),
    })
}

fn short(instance: &Instance) -> Map<String, Value> {
    let entries = [
        ("instance_number", json!(instance.key.number)),
        ("cluster_id", json!(instance.cluster)),
        ("instance_ip", json!(instance.address)),
        ("instance_ip_v6", json!(ipv6::instance(instance.address))),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}
