//! Secrets of instances: sealed on disk, opened for the start of a container, and then only in memory.
//!
//! What programs see lies in a tmpfs, never on a disk: `/run/oakestra/<worker>/<instance>/environment` (read by the shim
//! before it executes the program) and `…/<number>`, one per file, shown inside.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oak_image::Credentials;
use oak_model::confidential::RegistryLogin;
use oak_model::message::DesiredInstance;
use oak_model::{InstanceKey, Material, Purpose, SecretName, SecretTarget};
use oak_runtime::BindMount;
use oak_store::{SealError, Sealer};
use rustix::mount::{MountFlags, mount};
use sha2::{Digest, Sha256};

/// Where the secrets of all workers of this machine are. Empty after a reboot.
const PLACE: &str = "/run/oakestra";
/// Largest size of a tmpfs of our own, if `/run` is none.
const SIZE: &std::ffi::CStr = c"size=16m,mode=0700";
const TMPFS: i64 = 0x0102_1994;
/// Bytes of environment that a program run inside gets besides: a request to the runtime has 32 KiB.
const EXEC_BYTES: usize = 16 << 10;

/// The secrets of this worker's instances.
#[derive(Debug)]
pub(crate) struct Secrets {
    sealer: Sealer,
    directory: PathBuf,
}

/// What a container gets.
#[derive(Debug, Default)]
pub(crate) struct Provided {
    /// File with `NAME=value` entries, each ended by a NUL.
    pub(crate) environment: Option<PathBuf>,
    /// Files.
    pub(crate) mounts: Vec<BindMount>,
}

/// Why a container does not get what it needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("secret `{0}` is not known here: store it again at the root (`oak secret set {0}`)")]
    Missing(SecretName),
    #[error("secret `{0}` is no text without NUL bytes and cannot be put into a variable: use `file`")]
    NoText(SecretName),
    #[error("cannot open a secret")]
    Sealed(#[from] SealError),
    #[error("cannot keep secrets in {path}")]
    Place { path: PathBuf, source: io::Error },
}

impl Secrets {
    /// Opens the key in the worker's directory.
    pub(crate) fn open(directory: &Path) -> Result<Self, SealError> {
        Ok(Self { sealer: Sealer::open(directory)?, directory: place_of(directory) })
    }

    /// Seals the values of a wish, before it is stored.
    pub(crate) fn protect(&self, wish: &mut DesiredInstance) {
        self.sealer.protect(wish);
    }

    /// How to log in to the registry of an image, if that is known.
    pub(crate) fn login(&self, material: &[Material]) -> Result<Option<Credentials>, SealError> {
        let registry = material.iter().find(|known| matches!(known.purpose, Purpose::Registry(_)));
        let Some(registry) = registry else { return Ok(None) };
        let value = self.sealer.open_value(&registry.purpose, &registry.value)?;
        let login: RegistryLogin =
            serde_json::from_slice(&value).map_err(|_| SealError::Sealed(registry.purpose.clone()))?;
        Ok(Some(Credentials { username: login.username, password: login.password }))
    }

    /// Puts the secrets of an instance where its container finds them.
    pub(crate) fn provide(&self, desired: &DesiredInstance) -> Result<Provided, SecretError> {
        let mut provided = Provided::default();
        if desired.spec.secrets.is_empty() {
            return Ok(provided);
        }
        let directory = self.directory.join(desired.key.to_string());
        let failed = |source| SecretError::Place { path: directory.clone(), source };
        prepare(&self.directory).map_err(failed)?;
        self.forget(desired.key);
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let mut environment = Vec::new();
        for (number, secret) in desired.spec.secrets.iter().enumerate() {
            let value = self.value(&desired.material, &secret.name)?;
            match &secret.target {
                SecretTarget::Env(variable) => {
                    if value.contains(&0) || std::str::from_utf8(&value).is_err() {
                        return Err(SecretError::NoText(secret.name.clone()));
                    }
                    environment.extend_from_slice(variable.as_bytes());
                    environment.push(b'=');
                    environment.extend_from_slice(&value);
                    environment.push(0);
                }
                SecretTarget::File(target) => {
                    let source = directory.join(number.to_string());
                    write(&source, &value).map_err(failed)?;
                    let target = PathBuf::from(target);
                    provided.mounts.push(BindMount { source, target, read_only: true });
                }
            }
        }
        if !environment.is_empty() {
            let path = directory.join("environment");
            write(&path, &environment).map_err(failed)?;
            provided.environment = Some(path);
        }
        Ok(provided)
    }

    fn value(&self, material: &[Material], name: &SecretName) -> Result<Vec<u8>, SecretError> {
        let is_meant = |known: &&Material| matches!(&known.purpose, Purpose::Secret(known) if known == name);
        let material = material.iter().find(is_meant).ok_or_else(|| SecretError::Missing(name.clone()))?;
        Ok(self.sealer.open_value(&material.purpose, &material.value)?)
    }

