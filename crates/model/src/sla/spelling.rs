//! Historical spellings of keys, keys the server owns, and keys that look like a misspelling.

use serde_json::{Map, Value};

use super::errors::Findings;
use super::fields::whole;
use super::path::Path;

/// The keys of one kind of object.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Keys with a meaning, in today's spelling.
    pub(super) known: &'static [&'static str],
    /// Older spelling and today's.
    pub(super) older: &'static [(&'static str, &'static str)],
    /// Keys the server sets; a value sent for them is left out with a warning.
    pub(super) owned_by_server: &'static [&'static str],
}

impl Vocabulary {
    /// Copies `fields` in today's spelling and in their order. The same thing said twice differently is a finding.
    pub(super) fn normalise(
        &self,
        fields: &Map<String, Value>,
        path: Path<'_>,
        findings: &mut Findings,
    ) -> Map<String, Value> {
        let mut normal = Map::with_capacity(fields.len());
        for (key, value) in fields {
            if self.owned_by_server.contains(&key.as_str()) {
                findings.warn(path.key(key), "is set by the server; the value sent is left out");
                continue;
            }
            let name = self.todays_spelling(key);
            if name == key {
                self.warn_if_misspelled(key, path, findings);
            }
            match normal.get(name) {
                Some(earlier) if !same(earlier, value) => {
                    let older = if name == key { self.older_spelling_in(fields, name) } else { key };
                    let reason =
                        format!("`{older}` is another spelling of `{name}`; both are given and differ");
                    findings.refused(path.key(key), reason, value, &format!("keep only `{name}`"));
                }
                Some(_) => {}
                None => {
                    normal.insert(name.to_owned(), value.clone());
                }
            }
        }
        normal
    }

    fn todays_spelling<'k>(&self, key: &'k str) -> &'k str {
        self.older.iter().find(|(older, _)| *older == key).map_or(key, |(_, today)| today)
    }

    fn older_spelling_in<'k>(&self, fields: &Map<String, Value>, name: &'k str) -> &'k str {
        let mut spellings = self.older.iter().filter(|(_, today)| *today == name);
        spellings.find(|(older, _)| fields.contains_key(*older)).map_or(name, |(older, _)| older)
    }

    fn warn_if_misspelled(&self, key: &str, path: Path<'_>, findings: &mut Findings) {
        if self.known.contains(&key) {
            return;
        }
        if let Some(meant) = self.known.iter().find(|known| looks_like(key, known)) {
            findings.warn(
                path.key(key),
                format_args!("is not a known field and has no effect; did you mean `{meant}`?"),
            );
        }
    }
}

/// Equality in which `1` and `1.0` are the same.
fn same(left: &Value, right: &Value) -> bool {
    left == right || (left.is_number() && whole(left).is_some() && whole(left) == whole(right))
}

/// Whether `key` is probably a mistyped `known`.
fn looks_like(key: &str, known: &str) -> bool {
    if key.len() > 40 || key.len().abs_diff(known.len()) > 2 {
        return false;
    }
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let (key, known) = (fold(key), fold(known));
    // In short words two edits reach unrelated words ("args" and "arch").
    let allowed = if known.len() >= 6 { 2 } else { 1 };
    key == known || edit_distance(&key, &known) <= allowed
}

/// Number of characters to insert, delete or replace (Levenshtein).
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut next = vec![i + 1];
        for (pair, r) in row.windows(2).zip(&right) {
            let &[diagonal, above] = pair else { continue };
            let before = next.last().copied().unwrap_or_default();
            next.push((above + 1).min(before + 1).min(diagonal + usize::from(l != *r)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{edit_distance, looks_like};

    #[test]
    fn counts_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("memroy", "memory"), 2);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn recognises_typing_mistakes_only() {
        for (key, known) in [
            ("memroy", "memory"),
            ("vcpuss", "vcpus"),
            ("Memory", "memory"),
            ("one-shot", "one_shot"),
            ("ports", "port"),
        ] {
            assert!(looks_like(key, known), "{key}");
        }
        for (key, known) in [("args", "arch"), ("description", "code"), ("mymemory", "memory0000")] {
            assert!(!looks_like(key, known), "{key}");
        }
    }
}
