//! From a request to a running program.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::pipe::{PipeFlags, pipe_with};

use super::executor::{Plan, PlannedExecutor, candidates};
use super::overlay::{self, Devices, ROOT};
use super::rootfs::Root;
use super::spec;
use super::supervise::Started;
use super::user::{self, Identity};
use super::volumes;
use crate::cgroup::Hierarchies;
use crate::container::ContainerRequest;
use crate::error::{FailureKind, chain};
use crate::logs::LogWriter;
use crate::record::{ContainerDirectory, Failure, write_json};
use crate::seccomp;

/// Search path of images that set none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// libcontainer keeps its files here, below the container directory.
const LIBCONTAINER: &str = "oci";

/// Creates and starts the container; the program was executed when this returns.
pub(super) fn launch(
    directory: &ContainerDirectory,
    request: &ContainerRequest,
    hierarchies: &Hierarchies,
) -> Result<Started, Failure> {
    let log = LogWriter::open(&request.log.directory, request.log.max_bytes).map_err(|error| {
        let path = request.log.directory.display();
        Failure::new(FailureKind::Other, format!("cannot open log in {path}: {error}"))
    })?;
    check_host_paths(request)?;
    let devices = if request.privileged { Devices::Usable } else { Devices::Dead };
    overlay::mount_root(&request.layers, devices)?;
    let identity = prepare_inside(request)?;
    give_files(request, &identity)?;
    let environment = environment(request, &identity);
    let volumes = volumes::stage(&request.folders, &identity)?;
    let configuration = spec::configuration(request, &identity, &environment, hierarchies, &volumes);
    write_json(&directory.configuration(), &configuration)
        .map_err(|error| Failure::new(FailureKind::Other, format!("cannot write config.json: {error}")))?;

    let (failures, failures_inside) = new_pipe()?;
    let (stdout, stdout_inside) = new_pipe()?;
    let (stderr, stderr_inside) = new_pipe()?;
    // Only now: what the file holds is in no record.
    let environment = with_file(request, environment)?;
    let executor = PlannedExecutor(Rc::new(plan(request, environment, failures_inside)?));
    // the container's groups only: without any in its configuration it would get those of the worker
    rustix::thread::set_thread_groups(&[])
        .map_err(|errno| Failure::new(FailureKind::Other, format!("cannot drop groups: {errno}")))?;
    let pid = create_and_start(directory, request, executor, (stdout_inside, stderr_inside))?;
    await_execution(failures)?;
    let cgroup = hierarchies.container(&request.cgroup_parent, &request.id);
    Ok(Started { pid, stdout, stderr, log, cgroup, lease: None })
}

/// Better told here by name than by a failing mount later.
fn check_host_paths(request: &ContainerRequest) -> Result<(), Failure> {
    for mount in &request.mounts {
        std::fs::metadata(&mount.source).map_err(|error| {
            let source = mount.source.display();
            Failure::new(FailureKind::Mount, format!("cannot mount {source}: {error}"))
        })?;
    }
    let Some(namespace) = &request.network_namespace else { return Ok(()) };
    File::open(namespace).map(drop).map_err(|error| {
        let path = namespace.display();
        let message = format!("cannot open network namespace {path}: {error}");
        Failure::new(FailureKind::NetworkNamespace, message)
    })
}

fn prepare_inside(request: &ContainerRequest) -> Result<Identity, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(FailureKind::RootFilesystem, format!("cannot read users of the image: {error}"))
    };
    let root = Root::open(ROOT).map_err(|errno| unreadable(errno.into()))?;
    let passwd = root.read("etc/passwd").map_err(unreadable)?;
    let group = root.read("etc/group").map_err(unreadable)?;
    let identity = user::resolve(&request.user, &passwd, &group)?;
    let directory = spec::working_directory(request);
    root.ensure_directory(directory, (identity.uid, identity.gid)).map_err(|errno| {
        let message = format!("cannot use working directory {}: {errno}", directory.display());
        Failure::new(FailureKind::WorkingDirectory, message)
    })?;
    Ok(identity)
}

/// What the caller gave, and what every program expects if the caller did not give it.
fn environment(request: &ContainerRequest, identity: &Identity) -> Vec<String> {
    let hostname = if request.hostname.is_empty() { request.id.as_str() } else { &request.hostname };
    let defaults =
        [DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}"), format!("HOME={}", identity.home)];
    let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
    let mut all: Vec<String> = Vec::new();
    for entry in defaults.iter().chain(&request.environment) {
        match all.iter_mut().find(|known| name(known) == name(entry)) {
            Some(known) => known.clone_from(entry),
            None => all.push(entry.clone()),
        }
    }
    all
}

fn give_files(request: &ContainerRequest, identity: &Identity) -> Result<(), Failure> {
    use rustix::fs::{Gid, Uid, chown};

    for path in &request.files_for_user {
        let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        chown(path, Some(owner.0), Some(owner.1)).map_err(|errno| {
            let message = format!("cannot give {} to the user of the container: {errno}", path.display());
            Failure::new(FailureKind::Other, message)
        })?;
    }
    Ok(())
}

/// Bytes that are read of an environment file: more than the kernel passes to a program.
const ENVIRONMENT_BYTES: u64 = 2 << 20;

