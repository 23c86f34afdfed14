//! `secrets` and `registry_credentials`: which values of the organisation a service needs, and where.

use serde_json::Value;

use crate::confidential::{RegistryHost, SecretName, SecretTarget, SecretUse};

use super::errors::Findings;
use super::fields::Fields;
use super::path::Path;

/// Most secrets of one service.
const MAX_SECRETS: usize = 64;
/// Longest path of a file, bytes.
const MAX_PATH: usize = 1024;

const TARGET_RULE: &str = "either `env` (name of a variable) or `file` (absolute path), not both";
const HOST_RULE: &str =
    "the host of a registry whose credentials were stored, such as \"registry.example:5000\"";

/// Reads `secrets`.
pub(super) fn read(fields: Fields<'_>, findings: &mut Findings) -> Vec<SecretUse> {
    const KEY: &str = "secrets";
    let items = fields.list(KEY, findings);
    let list_path = fields.path.key(KEY);
    if items.len() > MAX_SECRETS {
        let allowed = format_args!("a list of at most {MAX_SECRETS} secrets");
        findings.expected(list_path, allowed, &Value::from(items.len()));
        return Vec::new();
    }
    let mut uses: Vec<SecretUse> = Vec::new();
    for (position, item) in items.iter().enumerate() {
        let path = list_path.index(position);
        let Some(one) = read_one(item, path, findings) else { continue };
        if uses.iter().any(|other| other.target == one.target) {
            let fix = "give each secret a variable or a file of its own";
            findings.refused(path, "another secret is put into the same place", item, fix);
        } else {
            uses.push(one);
        }
    }
    refuse_doubled_variables(fields, &uses, findings);
    uses
}

fn read_one(item: &Value, path: Path<'_>, findings: &mut Findings) -> Option<SecretUse> {
    let fields = Fields::of(item, &path, findings)?;
    for key in fields.map.keys().filter(|key| !["name", "env", "file"].contains(&key.as_str())) {
        findings.warn(path.key(key), "is not known here and has no effect");
    }
    let rule = "the name of a secret: 1 to 63 of a-z A-Z 0-9 _ . -";
    let name = fields.required_parsed::<SecretName>("name", rule, findings);
    let target = match (fields.text("env", findings), fields.text("file", findings)) {
        (Some(variable), None) if is_variable(variable) => SecretTarget::Env(variable.to_owned()),
        (Some(variable), None) => {
            findings.expected(
                path.key("env"),
                "the name of a variable: letters, digits and _",
                &variable.into(),
            );
            return None;
        }
        (None, Some(file)) if is_file(file) => SecretTarget::File(file.to_owned()),
        (None, Some(file)) => {
            let rule = "an absolute path without `.` and `..`, such as /run/secrets/db";
            findings.expected(path.key("file"), rule, &file.into());
            return None;
        }
        (None, None) | (Some(_), Some(_)) => {
            findings.expected(path, TARGET_RULE, item);
            return None;
        }
    };
    Some(SecretUse { name: name?, target })
}

fn is_variable(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && text.len() <= 255
        && text.bytes().all(is_plain)
}

fn is_file(text: &str) -> bool {
    let parts = text.strip_prefix('/').unwrap_or_default();
    text.len() <= MAX_PATH
        && !text.contains('\0')
        && parts.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// A variable that is set twice would have one of the two values, and nobody could tell which.
fn refuse_doubled_variables(fields: Fields<'_>, uses: &[SecretUse], findings: &mut Findings) {
    let set = fields.map.get("environment").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let names: Vec<_> = set.iter().filter_map(|entry| Some(entry.as_str()?.split_once('=')?.0)).collect();
    for one in uses {
        if let SecretTarget::Env(variable) = &one.target
            && names.contains(&variable.as_str())
        {
            let reason = "`environment` sets the same variable";
            findings.refused(
                fields.path.key("secrets"),
                reason,
                &variable.as_str().into(),
                "keep one of the two",
            );
        }
    }
}

/// Reads `registry_credentials`; an empty text asks for nothing.
pub(super) fn read_registry(fields: Fields<'_>, findings: &mut Findings) -> Option<RegistryHost> {
    const KEY: &str = "registry_credentials";
    let text = fields.text(KEY, findings).filter(|text| !text.is_empty())?;
    let host = text.parse().ok();
    if host.is_none() {
        findings.expected(fields.path.key(KEY), HOST_RULE, &text.into());
    }
    host
}
