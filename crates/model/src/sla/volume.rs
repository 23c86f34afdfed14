//! `volumes` and `added_files`: what is mounted into a container.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::container::{AddedFile, HOST_PATH, HOSTPATH_DRIVER, Volume, is_plain_folder, is_plain_path};

use super::errors::Findings;
use super::fields::Fields;
use super::path::Path;

/// Most volumes of one service.
const MAX_VOLUMES: usize = 32;
/// Most files of one service.
const MAX_FILES: usize = 64;
/// Most bytes of all added files of a service.
const MAX_FILE_BYTES: usize = 256 * 1024;
/// Longest `volume_id`, `csi_driver`, key and value of `config`, in bytes.
const MAX_TEXT_BYTES: usize = 1024;
/// Most entries of `config`.
const MAX_CONFIG: usize = 64;
/// Where volumes without `mount_path` are, as in the original.
const DEFAULT_PARENT: &str = "/mnt/csi";
/// Places whose content the kernel makes.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// Files that the worker writes for every container.
const OURS: [&str; 3] = ["/etc/hosts", "/etc/hostname", RESOLVER];
/// The one of them that an added file takes the place of.
const RESOLVER: &str = "/etc/resolv.conf";

/// Reads `volumes` and `added_files`; no place inside the container may be taken twice.
pub(super) fn read(fields: Fields<'_>, findings: &mut Findings) -> (Vec<Volume>, Vec<AddedFile>) {
    let mut taken = BTreeMap::new();
    let volumes = read_volumes(fields, &mut taken, findings);
    let files = read_files(fields, &mut taken, findings);
    (volumes, files)
}

/// Places inside the container, and the field that asks for each.
type Taken = BTreeMap<String, String>;

fn read_volumes(fields: Fields<'_>, taken: &mut Taken, findings: &mut Findings) -> Vec<Volume> {
    const KEY: &str = "volumes";
    let list_path = fields.path.key(KEY);
    let items = fields.list(KEY, findings);
    if items.len() > MAX_VOLUMES {
        findings.expected(list_path, format_args!("at most {MAX_VOLUMES} volumes"), &items.to_vec().into());
        return Vec::new();
    }
    let mut volumes = Vec::with_capacity(items.len());
    for (position, item) in items.iter().enumerate() {
        let path = list_path.index(position);
        let Some(volume) = Fields::of(item, &path, findings).and_then(|item| read_volume(item, findings))
        else {
            continue;
        };
        if OURS.contains(&volume.mount_path.as_str()) {
            refuse_ours(&volume.mount_path, path.key("mount_path"), findings);
        } else {
            take(&volume.mount_path, path.key("mount_path"), taken, findings);
        }
        volumes.push(volume);
    }
    volumes
}

fn read_volume(fields: Fields<'_>, findings: &mut Findings) -> Option<Volume> {
    super::fields::refuse_unknown(fields, &["volume_id", "csi_driver", "mount_path", "config"], findings);
    let id = fields.required_text("volume_id", "the name of the volume", findings);
    let driver =
        fields.required_text("csi_driver", &format!("the driver, such as {HOSTPATH_DRIVER}"), findings);
    let config = read_config(fields, findings);
    for (key, text) in [("volume_id", id), ("csi_driver", driver)] {
        let is_name = |text: &str| {
            !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
        };
        if let Some(text) = text.filter(|text| !is_name(text)) {
            let allowed = format_args!("1 to {MAX_TEXT_BYTES} bytes without control characters");
            findings.expected(fields.path.key(key), allowed, &text.into());
        }
    }
    let (id, driver, config) = (id?, driver?, config?);
    let mount_path = match fields.text("mount_path", findings).filter(|path| !path.is_empty()) {
        Some(path) => path.to_owned(),
        None if is_plain_folder(id) => format!("{DEFAULT_PARENT}/{id}"),
        None => {
            findings.missing(fields.path.key("mount_path"), "a path, because volume_id is not usable as one");
            return None;
        }
    };
    let volume = Volume { id: id.to_owned(), driver: driver.to_owned(), mount_path, config };
    if driver == HOSTPATH_DRIVER {
        check_hostpath(&volume, fields, findings);
    }
    Some(volume)
}

