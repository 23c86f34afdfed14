//! The frame of a scenario: a directory, a switch, a registry, machines.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use xtask::images::{self, Layout, build_all, push_all};
use xtask::registry::{Options, Registry};
use xtask::workspace::target_directory;

use crate::cable::Cable;
use crate::host::{Families, switch6};
use crate::oak::tails;
use crate::variant::{Variant, push};
use crate::{Host, Oak, cgroup};

const REGISTRY_PORT: u16 = 5000;
const PRIVATE_PORT: u16 = 5001;
/// Of `hunter3`, by bcrypt.
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuu1cSQmXltMZdCm6kweO057j1TtIrg35W";

/// What the machines of a scenario share.
#[derive(Debug)]
pub struct World {
    directory: PathBuf,
    switch: Host,
    layout: Layout,
    registry: Option<Registry>,
    /// Held until the end: scenarios measure and must not run side by side.
    _turn: File,
}

impl World {
    /// Runs a scenario. Its files are removed when it succeeds; otherwise the ends of the logs are printed and the
    /// directory is named.
    ///
    /// # Errors
    /// Those of the scenario.
    #[allow(clippy::print_stderr, reason = "for the person who runs the tests")]
    pub fn run(name: &str, scenario: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return Ok(());
        }
        let mut world = Self::create(name)?;
        let result = scenario(&mut world);
        let directory = world.directory.clone();
        match &result {
            Ok(()) => {
                drop(world);
                fs::remove_dir_all(&directory)
                    .with_context(|| format!("cannot remove {}", directory.display()))?;
            }
            Err(_) => eprintln!("{}all files of this run are in {}", tails(&directory), directory.display()),
        }
        result
    }

    fn create(name: &str) -> anyhow::Result<Self> {
        let base = target_directory().join("e2e");
        fs::create_dir_all(&base)?;
        let turn = File::create(base.join("turn.lock"))?;
        turn.lock().context("cannot wait for the turn of this scenario")?;
        cgroup::remove_leftovers();
        let directory = base.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        let layout = build_all(&images::default_directory())?;
        let switch = Host::create("switch", &directory, Ipv4Addr::new(10, 99, 0, 1), None)?;
        for words in [
            &["ip", "link", "add", "name", "br0", "type", "bridge"][..],
            &["ip", "address", "add", "10.99.0.1/24", "dev", "br0"],
            &["ip", "address", "add", &format!("{}/64", switch6(1)), "dev", "br0", "nodad"],
            &["ip", "link", "set", "br0", "up"],
        ] {
            switch.check(words)?;
        }
        let mut world = Self { directory, switch, layout, registry: None, _turn: turn };
        world.start_registry()?;
        let url = format!("http://{}", world.registry_address());
        world.switch.within(|| push_all(&world.layout, &url))??;
        Ok(world)
    }

    /// The machine that is the switch: a place on the network without oak.
    pub fn switch(&self) -> &Host {
        &self.switch
    }

    /// Directory of the scenario.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new machine; `number` is the last part of its address, 2–254.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn host(&self, name: &str, number: u8) -> anyhow::Result<Host> {
        self.plugged(name, number, None)
    }

    /// A new machine on a [`Cable`], whose conditions can be changed and which can be cut.
    ///
    /// # Errors
    /// As [`World::host`].
    pub fn host_on_cable(&self, name: &str, number: u8) -> anyhow::Result<Host> {
        self.plugged(name, number, Some(Cable::new(number.into())))
    }

    /// A new machine with these addresses.
    ///
    /// # Errors
    /// As [`World::host`].
    pub fn host_with(&self, name: &str, number: u8, families: Families) -> anyhow::Result<Host> {
        let host = Host::create(name, &self.directory, Ipv4Addr::new(10, 99, 0, number), None)?;
        let host = host.with_families(families);
        host.plug_into(&self.switch, self.switch.address())?;
        Ok(host)
    }

    fn plugged(&self, name: &str, number: u8, cable: Option<Cable>) -> anyhow::Result<Host> {
        let host = Host::create(name, &self.directory, Ipv4Addr::new(10, 99, 0, number), cable)?;
        host.plug_into(&self.switch, self.switch.address())?;
        Ok(host)
    }

    /// Switches a machine on again after [`Host::power_off`]. Nothing runs on it yet.
    ///
    /// # Errors
    /// It is on already, or the kernel refuses.
    pub fn power_on(&self, host: &Host) -> anyhow::Result<()> {
        host.boot()?;
        host.plug_into(&self.switch, self.switch.address())
    }

    /// Address of the registry on the network of the machines.
    pub fn registry_address(&self) -> SocketAddr {
        SocketAddr::from((self.switch.address(), REGISTRY_PORT))
    }

    /// Starts the registry; it has the images of every earlier scenario.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_registry(&mut self) -> anyhow::Result<()> {
        ensure!(self.registry.is_none(), "the registry runs already");
        let target = self.switch.pid().to_string();
        let prefix = ["nsenter", "--target", &target, "--net", "--"].map(Into::into).to_vec();
        // Of both families.
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, REGISTRY_PORT));
        let options = Options { listen, command_prefix: prefix, ..Options::default() };
        self.registry = Some(Registry::start_with(&target_directory().join("e2e/registry"), &options)?);
        self.switch.wait_for_port(self.registry_address())
    }

    /// Starts a second registry with the same images that asks `puller` for the password `hunter3`. Returns it with its
    /// address; it ends when it is dropped.
    ///
    /// # Errors
    /// It does not start.
    pub fn private_registry(&self) -> anyhow::Result<(Registry, SocketAddr)> {
        let target = self.switch.pid().to_string();
        let prefix = ["nsenter", "--target", &target, "--net", "--"].map(Into::into).to_vec();
        let options = Options {
            listen: SocketAddr::from((self.switch.address(), PRIVATE_PORT)),
            command_prefix: prefix,
            storage: Some(target_directory().join("e2e/registry/storage")),
            users: Some(format!("puller:{PASSWORD_HASH}\n")),
        };
        let registry = Registry::start_with(&self.directory.join("private"), &options)?;
        self.switch.wait_for_port(options.listen)?;
        Ok((registry, options.listen))
    }

    /// Stops the registry.
    pub fn stop_registry(&mut self) {
        self.registry = None;
    }

    /// Pushes the curl image as `REGISTRY/repository:latest` with a layer of random bytes that no image had before,
    /// said to be for `architecture` if one is given. Returns its name in descriptors.
    ///
    /// # Errors
    /// The registry does not take it.
    pub fn push_variant(
        &self,
        repository: &str,
        architecture: Option<&str>,
        extra_bytes: usize,
    ) -> anyhow::Result<String> {
        let registry = self.registry_address();
        let url = format!("http://{registry}");
        let wanted = Variant { repository, architecture, extra_bytes };
        self.switch.within(|| push(&url, &self.layout, &self.directory, wanted))??;
        Ok(format!("{registry}/{repository}:latest"))
    }

    /// The program under test: `OAK_BINARY`, else what `cargo build -p oak-cli` makes.
    ///
    /// # Errors
    /// There is none.
    pub fn binary(&self) -> anyhow::Result<PathBuf> {
        let built = || target_directory().join("debug/oak");
        let path = std::env::var_os("OAK_BINARY").map_or_else(built, PathBuf::from);
        let path = std::path::absolute(path)?;
        ensure!(path.is_file(), "{} is not there: run `cargo build -p oak-cli`", path.display());
        Ok(path)
    }

    /// An `oak` that is not started yet. It keeps its state in the machine's directory `data` and asks the registry
    /// of this world instead of docker.io. `OAK_E2E_LOG` sets its log filter.
    ///
    /// # Errors
    /// There is no program.
    pub fn oak<'host>(&self, host: &'host Host, arguments: &[&str]) -> anyhow::Result<Oak<'host>> {
        let data = host.directory().join("data");
        let registry = match host.reached_by(&self.switch) {
            IpAddr::V4(_) => self.registry_address(),
            IpAddr::V6(_) => SocketAddr::from((switch6(1), REGISTRY_PORT)),
        };
        let registry = registry.to_string();
        let filter = std::env::var("OAK_E2E_LOG").unwrap_or_else(|_| "info".to_owned());
        let environment = [
            ("OAK_LOG_FILTER", filter),
            ("OAK_DATA_DIR", data.to_string_lossy().into_owned()),
            ("OAK_IMAGES_MIRRORS", format!("docker.io={registry}")),
            ("OAK_IMAGES_PLAIN_HTTP", format!("{registry},{}:{PRIVATE_PORT}", self.switch.address())),
            ("OAK_WORKER_VOLUMES_ROOT", host.directory().join("volumes").to_string_lossy().into_owned()),
            ("RUST_BACKTRACE", "1".to_owned()),
        ];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Oak::describe(host, self.binary()?, arguments, environment))
    }

    /// Runs a command of `oak` on a machine to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn command(&self, host: &Host, words: &[&str]) -> anyhow::Result<crate::Output> {
        let (binary, data) = (self.binary()?, host.directory().join("data"));
        let (binary, data) = (binary.to_string_lossy(), data.to_string_lossy());
        let words: Vec<&str> = std::iter::once(&*binary).chain(words.iter().copied()).collect();
        host.run_with(&words, &[("OAK_DATA_DIR", &data)])
    }
}
