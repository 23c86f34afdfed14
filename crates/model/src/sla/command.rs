//! Command lines and environments: what the kernel can take and nothing that would be cut off on the way.

use super::errors::Findings;
use super::fields::Fields;

/// Most entries of `cmd` and of `environment`.
const MAX_ENTRIES: usize = 1000;
/// Most bytes of all entries of one list together. Linux takes 128 KiB for one entry (`MAX_ARG_STRLEN`).
const MAX_BYTES: usize = 128 * 1024;

/// Reads `cmd`.
pub(super) fn read_command(fields: Fields<'_>, findings: &mut Findings) -> Vec<String> {
    read_entries(fields, "cmd", findings)
}

/// Reads `environment`: entries `KEY=value`, no key twice.
pub(super) fn read_environment(fields: Fields<'_>, findings: &mut Findings) -> Vec<String> {
    const KEY: &str = "environment";
    if let Some(value) = fields.map.get(KEY).filter(|value| value.is_object()) {
        let allowed = "a list of texts `KEY=value`, such as [\"LANG=C\", \"LEVEL=3\"]";
        findings.expected(fields.path.key(KEY), allowed, value);
        return Vec::new();
    }
    let entries = read_entries(fields, KEY, findings);
    let list_path = fields.path.key(KEY);
    let mut seen = std::collections::BTreeMap::new();
    for (position, entry) in entries.iter().enumerate() {
        let name = entry.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty());
        let Some(name) = name else {
            findings.expected(list_path.index(position), "of the form `KEY=value`", &entry.as_str().into());
            continue;
        };
        if let Some(earlier) = seen.insert(name, position) {
            findings.refused(
                list_path.index(position),
                format_args!("variable `{}` was already set by entry {earlier}", name.escape_debug()),
                &entry.as_str().into(),
                "keep one of the two",
            );
        }
    }
    entries
}

fn read_entries(fields: Fields<'_>, key: &str, findings: &mut Findings) -> Vec<String> {
    let entries = fields.texts(key, findings);
    let list_path = fields.path.key(key);
    let bytes: usize = entries.iter().map(|entry| entry.len() + 1).sum();
    if entries.len() > MAX_ENTRIES || bytes > MAX_BYTES {
        let allowed = format_args!("at most {MAX_ENTRIES} entries of at most {MAX_BYTES} bytes together");
        if let Some(value) = fields.map.get(key) {
            findings.expected(list_path, allowed, value);
        }
        return Vec::new();
    }
    for (position, entry) in entries.iter().enumerate() {
        if entry.contains('\0') {
            // The kernel ends arguments and variables at the first NUL byte.
            findings.expected(list_path.index(position), "free of NUL bytes", &(*entry).into());
        }
    }
    entries.into_iter().map(str::to_owned).collect()
}