fn read_config(fields: Fields<'_>, findings: &mut Findings) -> Option<BTreeMap<String, String>> {
    const KEY: &str = "config";
    let Some(value) = fields.map.get(KEY) else { return Some(BTreeMap::new()) };
    let path = fields.path.key(KEY);
    let sent = Fields::of(value, &path, findings)?;
    if sent.map.len() > MAX_CONFIG {
        findings.expected(path, format_args!("at most {MAX_CONFIG} entries"), value);
        return None;
    }
    let mut config = BTreeMap::new();
    for key in sent.map.keys() {
        let text = sent.text(key, findings)?;
        if key.len() > MAX_TEXT_BYTES || text.len() > MAX_TEXT_BYTES {
            findings.expected(path.key(key), format_args!("at most {MAX_TEXT_BYTES} bytes"), &text.into());
        }
        config.insert(key.clone(), text.to_owned());
    }
    Some(config)
}

/// The folder must lie below the root of the volumes, wherever that is.
fn check_hostpath(volume: &Volume, fields: Fields<'_>, findings: &mut Findings) {
    let config = fields.path.key("config");
    for key in volume.config.keys().filter(|key| *key != HOST_PATH) {
        let reason = format_args!("the driver {HOSTPATH_DRIVER} knows only `{HOST_PATH}`");
        findings.refused(config.key(key), reason, &Value::Null, "remove it");
    }
    if is_plain_folder(volume.folder()) {
        return;
    }
    let place =
        if volume.folder() == volume.id { fields.path.key("volume_id") } else { config.key(HOST_PATH) };
    let reason = "leads out of the folder of the volumes, or is not written in its shortest form";
    let fix = "write a relative path such as shop/data, without `.`, `..`, `//` and a `/` at either end";
    findings.refused(place, reason, &volume.folder().into(), fix);
}

fn read_files(fields: Fields<'_>, taken: &mut Taken, findings: &mut Findings) -> Vec<AddedFile> {
    const KEY: &str = "added_files";
    let list_path = fields.path.key(KEY);
    let texts = fields.texts(KEY, findings);
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    if texts.len() > MAX_FILES || bytes > MAX_FILE_BYTES {
        let allowed = format_args!("at most {MAX_FILES} files of at most {MAX_FILE_BYTES} bytes together");
        if let Some(value) = fields.map.get(KEY) {
            findings.expected(list_path, allowed, value);
        }
        return Vec::new();
    }
    let mut files = Vec::with_capacity(texts.len());
    for (position, text) in texts.into_iter().enumerate() {
        let path = list_path.index(position);
        match text.parse::<AddedFile>() {
            Ok(file) => {
                if OURS.contains(&file.path()) && file.path() != RESOLVER {
                    refuse_ours(file.path(), path, findings);
                } else {
                    take(file.path(), path, taken, findings);
                }
                files.push(file);
            }
            Err(problem) => findings.expected(path, problem, &text.into()),
        }
    }
    files
}

/// Refuses what the worker writes itself.
fn refuse_ours(target: &str, path: Path<'_>, findings: &mut Findings) {
    let fix = "add your file under another path";
    findings.refused(path, "the worker writes this file for every container", &target.into(), fix);
}

/// Checks a place inside the container and takes it.
fn take(target: &str, path: Path<'_>, taken: &mut Taken, findings: &mut Findings) {
    let is_below = |parent: &str| {
        target.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !is_plain_path(target) {
        let allowed = "an absolute path below /, without `.`, `..`, `//` and a `/` at the end";
        findings.expected(path, allowed, &target.into());
    } else if let Some(parent) = KERNEL.iter().find(|parent| is_below(parent)) {
        findings.refused(
            path,
            format_args!("{parent} belongs to the kernel"),
            &target.into(),
            "choose another path",
        );
    } else if let Some(other) = taken.insert(target.to_owned(), path.to_string()) {
        findings.refused(path, format_args!("is taken by {other}"), &target.into(), "choose another path");
    }
}
