//! One microservice of a descriptor.

use serde_json::{Map, Value};

use crate::{Architecture, Name, Resources, ServiceSpec};

use super::document::ServiceRequest;
use super::errors::Findings;
use super::fields::{Fields, whole};
use super::path::Path;
use super::spelling::Vocabulary;
use super::{
    addresses, command, connectivity, constraints, health, port, secrets, unsupported, upkeep, volume,
};

/// Rule for names, as it is shown to people.
pub(super) const NAME_RULE: &str = "a text of 1 to 30 letters and digits (a-z, A-Z, 0-9)";

/// 16 TiB: the largest machines of today, with room.
const MAX_MEMORY_MIB: u32 = 16 << 20;
const MAX_VCPUS: u32 = 1024;
/// More than any machine has.
const MAX_GPUS: u32 = 256;
/// 1 PiB.
const MAX_STORAGE_MIB: u32 = 1 << 30;
/// Longest image reference, in bytes: a registry host, a path and a digest fit several times.
const MAX_IMAGE_BYTES: usize = 1024;

/// Fields whose whole numbers are stored as integers, because typed clients fail on `1.0`.
const INTEGERS: &[&str] = &[
    "memory",
    "vcpus",
    "vgpus",
    "vtpus",
    "bandwidth_in",
    "bandwidth_out",
    "storage",
    "max_instances_per_node",
    "replicas",
    "stop_grace_s",
];

const SERVICE: Vocabulary = Vocabulary {
    known: &[
        "microserviceID",
        "microservice_name",
        "microservice_namespace",
        "virtualization",
        "code",
        "memory",
        "vcpus",
        "vgpus",
        "vtpus",
        "bandwidth_in",
        "bandwidth_out",
        "storage",
        "state",
        "port",
        "one_shot",
        "at_most_one",
        "privileged",
        "exported",
        "cmd",
        "environment",
        "sla_violation_strategy",
        "target_node",
        "addresses",
        "volumes",
        "added_files",
        "healthcheck",
        "restart",
        "stop_grace_s",
        "args",
        "constraints",
        "connectivity",
        "max_instances_per_node",
        "arch",
        "description",
        "secrets",
        "registry_credentials",
        "replicas",
        "update",
    ],
    older: &[
        ("vcpu", "vcpus"),
        ("vgpu", "vgpus"),
        ("vtpu", "vtpus"),
        ("env", "environment"),
        ("image", "code"),
        ("bandwith_in", "bandwidth_in"),
        ("bandwith_out", "bandwidth_out"),
    ],
    owned_by_server: &[
        "_id",
        "job_name",
        "applicationID",
        "app_name",
        "app_ns",
        "service_name",
        "service_ns",
        "RR_ip",
        "RR_ip_v6",
        "service_ip_list",
        "next_instance_progressive_number",
        "instance_list",
        "status",
        "status_detail",
        "revision",
        "rollout",
    ],
};

const ADDRESSES: Vocabulary = Vocabulary {
    known: &[
        "rr_ip",
        "rr_ip_v6",
        "closest_ip",
        "closest_ip_v6",
        "least_loaded_ip",
        "least_loaded_ip_v6",
        "sticky_ip",
        "sticky_ip_v6",
        "local_first_ip",
        "local_first_ip_v6",
        "instances",
    ],
    older: &[("RR_ip", "rr_ip"), ("RR_ip_v6", "rr_ip_v6")],
    owned_by_server: &[],
};

/// Reads one element of `microservices`; `None` when a finding makes it useless.
pub(super) fn read(value: &Value, path: Path<'_>, findings: &mut Findings) -> Option<ServiceRequest> {
    let sent = Fields::of(value, &path, findings)?;
    let mut document = SERVICE.normalise(sent.map, path, findings);
    let fields = Fields { map: &document, path: &path };

    check_id(fields, findings);
    let name = fields.required_parsed::<Name>("microservice_name", NAME_RULE, findings);
    let namespace = fields.required_parsed::<Name>("microservice_namespace", NAME_RULE, findings);
    check_virtualization(fields, findings);
    let image = read_image(fields, findings);
    let resources = Resources {
        cpu_millis: fields.integer("vcpus", MAX_VCPUS, "cores", findings).saturating_mul(1000),
        memory_mib: fields.integer("memory", MAX_MEMORY_MIB, "MB", findings),
        storage_mib: fields.integer("storage", MAX_STORAGE_MIB, "MB", findings),
        gpus: fields.integer("vgpus", MAX_GPUS, "GPUs", findings),
    };
    let addresses = normal_addresses(fields, findings);
    let (service_address, policies) =
        addresses.as_ref().map(|addresses| addresses::read(addresses, &path, findings)).unwrap_or_default();
    let (volumes, added_files) = volume::read(fields, findings);
    let spec = ServiceSpec {
        image: image.unwrap_or_default(),
        command: command::read_command(fields, findings),
        environment: command::read_environment(fields, findings),
        resources,
        ports: read_ports(fields, findings),
        service_address,
        policies,
        one_shot: fields.flag("one_shot", findings),
        at_most_one: fields.flag("at_most_one", findings),
        privileged: fields.flag("privileged", findings),
        architectures: read_architectures(fields, findings),
        target: constraints::read(fields, findings),
        connectivity: connectivity::read(fields, findings),
        secrets: secrets::read(fields, findings),
        registry_credentials: secrets::read_registry(fields, findings),
        volumes,
        added_files,
        healthcheck: health::read_healthcheck(fields, findings),
        restart: health::read_restart(fields, findings),
        stop_grace_s: health::read_stop_grace(fields, findings),
        exported: fields.flag("exported", findings),
    };
    let replicas = upkeep::read_replicas(fields, findings);
    let update = upkeep::read_policy(fields, spec.at_most_one, findings);
    for informational in ["state", "description"] {
        fields.text(informational, findings);
    }
    fields.texts("args", findings);
    unsupported::check_service(fields, findings);

    if let Some(addresses) = addresses {
        document.insert("addresses".to_owned(), Value::Object(addresses));
    }
    store_normal_values(&mut document);
    Some(ServiceRequest { name: name?, namespace: namespace?, spec, replicas, update, document })
}

