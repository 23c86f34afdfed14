//! From an assignment and an image to a container request.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oak_image::Image;
use oak_model::container::HOSTPATH_DRIVER;
use oak_model::message::Assignment;
use oak_model::{AddedFile, InstanceKey, Volume};
use oak_runtime::{
    BindMount, CgroupParent, ContainerId, ContainerRequest, FolderMount, InvalidRequest, Limits, LogConfig,
};

use crate::secrets::Provided;

/// Processes and threads an instance may have. Far above what services use, far below what would hurt the node.
const MAX_PIDS: u32 = 4096;

/// Label under which the runtime keeps the instance a container belongs to.
pub(crate) const INSTANCE_LABEL: &str = "oakestra.instance";

/// Label under which the runtime keeps the GPUs of a container.
pub(crate) const GPU_LABEL: &str = "oakestra.gpus";

/// Where the worker keeps what belongs to its containers.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Output, kept over restarts of an instance.
    pub(crate) logs: PathBuf,
    /// Files shown inside.
    pub(crate) files: PathBuf,
    /// Folders of volumes, if it offers any.
    pub(crate) volumes: Option<PathBuf>,
    /// Cgroup of all containers of this worker.
    pub(crate) cgroup: CgroupParent,
}

impl Places {
    pub(crate) fn log_directory(&self, key: InstanceKey) -> PathBuf {
        self.logs.join(key.to_string())
    }

    pub(crate) fn file_directory(&self, key: InstanceKey) -> PathBuf {
        self.files.join(key.to_string())
    }
}

/// Name of the container of an instance.
pub(crate) fn container_id(key: InstanceKey) -> Result<ContainerId, InvalidRequest> {
    key.to_string().parse()
}

/// Why a container cannot even be asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("neither the descriptor (`cmd`) nor the image says what to run: set `cmd`")]
    NoCommand,
    #[error("the descriptor cannot be turned into a container")]
    Invalid(#[from] InvalidRequest),
    #[error("this worker does not offer volume driver {driver}")]
    NoDriver { driver: String },
    #[error("cannot write {path}")]
    File { path: PathBuf, source: std::io::Error },
}

/// The network a container gets.
pub(crate) struct Attachment<'a> {
    /// Its address in the node's subnet.
    pub(crate) address: Ipv4Addr,
    /// File of its network namespace.
    pub(crate) namespace: &'a Path,
    /// Text of its `/etc/resolv.conf`, unless the descriptor has one.
    pub(crate) resolver: &'a str,
}

/// Everything the runtime needs to know.
pub(crate) fn request(
    assignment: &Assignment,
    image: &Image,
    attachment: &Attachment<'_>,
    places: &Places,
    secrets: Provided,
) -> Result<ContainerRequest, RequestError> {
    let desired = &assignment.desired;
    let spec = &desired.spec;
    let hostname = format!("instance-{}", desired.key.number);
    let args = if spec.command.is_empty() {
        image.config.entrypoint.iter().chain(&image.config.cmd).cloned().collect()
    } else {
        spec.command.clone()
    };
    if args.is_empty() {
        return Err(RequestError::NoCommand);
    }
    let log = LogConfig::in_directory(places.log_directory(desired.key));
    let mut request = ContainerRequest::new(container_id(desired.key)?, image.layers.clone(), args, log);
    request.labels.insert(INSTANCE_LABEL.to_owned(), desired.key.to_string());
    request.environment = environment(&image.config.env, &hostname, &spec.environment);
    if !image.config.working_dir.is_empty() {
        request.working_directory = PathBuf::from(&image.config.working_dir);
    }
    request.user.clone_from(&image.config.user);
    request.network_namespace = Some(attachment.namespace.to_owned());
    request.limits = Limits {
        memory_bytes: some_if_set(u64::from(spec.resources.memory_mib) << 20),
        cpu_millis: some_if_set(u64::from(spec.resources.cpu_millis)),
        pids: Some(MAX_PIDS),
        storage_bytes: some_if_set(u64::from(spec.resources.storage_mib) << 20),
    };
    let files = places.file_directory(desired.key);
    request.folders = folders(&spec.volumes, places)?;
    request.mounts = mounts(&files, &hostname, attachment)?;
    let added = added_files(&files, &spec.added_files)?;
    // The descriptor may have its own resolver settings.
    request.mounts.retain(|ours| added.iter().all(|theirs| theirs.target != ours.target));
    request.mounts.extend(added);
    request.files_for_user = secrets.mounts.iter().map(|mount| mount.source.clone()).collect();
    request.mounts.extend(secrets.mounts);
    request.environment_file = secrets.environment;
    request.hostname = hostname;
    request.privileged = spec.privileged;
    if !image.config.stop_signal.is_empty() {
        request.stop_signal = image.config.stop_signal.parse()?;
    }
    request.cgroup_parent = places.cgroup.clone();
    Ok(request)
}

