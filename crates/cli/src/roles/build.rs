//! From the configuration to what each role needs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oak_cluster::ClusterConfig;
use oak_image::ImageStoreConfig;
use oak_link::JoinToken;
use oak_root::RootConfig;
use oak_root::mail::{MailConfig, MailSecurity};
use oak_worker::{Encryption, WorkerConfig};
use tokio::sync::watch;

use crate::commands::Failure;
use crate::config::{self, Config, Port, Secret};

/// Host ports (TCP) that applications of this machine use.
pub(super) type ClaimedPorts = watch::Sender<BTreeSet<u16>>;

pub(super) fn root(config: &Config, claimed: &ClaimedPorts) -> Result<RootConfig, Failure> {
    Ok(RootConfig {
        directory: config.data_dir.join("root"),
        listen: config.root.listen,
        dashboard: config.root.dashboard,
        network_api_port: config.root.network_api_port,
        host_names: config.root.advertise.clone(),
        settings: oak_control::root::Settings {
            cpu_overcommit: config.cluster.cpu_overcommit,
            cluster_lost_after: config.root.cluster_lost_after.map(|interval| interval.duration()),
            ..oak_control::root::Settings::default()
        },
        mail: mail(config)?,
        claimed_ports: claimed.subscribe(),
    })
}

/// Mails need a server, a sender, and an address for links.
fn mail(config: &Config) -> Result<Option<MailConfig>, Failure> {
    let settings = &config.mail;
    let Some(host) = settings.host.clone() else { return Ok(None) };
    let needed = |name: &str| Failure::usage(format!("mail.host is set, so {name} must be set, too"));
    let password = match (&settings.password, &settings.password_file) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage("only one of mail.password and mail.password_file can be set"));
        }
        (Some(secret), None) => Some(secret.expose().to_owned()),
        (None, Some(path)) => {
            let failed = |error| {
                Failure::usage(format!("mail.password_file: cannot read {}: {error}", path.display()))
            };
            Some(std::fs::read_to_string(path).map_err(failed)?.trim_end_matches(['\r', '\n']).to_owned())
        }
        (None, None) => None,
    };
    let credentials = match (settings.user.clone(), password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(needed("mail.password or mail.password_file (because of mail.user)")),
        (None, Some(_)) => return Err(needed("mail.user (because of the password)")),
    };
    let security = match settings.security {
        config::MailSecurity::Tls => MailSecurity::Tls,
        config::MailSecurity::StartTls => MailSecurity::StartTls,
        config::MailSecurity::None => MailSecurity::None,
    };
    Ok(Some(MailConfig {
        host,
        port: settings.port.map_or(settings.security.usual_port(), Port::number),
        security,
        credentials,
        sender: settings.sender.clone().ok_or_else(|| needed("mail.sender"))?,
        public_url: config
            .root
            .public_url
            .as_ref()
            .ok_or_else(|| needed("root.public_url"))?
            .as_str()
            .to_owned(),
    }))
}

pub(super) fn cluster(config: &Config) -> Result<ClusterConfig, Failure> {
    let settings = &config.cluster;
    Ok(ClusterConfig {
        directory: config.data_dir.join("cluster"),
        root: format!("{}:{}", settings.root.host(), settings.root.port()),
        token: token(settings.token.as_ref(), "cluster")?,
        rejoin: settings.rejoin,
        listen: settings.listen,
        relay: settings.relay,
        settings: oak_control::cluster::Settings {
            cpu_overcommit: settings.cpu_overcommit,
            lost_after: settings.lost_after.duration(),
            restart_grace: settings.restart_grace.duration(),
            lease: settings.lease.duration(),
            name: settings.name.as_str().to_owned(),
            location: settings.location.clone(),
            ..oak_control::cluster::Settings::default()
        },
    })
}

