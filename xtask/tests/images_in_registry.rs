//! Builds the test images and pushes them into a real registry.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "functions of a test, outside of what clippy knows as one"
)]

use std::io::BufRead as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use xtask::images::{Layout, build_all, default_directory, push_all};
use xtask::registry::{Options, Registry};

fn is_installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", &format!("command -v {program} >/dev/null")])
        .status()
        .is_ok_and(|s| s.success())
}

/// Returns false, and says so, where the tools are missing.
fn tools_are_there() -> bool {
    let missing: Vec<&str> =
        ["docker-registry", "dpkg-deb", "apt-get"].into_iter().filter(|name| !is_installed(name)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: needs {}", missing.join(", "));
    }
    missing.is_empty()
}

fn built() -> Layout {
    build_all(&default_directory()).unwrap()
}

fn get(url: &str, accept: &str) -> (String, String) {
    let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
    let mut response = agent.get(url).header("accept", accept).call().unwrap();
    let digest = response.headers()["docker-content-digest"].to_str().unwrap().to_owned();
    (digest, response.body_mut().read_to_string().unwrap())
}

/// A network namespace of this test's own, with loopback up; removed on drop.
struct Namespace(String);

impl Namespace {
    /// None where this process may not make one.
    fn create() -> Option<Self> {
        let name = format!("xtask-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success()).then(|| {
            let namespace = Self(name);
            let up = namespace.command(&["ip", "link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            namespace
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(words);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn a_pushed_image_is_served_under_its_tag_with_the_digest_it_was_built_with() {
    if !tools_are_there() {
        return;
    }
    let layout = built();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path()).unwrap();
    let first = push_all(&layout, &registry.url()).unwrap();
    let second = push_all(&layout, &registry.url()).unwrap();
    assert!(first.sent > 0);
    assert_eq!((second.sent, second.present), (0, first.sent + first.present));

    for image in layout.images() {
        let url = format!("{}/v2/{}/manifests/{}", registry.url(), image.repository, image.tag);
        let (digest, body) = get(&url, "application/vnd.oci.image.index.v1+json");
        assert_eq!(digest, image.index);
        assert!(body.contains(&image.manifest));
    }
}

#[test]
fn the_images_share_their_base_layers_and_are_small() {
    if !tools_are_there() {
        return;
    }
    let layout = built();
    let nginx = layout.find("library/nginx").unwrap();
    let curl = layout.find("curlimages/curl").unwrap();
    assert_eq!(nginx.layers[..2], curl.layers[..2]);
    assert_ne!(nginx.layers[2], curl.layers[2]);
    for image in [nginx, curl] {
        assert!(image.size_bytes < 60_000_000, "{} has {} bytes", image.repository, image.size_bytes);
    }
}

#[test]
fn a_dropped_registry_is_gone_and_its_images_stay() {
    if !tools_are_there() {
        return;
    }
    let layout = built();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path()).unwrap();
    push_all(&layout, &registry.url()).unwrap();
    let address = registry.address();
    drop(registry);
    assert!(TcpStream::connect(address).is_err());

    let again = Registry::start(directory.path()).unwrap();
    assert_eq!(push_all(&layout, &again.url()).unwrap().sent, 0);
    assert!(Path::new(again.log()).is_file());
}

#[test]
fn a_registry_ends_when_its_holder_is_killed() {
    if !tools_are_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut holder = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["test-registry", "--dir"])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let said = std::io::BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
    holder.kill().unwrap();
    holder.wait().unwrap();
    said.unwrap();

    let address: SocketAddr = line.trim().parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the registry at {address} is still there");
    }
}

#[test]
fn a_registry_serves_inside_another_network_namespace() {
    let Some(namespace) = Namespace::create() else {
        eprintln!("skipped: needs root and `ip`");
        return;
    };
    if !tools_are_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let prefix = ["ip", "netns", "exec", &namespace.0].map(Into::into).to_vec();
    let options = Options { command_prefix: prefix, ..Options::default() };
    let registry = Registry::start_with(directory.path(), &options).unwrap();
    assert!(TcpStream::connect(registry.address()).is_err(), "it must not be reachable from here");

    // `/dev/tcp` is bash's; the address answers there.
    let address = registry.address();
    let script = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    assert!(namespace.command(&["bash", "-c", &script]).status().unwrap().success());
}
