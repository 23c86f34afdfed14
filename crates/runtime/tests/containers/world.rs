//! A private world for one test: directories, cgroup, image; gone afterwards, whatever happened.

use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oak_runtime::{
    AdoptedState, ContainerId, ContainerRequest, CreateError, ExitStatus, LogConfig, OciConfig, OciRuntime,
    Runtime, log_tail,
};

/// Longer than anything takes on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) runtime: OciRuntime,
    pub(crate) cgroup: String,
    directory: Option<tempfile::TempDir>,
}

impl World {
    /// `None`, with a line to stderr, where the test cannot run.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let Some(busybox) = busybox() else {
            eprintln!("skipped: needs a static busybox in /bin");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        build_image(&directory.path().join("base"), &directory.path().join("users"), &busybox);
        let config = OciConfig {
            shim: PathBuf::from(env!("CARGO_BIN_EXE_oak-shim-test")),
            ..OciConfig::new(directory.path().join("state"))
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            runtime: OciRuntime::open(config).unwrap(),
            cgroup: format!("oak-test-{}-{number}", std::process::id()),
            directory: Some(directory),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state").canonicalize().unwrap()
    }

    /// A request for `sh -c script`.
    pub(crate) fn shell(&self, id: &str, script: &str) -> ContainerRequest {
        self.program(id, &["sh", "-c", script])
    }

    pub(crate) fn program(&self, id: &str, args: &[&str]) -> ContainerRequest {
        let layers = vec![self.path().join("base"), self.path().join("users")];
        let log = LogConfig::in_directory(self.log_directory(id));
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut request = ContainerRequest::new(id.parse().unwrap(), layers, args, log);
        request.cgroup_parent = self.cgroup.parse().unwrap();
        request
    }

    pub(crate) fn log_directory(&self, id: &str) -> PathBuf {
        self.path().join("logs").join(id)
    }

    /// Runs to the end and deletes: how it ended and what it said.
    pub(crate) async fn run(&self, request: ContainerRequest) -> Result<(ExitStatus, String), CreateError> {
        let id = request.id.clone();
        let (_, observer) = self.runtime.create(request).await?;
        let status = soon(observer).await;
        self.runtime.delete(&id).await.unwrap();
        Ok((status, self.said(id.as_str())))
    }

    pub(crate) fn said(&self, id: &str) -> String {
        log_tail(&self.log_directory(id), 1 << 20).unwrap()
    }

    /// Waits until the container said something.
    pub(crate) async fn hears(&self, id: &str, text: &str) {
        until(&format!("{id} says {text:?}"), || self.said(id).contains(text)).await;
    }

    /// What is left on the machine of this world's containers.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for entry in fs::read_dir(self.state()).unwrap().flatten() {
            traces.push(format!("directory {}", entry.path().display()));
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let left = hierarchy.path().join(&self.cgroup);
            if left.exists() {
                traces.push(format!("cgroup {}", left.display()));
            }
        }
        let place = self.state().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        traces.extend(mounts.lines().filter(|line| line.contains(&place)).map(str::to_owned));
        traces.extend(processes_naming(&place).iter().map(|pid| format!("process {pid}")));
        traces
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let runtime = self.runtime.clone();
        // a thread of its own: a test drops its world inside a tokio runtime
        let cleaned = std::thread::spawn(move || {
            let threads = tokio::runtime::Runtime::new().unwrap();
            threads.block_on(async {
                for left in runtime.adopt().await.unwrap() {
                    runtime.delete(&left.id).await.unwrap();
                }
            });
        });
        let cleaned = cleaned.join().is_ok();
        if std::thread::panicking() || !cleaned {
            let kept = self.directory.take().map(tempfile::TempDir::keep);
            eprintln!("kept for inspection: {kept:?}");
        }
    }
}

/// Processes whose command line names `text`.
pub(crate) fn processes_naming(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("deadline passed")
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) fn id(text: &str) -> ContainerId {
    text.parse().unwrap()
}

/// What `adopt` of a new runtime says about the only container.
pub(crate) async fn adopt_one(runtime: &OciRuntime) -> AdoptedState {
    let mut found = runtime.adopt().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).state
}

fn busybox() -> Option<PathBuf> {
    let mut places = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from);
    // dynamically linked ones need libraries that the image does not have: their name is in the file
    places.find(|path| {
        fs::read(path).is_ok_and(|bytes| !bytes.windows(13).any(|part| part == b"/ld-linux-x86"))
    })
}

fn build_image(base: &Path, users: &Path, busybox: &Path) {
    for directory in ["bin", "etc", "tmp", "proc"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    fs::copy(busybox, base.join("bin/busybox")).unwrap();
    let applets = [
        "sh", "sleep", "cat", "echo", "id", "pwd", "env", "ls", "mount", "unshare", "hostname", "kill", "dd",
        "seq", "yes", "head", "tail", "grep", "touch", "stat", "mknod", "true", "wc", "chroot", "ps",
        "ulimit", "nc", "stty", "tty",
    ];
    for applet in applets {
        symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    fs::write(base.join("etc/motd"), "lower\n").unwrap();
    fs::write(base.join("bin/not-executable"), "text").unwrap();
    fs::create_dir_all(users.join("etc")).unwrap();
    fs::write(users.join("etc/motd"), "upper\n").unwrap();
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:1001:1002::/srv:/bin/sh\n";
    fs::write(users.join("etc/passwd"), passwd).unwrap();
    fs::write(users.join("etc/group"), "root:x:0:\nweb:x:1002:\naudio:x:29:web\n").unwrap();
}