    /// The secret variables of a running instance, for programs that are run inside it.
    pub(crate) fn environment_of(&self, key: InstanceKey) -> Vec<String> {
        let path = self.directory.join(key.to_string()).join("environment");
        let text = fs::read(path).unwrap_or_default();
        let mut room = EXEC_BYTES;
        let entries = text.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        let fits = entries.filter(|entry| match room.checked_sub(entry.len()) {
            Some(rest) => {
                room = rest;
                true
            }
            None => {
                tracing::warn!(instance = %key, "a secret variable is too large for a program run inside");
                false
            }
        });
        fits.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
    }

    /// Removes what an instance had.
    pub(crate) fn forget(&self, key: InstanceKey) {
        remove(&self.directory.join(key.to_string()));
    }

    /// Removes what belongs to no instance.
    pub(crate) fn sweep(&self, is_wanted: impl Fn(InstanceKey) -> bool) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let key = entry.file_name().to_str().and_then(|name| name.parse::<InstanceKey>().ok());
            if !key.is_some_and(&is_wanted) {
                remove(&entry.path());
            }
        }
    }
}

/// Removes the secrets of a worker that is taken down.
pub(crate) fn remove_all(worker: &Path) {
    remove(&place_of(worker));
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove secrets");
    }
}

/// Workers of one machine are told apart by their directories.
fn place_of(worker: &Path) -> PathBuf {
    let worker = worker.canonicalize().unwrap_or_else(|_| worker.to_owned());
    let hash = Sha256::digest(worker.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Path::new(PLACE).join(name)
}

/// Makes the directory of this worker, in memory.
fn prepare(directory: &Path) -> io::Result<()> {
    let place = Path::new(PLACE);
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    #[allow(clippy::useless_conversion, reason = "narrower on 32-bit machines")]
    let kind = i64::from(rustix::fs::statfs(place)?.f_type);
    if kind != TMPFS {
        mount("oakestra-secrets", place, "tmpfs", MountFlags::NODEV | MountFlags::NOEXEC, SIZE)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use base64::Engine as _;
    use oak_model::{
        ApplicationId, Confidential, Generation, SecretUse, ServiceId, ServiceSpec, Surroundings,
    };

    use super::*;

    fn wish(secrets: Vec<(&str, SecretTarget, Option<&[u8]>)>) -> DesiredInstance {
        let uses = secrets
            .iter()
            .map(|(name, target, _)| SecretUse { name: name.parse().unwrap(), target: target.clone() });
        let spec = ServiceSpec { secrets: uses.collect(), ..ServiceSpec::default() };
        let clear = |value: &[u8]| {
            Confidential::Clear(base64::engine::general_purpose::STANDARD.encode(value).into())
        };
        let material = secrets.iter().filter_map(|(name, _, value)| {
            let purpose = Purpose::Secret(name.parse().unwrap());
            Some(Material { purpose, version: 1, value: clear((*value)?) })
        });
        let name = || "a".parse().unwrap();
        DesiredInstance {
            key: InstanceKey { service: ServiceId::from_parts(1, 1), number: 0 },
            generation: Generation(1),
            application: ApplicationId::from_parts(1, 1),
            job_name: oak_model::JobName {
                application: name(),
                application_namespace: name(),
                service: name(),
                service_namespace: name(),
            },
            surroundings: Surroundings::default(),
            material: material.collect(),
            spec: Arc::new(spec),
            service_addresses: Vec::new(),
            policies: std::collections::BTreeMap::new(),
            instance_address: Ipv4Addr::new(10, 30, 0, 1),
        }
    }

    #[test]
    fn values_are_sealed_in_rows_and_clear_in_memory_only() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let worker = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(worker.path()).unwrap();
        let mut wish = wish(vec![
            ("a", SecretTarget::Env("A".into()), Some(b"hunter2")),
            ("b", SecretTarget::File("/run/secrets/b".into()), Some(&[0, 255])),
        ]);
        secrets.protect(&mut wish);
        let row = serde_json::to_string(&wish).unwrap();
        assert!(!row.contains("aHVudGVyMg"), "{row}");
        let provided = secrets.provide(&wish).unwrap();
        assert_eq!(fs::read(provided.environment.unwrap()).unwrap(), b"A=hunter2\0");
        assert_eq!(fs::read(&provided.mounts[0].source).unwrap(), [0, 255]);
        assert_eq!(secrets.environment_of(wish.key), ["A=hunter2"]);
        secrets.sweep(|_| false);
        assert_eq!(secrets.environment_of(wish.key), [""; 0]);
        remove_all(worker.path());
    }

    #[test]
    fn what_is_missing_or_fits_nowhere_is_named() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let worker = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(worker.path()).unwrap();
        let missing = wish(vec![("a", SecretTarget::Env("A".into()), None)]);
        assert!(matches!(secrets.provide(&missing), Err(SecretError::Missing(name)) if name.as_str() == "a"));
        let mut binary = wish(vec![("a", SecretTarget::Env("A".into()), Some(b"a\0b"))]);
        secrets.protect(&mut binary);
        assert!(matches!(secrets.provide(&binary), Err(SecretError::NoText(_))));
        remove_all(worker.path());
    }
}