fn check_id(fields: Fields<'_>, findings: &mut Findings) {
    const KEY: &str = "microserviceID";
    let Some(value) = fields.map.get(KEY) else { return };
    if value.as_str() != Some("") {
        findings.expected(fields.path.key(KEY), "\"\" or absent, because the server chooses it", value);
    }
}

fn check_virtualization(fields: Fields<'_>, findings: &mut Findings) {
    const KEY: &str = "virtualization";
    let Some(kind) = fields.required_text(KEY, "container", findings) else { return };
    let reason = match kind {
        "container" | "docker" => return,
        "unikernel" => "this release does not run unikernels",
        "crosvm" | "vm" => "this release does not run virtual machines",
        _ => "this release runs containers with its own runtime only",
    };
    let fix = "set virtualization to \"container\" and code to a container image";
    findings.refused(fields.path.key(KEY), reason, &kind.into(), fix);
}

/// Reads `code`. Whether the reference is well-formed and exists is for the worker and its registry to say; here
/// only what can never be a reference is refused.
fn read_image(fields: Fields<'_>, findings: &mut Findings) -> Option<String> {
    const KEY: &str = "code";
    let text = fields.required_text(KEY, "the image, such as docker.io/library/nginx:latest", findings)?;
    let refusal = if text.is_empty() {
        "must name an image, such as docker.io/library/nginx:latest"
    } else if text.len() > MAX_IMAGE_BYTES {
        "must be an image reference of at most 1024 bytes"
    } else if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        "must be an image reference without blanks, such as docker.io/library/nginx:latest"
    } else if text.contains("://") && is_container(fields) {
        "must be an image reference without `scheme://`, such as docker.io/library/nginx:latest"
    } else {
        return Some(text.to_owned());
    };
    findings.refused(fields.path.key(KEY), refusal, &text.into(), "name a container image");
    None
}

/// A unikernel's `code` is a URL; that the kind cannot run is said once, not also about its URL.
fn is_container(fields: Fields<'_>) -> bool {
    matches!(fields.map.get("virtualization").and_then(Value::as_str), Some("container" | "docker"))
}

fn read_ports(fields: Fields<'_>, findings: &mut Findings) -> Vec<crate::PortMapping> {
    const KEY: &str = "port";
    let Some(text) = fields.text(KEY, findings) else { return Vec::new() };
    port::parse(text).unwrap_or_else(|problems| {
        for problem in problems {
            findings.refused(fields.path.key(KEY), problem, &text.into(), "correct the entry");
        }
        Vec::new()
    })
}

fn normal_addresses(fields: Fields<'_>, findings: &mut Findings) -> Option<Map<String, Value>> {
    let value = fields.map.get("addresses")?;
    let path = fields.path.key("addresses");
    let sent = Fields::of(value, &path, findings)?;
    Some(ADDRESSES.normalise(sent.map, path, findings))
}

fn read_architectures(fields: Fields<'_>, findings: &mut Findings) -> Vec<Architecture> {
    const KEY: &str = "arch";
    let mut architectures = Vec::new();
    for (position, text) in fields.texts(KEY, findings).into_iter().enumerate() {
        match text.parse::<Architecture>() {
            Ok(architecture) if architectures.contains(&architecture) => {}
            Ok(architecture) => architectures.push(architecture),
            Err(_) => {
                let list = Architecture::ALL.map(Architecture::as_str).join(", ");
                let path = fields.path.key(KEY);
                findings.expected(path.index(position), format_args!("one of {list}"), &text.into());
            }
        }
    }
    architectures
}

fn store_normal_values(document: &mut Map<String, Value>) {
    for key in INTEGERS {
        if let Some(value) = document.get_mut(*key)
            && let Some(number) = whole(value)
        {
            *value = Value::from(number);
        }
    }
    if let Some(kind) = document.get_mut("virtualization")
        && kind.as_str() == Some("container")
    {
        // Clients of the original know the stored form (root-api reference, 4.10.2).
        *kind = Value::from("docker");
    }
}
