//! A role of oak under measurement.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::{Connection, answers};
use crate::process::wait_until;

/// Address of the API.
pub(crate) const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10000);
/// Address of the demo on the host.
pub(crate) const DEMO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

const START: Duration = Duration::from_secs(30);

/// A running role; ended, with its containers, when dropped.
pub(crate) struct Oak {
    program: PathBuf,
    child: Child,
    data: PathBuf,
}

impl Oak {
    /// Starts `oak ROLE --data-dir DATA ARGUMENTS`. Its log is `DATA.log`.
    pub(crate) fn start(program: &Path, role: &str, data: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = File::create(data.with_extension("log"))?;
        let child = Command::new(program)
            .args([role, "--data-dir"])
            .arg(data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { program: program.to_owned(), child, data: data.to_owned() })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// Waits until the log has a line with `text`.
    pub(crate) fn await_log(&self, text: &str) -> anyhow::Result<()> {
        let waited = wait_until(&format!("`{text}` in the log"), START, || self.log().contains(text));
        waited.with_context(|| format!("the log says:\n{}", self.log()))
    }

    /// Directory of the containers of its worker.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("worker/containers")
    }

    /// Number of containers and of networks of instances its worker has now.
    pub(crate) fn leftovers(&self) -> usize {
        let count = |path: PathBuf| fs::read_dir(path).map_or(0, Iterator::count);
        count(self.containers()) + count(self.data.join("worker/network/ns"))
    }
}

impl Drop for Oak {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
        let mut down = Command::new(&self.program);
        down.arg("down").arg("--data-dir").arg(&self.data).stdout(Stdio::null()).stderr(Stdio::null());
        let _ = down.status();
    }
}

/// Starts all roles in one process and waits until a deployment would find a worker.
pub(crate) fn up(program: &Path, data: &Path) -> anyhow::Result<Oak> {
    let oak = Oak::start(program, "up", data, &[])?;
    oak.await_log("connected to the cluster")?;
    wait_until("the API", START, || std::net::TcpStream::connect(API).is_ok())?;
    Ok(oak)
}

/// Registers the demo application, once, with or without its host port; returns the id of its service.
pub(crate) fn register_demo(api: &mut Connection, name: &str, port: Option<&str>) -> anyhow::Result<String> {
    let text = include_str!("../../deploy/demo.json");
    let mut descriptor: Value = serde_json::from_str(text)?;
    let application = descriptor.pointer_mut("/applications/0").context("the demo has no application")?;
    application["application_name"] = name.into();
    let service = application.pointer_mut("/microservices/0").context("the demo has no service")?;
    service["port"] = port.unwrap_or("").into();
    let all = api.ask("POST", "/api/application", Some(&descriptor.to_string()))?;
    let all = all.as_array().context("the answer is no list")?;
    let own = all.iter().find(|application| application["application_name"] == name);
    let id = own.and_then(|own| own["microservices"][0].as_str());
    id.map(str::to_owned).context("the answer does not name the service")
}

/// Deploys an instance; returns its number.
pub(crate) fn deploy(api: &mut Connection, service: &str) -> anyhow::Result<u64> {
    let answer = api.ask("POST", &format!("/api/service/{service}/instance"), None)?;
    answer["instance_number"].as_u64().context("the answer has no instance number")
}

/// Takes all instances of a service down and waits until nothing is left of them.
pub(crate) fn undeploy(oak: &Oak, api: &mut Connection, service: &str) -> anyhow::Result<()> {
    api.ask("DELETE", &format!("/api/service/{service}/instance/-1"), None)?;
    wait_until("the end of the instances", START, || oak.leftovers() == 0 && !answers(DEMO))
}
