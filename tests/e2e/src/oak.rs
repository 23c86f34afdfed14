//! A running `oak`.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::child_of;
use crate::{Host, eventually, soon};

/// One `oak` process on a machine, with what is needed to start it again. Its log goes on over restarts.
#[derive(Debug)]
pub struct Oak<'host> {
    host: &'host Host,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    /// Length of the log when this life began.
    log_start: u64,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// Enters the machine and waits for the process.
    entrance: Child,
    pid: i32,
}

impl Running {
    /// `nsenter` stops itself when what it waits for is stopped, and would sleep through its end. Awake again it sends
    /// SIGCONT, so this is only for a process that ends or goes on.
    fn wake_entrance(&self) {
        if let Some(pid) = i32::try_from(self.entrance.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::CONT);
        }
    }
}

impl<'host> Oak<'host> {
    /// Describes a process without starting it; `arguments` begin with the role.
    pub(crate) fn describe(
        host: &'host Host,
        binary: PathBuf,
        arguments: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let role = arguments.first().copied().unwrap_or("oak");
        Self {
            host,
            binary,
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment,
            log: host.directory().join(format!("{role}.log")),
            log_start: 0,
            running: None,
        }
    }

    /// Sets a variable of the environment for the next start.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    /// Starts the process and returns without waiting for it to be ready.
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.log.display());
        let log = OpenOptions::new().append(true).create(true).open(&self.log)?;
        self.log_start = log.metadata()?.len();
        let entrance = self
            .host
            .command("sh")
            // As services and careful administrators start things: nothing may depend on a generous umask.
            .args(["-c", "umask 077; exec \"$0\" \"$@\""])
            .arg(&self.binary)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start oak")?;
        let mut running = Running { entrance, pid: 0 };
        let found = eventually("oak has a process", soon(), || {
            let ended = running.entrance.try_wait()?;
            let child = child_of(running.entrance.id());
            // Something that ended at once is the caller's to judge.
            if ended.is_some() { Ok(0) } else { child.context("no process yet") }
        });
        running.pid = found?;
        self.running = Some(running);
        Ok(())
    }

    /// Starts the process and waits for a line of its log that contains `text`.
    ///
    /// # Errors
    /// The line does not come, or the process ends before.
    pub fn start_until(&mut self, text: &str) -> anyhow::Result<()> {
        self.start()?;
        self.wait_for_log(text)
    }

    /// Waits until the log of this life of the process contains `text`.
    ///
    /// # Errors
    /// It does not come in the usual time, or the process ends before.
    pub fn wait_for_log(&mut self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + soon();
        loop {
            // Asked first: what it wrote before its end must be seen.
            let runs = self.is_running();
            let log = self.log_of_this_life()?;
            if log.contains(text) {
                return Ok(());
            }
            if !runs || Instant::now() >= deadline {
                let state = if runs { "does not say" } else { "ended without" };
                bail!("{} {state} `{text}`:\n{}", self.arguments.join(" "), tail(&log));
            }
            crate::pause();
        }
    }

    /// What this life of the process logged.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log_of_this_life(&self) -> anyhow::Result<String> {
        let all = fs::read(&self.log)?;
        let start = usize::try_from(self.log_start)?.min(all.len());
        Ok(String::from_utf8_lossy(all.get(start..).unwrap_or_default()).into_owned())
    }

    /// File with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Id of the process, seen from the real machine.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(self.running.as_ref().context("oak does not run")?.pid)
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| matches!(running.entrance.try_wait(), Ok(None)))
    }

    /// Kills the process without warning and waits for its end.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_for_end().map(drop)
    }

    /// Asks the process to end (SIGTERM), waits for it and returns its exit code.
    ///
    /// # Errors
    /// It does not run or does not end.
    pub fn terminate(&mut self) -> anyhow::Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        self.wait_for_end()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let running = self.running.as_ref().context("oak does not run")?;
        // Its number may belong to somebody else already.
        ensure!(child_of(running.entrance.id()) == Some(running.pid), "oak has ended");
        let pid = Pid::from_raw(running.pid).context("oak ended at its start")?;
        kill_process(pid, signal).context("cannot signal oak")?;
        if signal == Signal::CONT {
            running.wake_entrance();
        }
        Ok(())
    }

    /// Waits for the end of the process and returns its exit code.
    ///
    /// # Errors
    /// It does not run or does not end in the usual time.
    pub fn wait_for_end(&mut self) -> anyhow::Result<Option<i32>> {
        let running = self.running.as_mut().context("oak does not run")?;
        let status = eventually("oak ends", soon(), || {
            running.wake_entrance();
            running.entrance.try_wait()?.context("it still runs")
        })?;
        self.running = None;
        Ok(status.code())
    }
}

impl Drop for Oak<'_> {
    fn drop(&mut self) {
        if self.running.is_some() {
            // Its machine ends with it anyway.
            let _ = self.signal(Signal::KILL);
            let _ = self.wait_for_end();
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    xtask::workspace::last_lines(log, 40)
}

/// The last lines of every log below a directory.
pub(crate) fn tails(directory: &Path) -> String {
    let mut text = String::new();
    let hosts = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = hosts.flat_map(|host| fs::read_dir(host.path()).into_iter().flatten().flatten());
    for file in files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "log"))
    {
        let log = fs::read(&file).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        text.push_str(&format!("--- end of {} ---\n{}\n", file.display(), tail(&log)));
    }
    text
}