pub(super) fn worker(config: &Config, claimed: &ClaimedPorts) -> Result<WorkerConfig, Failure> {
    let settings = &config.worker;
    let images = ImageStoreConfig {
        mirrors: config.images.mirrors.clone(),
        plain_http: config.images.plain_http.clone(),
        size_limit_bytes: config.images.size_limit.bytes(),
        max_concurrent_pulls: usize::try_from(config.images.concurrent_pulls).unwrap_or(usize::MAX),
        // The worker puts the store into its own directory.
        ..ImageStoreConfig::new(config.data_dir.join("worker/images"))
    };
    Ok(WorkerConfig {
        directory: config.data_dir.join("worker"),
        cluster: format!("{}:{}", settings.cluster.host(), settings.cluster.port()),
        token: token(settings.token.as_ref(), "worker")?,
        name: settings.name.as_ref().map_or_else(host_name, |name| name.as_str().to_owned()),
        address: settings.address,
        tunnel_port: settings.tunnel_port,
        volumes_root: settings.volumes_root.clone(),
        reserve_memory_mib: settings.reserve_memory_mib,
        reserve_cpu_millis: settings.reserve_cpu_millis,
        labels: settings.labels.0.clone(),
        addons: settings.addons.0.clone(),
        position: settings.location.map(|place| place.0),
        gpus: settings.gpus.0.clone(),
        bridge: config.network.bridge.as_str().to_owned(),
        mtu: u32::from(config.network.mtu.bytes()),
        table: config.network.table.as_str().to_owned(),
        encryption: match config.network.encryption {
            config::Encryption::Required => Encryption::Required,
            config::Encryption::Preferred => Encryption::Preferred,
            config::Encryption::Off => Encryption::Off,
        },
        kernel_wireguard: config.network.kernel_wireguard,
        key_lifetime: config.network.key_lifetime.map(|age| age.duration()),
        images,
        settings: oak_control::worker::Settings::default(),
        claimed_ports: claimed.clone(),
    })
}

/// How another role of this process reaches a port.
pub(super) fn local_endpoint(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "worker".to_owned() } else { name }
}

fn token(secret: Option<&Secret>, role: &str) -> Result<Option<JoinToken>, Failure> {
    let Some(secret) = secret else { return Ok(None) };
    secret.expose().parse().map(Some).map_err(|error: oak_link::InvalidToken| {
        Failure::usage(format!("the {role} token is not a join token"))
            .cause(error.to_string())
            .hint(format!("copy the whole line that `oak token create {role}` printed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(settings: &[(&str, &str)]) -> Result<Option<MailConfig>, Failure> {
        let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let sources = config::Sources { environment: environment.collect(), ..config::Sources::default() };
        mail(&config::load(&sources).expect("valid").config)
    }

    #[test]
    fn mails_need_a_sender_an_address_for_links_and_both_halves_of_a_login() {
        let complete = [
            ("OAK_MAIL_HOST", "mail.example"),
            ("OAK_MAIL_SENDER", "oak@example.org"),
            ("OAK_ROOT_PUBLIC_URL", "https://oak.example/"),
        ];
        assert!(configured(&complete[1..]).expect("no host, no mails").is_none());
        let mail = configured(&complete).expect("complete").expect("mails");
        assert_eq!((mail.port, mail.public_url.as_str()), (465, "https://oak.example"));
        let with = |more: &[(&'static str, &'static str)]| configured(&[&complete, more].concat());
        let mail = with(&[("OAK_MAIL_SECURITY", "starttls")]).expect("complete").expect("mails");
        assert_eq!((mail.port, mail.security), (587, MailSecurity::StartTls));
        for (settings, missing) in [(&complete[..1], "mail.sender"), (&complete[..2], "root.public_url")] {
            let message = format!("{:?}", configured(settings).expect_err("incomplete"));
            assert!(message.contains(missing), "{message}");
        }
        assert!(with(&[("OAK_MAIL_USER", "oak")]).is_err());
        assert!(with(&[("OAK_MAIL_PASSWORD", "x")]).is_err());
        let login = with(&[("OAK_MAIL_USER", "oak"), ("OAK_MAIL_PASSWORD", "x")]);
        assert_eq!(login.expect("complete").expect("mails").credentials, Some(("oak".into(), "x".into())));
    }

    #[test]
    fn the_password_for_the_mail_server_can_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "secret \n").expect("written");
        let path = file.path().display().to_string();
        let settings = |path: &str, password: &str| {
            configured(&[
                ("OAK_MAIL_HOST", "mail.example"),
                ("OAK_MAIL_SENDER", "oak@example.org"),
                ("OAK_ROOT_PUBLIC_URL", "https://oak.example"),
                ("OAK_MAIL_USER", "oak"),
                ("OAK_MAIL_PASSWORD_FILE", path),
                ("OAK_MAIL_PASSWORD", password),
            ])
        };
        let mail = settings(&path, "").expect("complete").expect("mails");
        assert_eq!(mail.credentials, Some(("oak".into(), "secret ".into())));
        assert!(settings(&path, "x").is_err(), "not both");
        assert!(settings("/nonexistent", "").is_err());
    }
}