const fn some_if_set(value: u64) -> Option<u64> {
    if value == 0 { None } else { Some(value) }
}

/// Later entries replace earlier ones of the same name: image, then host name, then descriptor.
fn environment(image: &[String], hostname: &str, descriptor: &[String]) -> Vec<String> {
    let hostname = [format!("HOSTNAME={hostname}")];
    let mut entries: Vec<String> = Vec::new();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    for entry in std::iter::once(&path).chain(image).chain(&hostname).chain(descriptor) {
        let name = entry.split('=').next().unwrap_or_default();
        entries.retain(|earlier| earlier.split('=').next() != Some(name));
        entries.push(entry.clone());
    }
    entries
}

/// The folders of volumes, outer ones first, so that they do not hide inner ones.
fn folders(volumes: &[Volume], places: &Places) -> Result<Vec<FolderMount>, RequestError> {
    let mut folders = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let root = places.volumes.clone().filter(|_| volume.driver == HOSTPATH_DRIVER);
        let Some(root) = root else { return Err(RequestError::NoDriver { driver: volume.driver.clone() }) };
        folders.push(FolderMount {
            root,
            folder: volume.folder().into(),
            target: (&volume.mount_path).into(),
        });
    }
    folders.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(folders)
}

/// Writes a file that is shown inside. Not anew for every restart: flash wears out, and a full disk takes nothing.
fn write(path: PathBuf, content: &[u8]) -> Result<PathBuf, RequestError> {
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(path);
    }
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(&path, content))
        // Programs of every user read it.
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o444)))
        .map_err(|source| RequestError::File { path: path.clone(), source })?;
    Ok(path)
}

/// The files of the descriptor.
fn added_files(directory: &Path, files: &[AddedFile]) -> Result<Vec<BindMount>, RequestError> {
    let mut mounts = Vec::with_capacity(files.len());
    for (number, file) in files.iter().enumerate() {
        let source = write(directory.join("added").join(number.to_string()), file.content())?;
        mounts.push(BindMount { source, target: file.path().into(), read_only: true });
    }
    Ok(mounts)
}

/// Name resolution inside: the name server, and the instance's own name.
fn mounts(
    directory: &Path,
    hostname: &str,
    attachment: &Attachment<'_>,
) -> Result<Vec<BindMount>, RequestError> {
    let Attachment { address, resolver, .. } = attachment;
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{address}\t{hostname}\n");
    let write = |name: &str, text: &str| write(directory.join(name), text.as_bytes());
    Ok(vec![
        BindMount { source: write("hosts", &hosts)?, target: "/etc/hosts".into(), read_only: true },
        BindMount {
            source: write("hostname", &format!("{hostname}\n"))?,
            target: "/etc/hostname".into(),
            read_only: true,
        },
        BindMount {
            source: write("resolv.conf", resolver)?,
            target: "/etc/resolv.conf".into(),
            read_only: true,
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_wins_over_the_image() {
        let image = ["PATH=/bin".to_owned(), "A=1".to_owned()];
        let entries = environment(&image, "instance-0", &["A=2".to_owned(), "B=x=y".to_owned()]);
        assert_eq!(entries, ["PATH=/bin", "HOSTNAME=instance-0", "A=2", "B=x=y"]);
    }
}