/// Adds the entries of the environment file; those of the same name are replaced.
fn with_file(request: &ContainerRequest, mut environment: Vec<String>) -> Result<Vec<String>, Failure> {
    let Some(path) = &request.environment_file else { return Ok(environment) };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(ENVIRONMENT_BYTES).read_to_string(&mut text)).map_err(
        |error| {
            let message = format!("cannot read the environment file {}: {error}", path.display());
            Failure::new(FailureKind::Other, message)
        },
    )?;
    for entry in text.split('\0').filter(|entry| !entry.is_empty()) {
        let name = entry.split('=').next();
        environment.retain(|known| known.split('=').next() != name);
        environment.push(entry.to_owned());
    }
    Ok(environment)
}

fn plan(request: &ContainerRequest, environment: Vec<String>, failures: OwnedFd) -> Result<Plan, Failure> {
    let filter = if request.privileged {
        None
    } else {
        Some(seccomp::program().map_err(|error| {
            Failure::new(FailureKind::Other, format!("cannot build system call filter: {}", chain(&error)))
        })?)
    };
    let programs = request.args.first().map(|program| candidates(program, &environment));
    Ok(Plan {
        args: c_strings(request.args.clone())?,
        programs: c_strings(programs.unwrap_or_default())?,
        environment: c_strings(environment)?,
        filter,
        failures,
        run_until: request.run_until,
    })
}

pub(super) fn c_strings(texts: Vec<String>) -> Result<Vec<CString>, Failure> {
    let converted = texts.into_iter().map(CString::new).collect::<Result<_, _>>();
    converted.map_err(|_| Failure::new(FailureKind::Other, "a text of the request contains a NUL byte"))
}

pub(super) fn new_pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| Failure::new(FailureKind::Other, format!("cannot make a pipe: {errno}")))
}

fn create_and_start(
    directory: &ContainerDirectory,
    request: &ContainerRequest,
    executor: PlannedExecutor,
    (stdout, stderr): (OwnedFd, OwnedFd),
) -> Result<u32, Failure> {
    let root: PathBuf = directory.path().join(LIBCONTAINER);
    let failed = |what: &str, error: &dyn std::error::Error| {
        let details = recorded_errors(directory);
        Failure::new(FailureKind::Other, format!("{what}: {}{details}", chain(error)))
    };
    let mut container = ContainerBuilder::new(request.id.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .with_root_path(root)
        .map_err(|error| failed("cannot prepare container", &error))?
        .as_init(directory.path())
        .with_systemd(false)
        .build()
        .map_err(|error| failed("cannot create container", &error))?;
    let pid = container.pid().and_then(|pid| u32::try_from(pid.as_raw()).ok());
    let pid = pid.ok_or_else(|| Failure::new(FailureKind::Other, "container has no process"))?;
    container.start().map_err(|error| failed("cannot start container", &error))?;
    Ok(pid)
}

/// Waits until the program was executed, which closes the pipe, or could not be.
pub(super) fn await_execution(failures: OwnedFd) -> Result<(), Failure> {
    let mut text = Vec::new();
    File::from(failures).take(64 << 10).read_to_end(&mut text).map_err(|error| {
        Failure::new(FailureKind::Other, format!("cannot hear from the container: {error}"))
    })?;
    if text.is_empty() {
        return Ok(());
    }
    let garbled = || Failure::new(FailureKind::Other, "the container failed before its program ran");
    Err(serde_json::from_slice(&text).unwrap_or_else(|_| garbled()))
}

/// The first lines libcontainer's processes logged: the causes that its errors do not carry.
fn recorded_errors(directory: &ContainerDirectory) -> String {
    let mut text = String::new();
    let file = File::open(directory.shim_log());
    let _ = file.and_then(|file| file.take(4000).read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().take(3).collect();
    if lines.is_empty() { String::new() } else { format!(" ({})", lines.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::LogConfig;

    #[test]
    fn entries_of_the_file_are_stronger() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("environment");
        std::fs::write(&file, "A=two lines\nof text\0C=3\0").unwrap();
        let log = LogConfig::in_directory("/log".into());
        let mut request =
            ContainerRequest::new("box".parse().unwrap(), vec!["/l".into()], vec!["sh".into()], log);
        request.environment_file = Some(file);
        let known = ["A=1", "B=2"].map(str::to_owned).to_vec();
        assert_eq!(with_file(&request, known).unwrap(), ["B=2", "A=two lines\nof text", "C=3"]);
        request.environment_file = Some("/does/not/exist".into());
        assert!(with_file(&request, Vec::new()).is_err());
    }

    #[test]
    fn the_environment_has_defaults_and_the_last_of_doubled_names() {
        let id = "box".parse().unwrap();
        let log = LogConfig::in_directory("/log".into());
        let mut request = ContainerRequest::new(id, vec!["/l".into()], vec!["sh".into()], log);
        request.environment = ["A=1", "HOME=/own", "A=2"].map(str::to_owned).to_vec();
        let identity = Identity { uid: 0, gid: 0, groups: vec![], home: "/root".into() };
        let environment = environment(&request, &identity);
        assert_eq!(environment, [DEFAULT_PATH, "HOSTNAME=box", "HOME=/own", "A=2"]);
    }
}
