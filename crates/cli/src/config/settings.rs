//! The table of all settings.

use super::types::Config;
use super::value::SettingValue;

/// A value as a source gives it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Raw<'a> {
    Text(&'a str),
    Toml(&'a toml::Value),
}

/// One setting: its name in the file, what it is, how it is set and shown.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Path in the file, such as `root.listen`.
    pub(crate) path: &'static str,
    /// One line for people.
    pub(crate) meaning: &'static str,
    /// Names the original uses in the environment; `OAK_…` comes on top and wins.
    pub(crate) older_variable: Option<&'static str>,
    pub(super) set: fn(&mut Config, Raw<'_>) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

impl Setting {
    /// Name of the environment variable: `root.listen` → `OAK_ROOT_LISTEN`.
    pub(crate) fn variable(&self) -> String {
        format!("OAK_{}", self.path.replace('.', "_").to_uppercase())
    }
}

fn read<T: SettingValue>(slot: &mut T, raw: Raw<'_>) -> Result<(), String> {
    *slot = match raw {
        Raw::Text(text) => T::from_text(text)?,
        Raw::Toml(value) => T::from_toml(value)?,
    };
    Ok(())
}

macro_rules! path {
    ($first:ident) => {
        stringify!($first)
    };
    ($first:ident . $second:ident) => {
        concat!(stringify!($first), ".", stringify!($second))
    };
}

macro_rules! setting {
    (@older) => { None };
    (@older $older:literal) => { Some($older) };
    ($($field:ident).+, $meaning:literal $(, older: $older:literal)?) => {
        Setting {
            path: path!($($field).+),
            meaning: $meaning,
            older_variable: setting!(@older $($older)?),
            set: |config, raw| read(&mut config.$($field).+, raw),
            show: |config| config.$($field).+.show(),
        }
    };
}

/// Every setting, in the order in which they are shown.
pub(crate) static SETTINGS: &[Setting] = &[
    setting!(data_dir, "state that must survive; one directory per role below it"),
    setting!(log.filter, "what is logged, such as info or info,oak_link=debug"),
    setting!(log.format, "text or json"),
    setting!(root.listen, "API for users, and link of the clusters"),
    setting!(root.dashboard, "second listener for the dashboard, or off"),
    setting!(root.network_api_port, "further port for the network information API, or off"),
    setting!(root.advertise, "names and addresses in the HTTPS certificate of this root"),
    setting!(root.public_url, "address at which users reach this root, for links in mails"),
    setting!(root.cluster_lost_after, "how long a cluster may be away until others take over, or off"),
    setting!(mail.host, "mail server for links to users who forgot their password; none if empty"),
    setting!(mail.port, "its port; 465, 587 or 25 if empty, depending on mail.security"),
    setting!(mail.security, "tls, starttls or none"),
    setting!(mail.user, "name for the mail server, if it wants one"),
    setting!(mail.password, "password for the mail server"),
    setting!(mail.password_file, "file with the password for the mail server"),
    setting!(mail.sender, "sender of the mails, such as Oakestra <oakestra@example.org>"),
    setting!(cluster.name, "unique name of this cluster", older: "CLUSTER_NAME"),
    setting!(cluster.location, "latitude,longitude,radius in metres", older: "CLUSTER_LOCATION"),
    setting!(cluster.root, "the root to join, host[:port]", older: "SYSTEM_MANAGER_URL"),
    setting!(cluster.listen, "link of the workers"),
    setting!(cluster.relay, "relay (UDP) for workers that do not reach each other, or off"),
    setting!(cluster.token, "one-time join token for the first start"),
    setting!(cluster.rejoin, "whether a token of another root moves this cluster there, true or false"),
    setting!(cluster.cpu_overcommit, "how many times the cores of a worker are given out"),
    setting!(cluster.lost_after, "how long a worker whose link broke may be away until others take over"),
    setting!(cluster.restart_grace, "the same for a worker whose agent was stopped in good order"),
    setting!(cluster.lease, "how long at_most_one instances run without hearing from this cluster"),
    setting!(worker.name, "name of this worker; the host name if empty"),
    setting!(worker.cluster, "the cluster to join, host[:port]"),
    setting!(worker.address, "address other machines reach this worker at; found if empty"),
    setting!(worker.tunnel_port, "port at that address from which a router passes UDP on to port 50103 here"),
    setting!(worker.token, "one-time join token for the first start"),
    setting!(worker.volumes_root, "where the folders of volumes are, or off"),
    setting!(worker.reserve_memory_mib, "memory kept back for the machine itself, MiB"),
    setting!(worker.reserve_cpu_millis, "CPU kept back for the machine itself, thousandths of a core"),
    setting!(worker.labels, "what descriptors may ask for, such as gpu or area=munich"),
    setting!(worker.addons, "additional services of this machine, such as imageBuilder"),
    setting!(worker.location, "latitude,longitude; where the cluster is if empty"),
    setting!(worker.gpus, "device nodes of the GPUs; found if empty, none for no GPUs"),
    setting!(network.bridge, "bridge that connects the instances"),
    setting!(network.mtu, "largest packet inside the overlay, bytes"),
    setting!(network.table, "nftables table owned by this program"),
    setting!(network.encryption, "packets to other workers: required, preferred or off"),
    setting!(network.kernel_wireguard, "whether kernels encrypt where both can, true or false"),
    setting!(network.key_lifetime, "age at which a worker replaces its key for them, such as 30d, or off"),
    setting!(images.mirrors, "registry = addresses that are tried before it"),
    setting!(images.plain_http, "registries and mirrors that speak plain HTTP"),
    setting!(images.size_limit, "size above which unused images are removed"),
    setting!(images.concurrent_pulls, "images pulled at the same time"),
    setting!(backup.every, "time between backups made by the roles themselves, such as 24h, or off"),
    setting!(backup.keep, "how many of these backups are kept"),
    setting!(backup.directory, "where they are kept; backups below data_dir if empty"),
];
