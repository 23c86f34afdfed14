//! The files in which workers of the original are configured. They are read below everything else, so that a machine
//! changes over without being configured anew; what has no meaning here is named, not dropped in silence.

use std::path::{Path, PathBuf};

use oak_model::overlay::TUNNEL_PORT;
use serde_json::{Map, Value};

use super::error::ConfigProblem;
use super::load::Origin;

/// Where the original keeps its files.
const DIRECTORY: &str = "/etc";
/// Of its network daemon.
const NETWORK_FILE: &str = "netmanager/netcfg.json";
/// Of its worker daemon.
const WORKER_FILE: &str = "oakestra/conf.json";
/// "Find it yourself" in both files.
const ANY_ADDRESS: &str = "0.0.0.0";

/// What a file of the original says, in terms of our settings.
#[derive(Debug, Default)]
pub(super) struct Older {
    /// Setting, value and file, in the order in which they are to be set.
    pub(super) values: Vec<(&'static str, String, Origin)>,
    /// What was left out and why, in sentences for people.
    pub(super) notes: Vec<String>,
    /// What cannot be read.
    pub(super) problems: Vec<ConfigProblem>,
}

/// The directory of this machine with the files of the original.
pub(super) fn directory() -> PathBuf {
    PathBuf::from(DIRECTORY)
}

/// Reads the files of the original below `directory`; there need not be any.
pub(super) fn read(directory: &Path, read: impl Fn(&Path) -> std::io::Result<String>) -> Older {
    let mut older = Older::default();
    // The worker's file comes second: its address of the cluster is what the original hands to the network daemon.
    for (name, interpret) in [(NETWORK_FILE, network as Interpreter), (WORKER_FILE, worker as Interpreter)] {
        let path = directory.join(name);
        let origin = Origin::File(path.clone());
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                older.problem("", &origin, format!("cannot be read: {error}"));
                continue;
            }
        };
        // The original empties its file when it cannot read it; that means the defaults.
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(keys) => interpret(&mut Reading { keys: &keys, origin, older: &mut older }),
            Err(error) => older.problem("", &origin, format!("is not a JSON object: {error}")),
        }
    }
    older
}

type Interpreter = fn(&mut Reading<'_>);

/// One file that is being read.
struct Reading<'a> {
    keys: &'a Map<String, Value>,
    origin: Origin,
    older: &'a mut Older,
}

fn network(file: &mut Reading<'_>) {
    let address = file.text("NodePublicAddress").filter(|address| address != ANY_ADDRESS);
    match file.text("NodePublicPort").filter(|port| *port != TUNNEL_PORT.to_string()) {
        Some(port) if address.is_some() => file.set("worker.tunnel_port", port),
        Some(port) => file.note(
            "NodePublicPort",
            &format!(
                "packets of other workers come to UDP port {TUNNEL_PORT} of this machine; {port} counts only with the \
                 NodePublicAddress of a router that passes it on to that port"
            ),
        ),
        None => {}
    }
    if let Some(address) = address {
        file.set("worker.address", address);
    }
    if let Some(host) = file.text("ClusterUrl").filter(|host| host != ANY_ADDRESS) {
        file.set("worker.cluster", host);
    }
    if file.is_on("Debug") {
        file.set("log.filter", "debug".to_owned());
    }
    if file.text("DefaultInterface").is_some() {
        file.note(
            "DefaultInterface",
            "the address that leads to the cluster is found; set worker.address for another",
        );
    }
    if file.is_on("PublicIPNetworking") {
        file.note("PublicIPNetworking", "no web service is asked; set worker.address to the public address");
    }
    for key in ["MqttCert", "MqttKey"] {
        if file.text(key).is_some() {
            file.note(key, "a worker gets its certificate when it joins with a token");
        }
    }
}

fn worker(file: &mut Reading<'_>) {
    if let Some(host) = file.text("cluster_address").filter(|host| host != ANY_ADDRESS) {
        let port = file.keys.get("cluster_port").and_then(Value::as_u64);
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        file.set("worker.cluster", port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")));
    }
    let addons = file.active("addons", "addon_name", "addon_active");
    if !addons.is_empty() {
        file.set("worker.addons", addons.join(","));
    }
    if file.is_on("public_ip") {
        file.note("public_ip", "no web service is asked; set worker.address to the public address");
    }
    for key in ["mqtt_cert_file", "mqtt_key_file"] {
        if file.text(key).is_some() {
            file.note(key, "a worker gets its certificate when it joins with a token");
        }
    }
    let others = file.active("virtualizations", "virutalizaiton_runtime", "virutalizaiton_active");
    for runtime in others.iter().filter(|runtime| *runtime != "docker") {
        file.note(&format!("virtualization {runtime}"), "this worker runs containers");
    }
    if !file.list("csi_drivers").is_empty() {
        file.note("csi_drivers", "volumes are folders below worker.volumes_root");
    }
    match file.text("overlay_network").as_deref() {
        None | Some("default") => {}
        Some(_) => file.note("overlay_network", "a worker always has its own network"),
    }
}

impl Reading<'_> {
    /// A text that is not empty. Ports and the like are texts in one file and numbers in the other.
    fn text(&mut self, key: &str) -> Option<String> {
        match self.keys.get(key)? {
            Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Value::Null => None,
            Value::Number(number) => Some(number.to_string()),
            other => {
                self.older.problem(key, &self.origin, format!("must be a text, not {other}"));
                None
            }
        }
    }

    fn is_on(&self, key: &str) -> bool {
        self.keys.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn list(&self, key: &str) -> &[Value] {
        self.keys.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Names in a list of things that can be switched off.
    fn active(&self, list: &str, name: &str, switch: &str) -> Vec<String> {
        self.list(list)
            .iter()
            .filter(|entry| entry.get(switch).and_then(Value::as_bool) == Some(true))
            .filter_map(|entry| Some(entry.get(name)?.as_str()?.to_owned()))
            .collect()
    }

    fn set(&mut self, setting: &'static str, value: String) {
        self.older.values.push((setting, value, self.origin.clone()));
    }

    fn note(&mut self, key: &str, why: &str) {
        self.older.notes.push(format!("{key} ({}) is not used: {why}", self.origin));
    }
}

impl Older {
    fn problem(&mut self, path: &str, origin: &Origin, message: String) {
        self.problems.push(ConfigProblem { path: path.to_owned(), origin: origin.clone(), message });
    }
}
