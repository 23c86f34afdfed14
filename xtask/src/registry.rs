//! A private image registry for tests: Debian's `docker-registry` over a directory, for as long as a value lives.
//!
//! The registry listens on a port of the kernel's choice unless told otherwise. It ends when the value is dropped and
//! also when the process that holds it is killed: a small shell stands between, whose standard input closes then.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::workspace::last_lines;

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Runs the command after its first argument until standard input ends, then stops it.
const GUARD: &str = r#""$@" </dev/null & child=$!
trap 'kill "$child" 2>/dev/null' TERM
IFS= read -r _
kill "$child" 2>/dev/null
wait "$child""#;

/// How a registry is started; [`Options::default`] listens on loopback at a free port.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Words put before the command, such as `ip netns exec NAME`.
    pub command_prefix: Vec<OsString>,
    /// Where the images are; `None`: below the registry's directory.
    pub storage: Option<PathBuf>,
    /// Who may pull, as lines of an `htpasswd` file with bcrypt hashes; `None`: everybody.
    pub users: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            command_prefix: Vec::new(),
            storage: None,
            users: None,
        }
    }
}

/// A running registry; stopped on drop. Its images stay in the directory.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    log: PathBuf,
    guard: Child,
}

impl Registry {
    /// Starts a registry that keeps its images in `directory`, and returns when it answers.
    ///
    /// # Errors
    ///
    /// If `docker-registry` is not installed or does not answer within 20 s; the error then carries the end of its log.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        Self::start_with(directory, &Options::default())
    }

    /// Like [`Registry::start`], elsewhere than on loopback.
    ///
    /// # Errors
    ///
    /// As [`Registry::start`].
    pub fn start_with(directory: &Path, options: &Options) -> anyhow::Result<Self> {
        let directory =
            std::path::absolute(directory).context("the registry's directory must have a name")?;
        let storage = options.storage.clone().unwrap_or_else(|| directory.join("storage"));
        std::fs::create_dir_all(&storage).with_context(|| format!("cannot create {}", storage.display()))?;
        let configuration = directory.join("registry.yml");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut text = configuration_of(&storage, options.listen);
        if let Some(users) = &options.users {
            let file = directory.join("htpasswd");
            std::fs::write(&file, users).with_context(|| format!("cannot write {}", file.display()))?;
            let file = serde_json::Value::from(file.to_string_lossy());
            text.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {file}\n"));
        }
        std::fs::write(&configuration, text)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let log = directory.join("registry.log");
        let output =
            std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .args(&options.command_prefix)
            .args(["docker-registry", "serve"])
            .arg(&configuration)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start a shell for docker-registry")?;
        // From here on dropping the value stops the process, whatever fails.
        let mut registry = Self { address: options.listen, log, guard };
        registry.address = registry.wait_until_listening()?;
        if options.command_prefix.is_empty() && options.users.is_none() {
            registry.wait_until_answering()?;
        }
        Ok(registry)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`, as [`crate::images::push_all`] takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it writes its log, with one line per request.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn wait_until_listening(&self) -> anyhow::Result<SocketAddr> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(address) = listening_address(&log) {
                return Ok(address);
            }
            let broken = ["level=fatal", "panic:", "not found", "configuration error"];
            if broken.iter().any(|sign| log.contains(sign)) || Instant::now() >= deadline {
                bail!("docker-registry did not start (is it installed?):\n{}", last_lines(&log, 10));
            }
            pause();
        }
    }

    fn wait_until_answering(&self) -> anyhow::Result<()> {
        let agent = ureq::Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(2)))
            .build()
            .new_agent();
        let url = format!("{}/v2/", self.url());
        let deadline = Instant::now() + READY_WITHIN;
        while let Err(error) = agent.get(&url).call() {
            if Instant::now() >= deadline {
                return Err(error).with_context(|| format!("{url} does not answer"));
            }
            pause();
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let deadline = Instant::now() + STOPPED_WITHIN;
        while matches!(self.guard.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                // Nothing more can be done in a destructor than to try.
                let _ = self.guard.kill();
                let _ = self.guard.wait();
                return;
            }
            pause();
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the interval of a poll that has a deadline")]
fn pause() {
    std::thread::sleep(POLL_EVERY);
}

fn configuration_of(storage: &Path, listen: SocketAddr) -> String {
    // A JSON string is a YAML string, whatever is in the path.
    let storage = serde_json::Value::from(storage.to_string_lossy());
    format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {storage}\n  delete:\n    enabled: true\n\
         http:\n  addr: \"{listen}\"\n  relativeurls: true\n  secret: not-a-secret-only-for-tests\n"
    )
}

/// Finds the address in the line `… msg="listening on 127.0.0.1:40001" …`.
fn listening_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("listening on ")?;
    // The line may be half written; only what is closed by the quote counts.
    let (address, _) = rest.split_once('"')?;
    address.trim_end_matches(|mark: char| mark == ',' || mark.is_whitespace()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_a_complete_line_only() {
        let line = "time=\"x\" level=info msg=\"listening on 127.0.0.1:40001\" go.version=go1.19";
        assert_eq!(listening_address(line), Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 40001))));
        assert_eq!(listening_address("msg=\"listening on 127.0.0.1:400"), None);
    }

    #[test]
    fn the_configuration_survives_a_strange_path() {
        let text = configuration_of(Path::new("/a \"b\": c"), Options::default().listen);
        assert!(text.contains(r#"rootdirectory: "/a \"b\": c""#), "{text}");
    }
}
