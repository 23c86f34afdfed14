//! The program under test: a root, and a cluster if one is wanted, on free ports in a temporary directory.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use oak_model::WallTime;
use oak_root::accounts::{Principal, Signer, TokenKind};
use serde_json::Value;

use crate::http;

/// How long a process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Processes that end with it.
pub(crate) struct System {
    pub(crate) address: SocketAddr,
    processes: Vec<Child>,
    directory: tempfile::TempDir,
}

impl System {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["root", "--listen", "127.0.0.1:0", "--dashboard", "off"];
        let (process, line) = launch(&directory.path().join("r"), &arguments, "root ready");
        let address = line["address"].as_str().unwrap().parse().unwrap();
        Self { address, processes: vec![process], directory }
    }

    /// Starts a cluster and waits until it has joined and is connected; returns the address of its port.
    pub(crate) fn add_cluster(&mut self, token: &str) -> SocketAddr {
        let root = self.address.to_string();
        let arguments =
            ["cluster", "--root", &root, "--listen", "127.0.0.1:0", "--name", "near", "--token", token];
        let (process, line) = launch(&self.directory.path().join("c"), &arguments, "cluster ready");
        self.processes.push(process);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http::send(self.address, "GET", "/api/clusters/active", &[], None).unwrap();
            if answer.body.len() > 2 {
                return line["address"].as_str().unwrap().parse().unwrap();
            }
            assert!(Instant::now() < deadline, "the cluster does not connect");
            std::thread::yield_now();
        }
    }

    /// Tokens by name that nobody may use, made from a right one.
    pub(crate) fn wrong_tokens(&self, right: &str) -> [(&'static str, String); 4] {
        // The same with another signature, and with none at all.
        let unsigned = right.rsplit_once('.').unwrap().0;
        let payload = right.split('.').nth(1).unwrap();
        [
            ("expired", self.expired(right)),
            ("forged", format!("{unsigned}.{}", "A".repeat(86))),
            ("unsigned", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.")),
            ("garbage", "not.a.token".to_owned()),
        ]
    }

    /// A token of the same user as this one that ended in 1970.
    fn expired(&self, token: &str) -> String {
        let claims = claims(token);
        let signer = Signer::open(&self.directory.path().join("r/root/jwt-key")).unwrap();
        let principal = Principal {
            user: oak_model::UserId::from_parts(1, 1),
            name: claims["sub"].as_str().unwrap().to_owned(),
            organization: claims["organization"].as_str().unwrap().parse().unwrap(),
            roles: serde_json::from_value(claims["roles"].clone()).unwrap(),
            in_root: true,
            password_version: 0,
        };
        signer.issue(TokenKind::Access, &principal, WallTime(0)).unwrap()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself; the test says so elsewhere.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The payload of a token, unchecked.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Starts a process and returns it with the log line that holds `message`.
fn launch(data: &Path, arguments: &[&str], message: &'static str) -> (Child, Value) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_oak"))
        .args(arguments)
        .arg("--data-dir")
        .arg(data)
        .env("OAK_LOG_FORMAT", "json")
        .env("OAK_LOG_FILTER", "info")
        .env("OAK_ROOT_NETWORK_API_PORT", "off")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let (found, wanted) = mpsc::channel();
    // Reads until the end, so that the process never waits for its log.
    std::thread::spawn(move || {
        let mut log = Vec::new();
        for line in lines.map_while(Result::ok) {
            if line.contains(message) {
                // Only the first one is waited for.
                let _ = found.send(line.clone());
            }
            log.push(line);
        }
        log
    });
    let line = wanted.recv_timeout(PATIENCE);
    let Ok(line) = line else {
        let _ = process.kill();
        panic!("`oak {}` did not say `{message}`", arguments.join(" "));
    };
    let line: Value = serde_json::from_str(&line).unwrap();
    let fields = line.get("fields").unwrap_or(&line).clone();
    (process, fields)
}
