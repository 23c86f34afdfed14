//! Whether an answer holds at least what a case wants.

use serde_json::Value;

/// The first difference, with its place.
pub(crate) fn difference(wanted: &Value, found: &Value, place: &str) -> Option<String> {
    let fits = match wanted {
        Value::String(placeholder) if placeholder.starts_with('<') && placeholder.ends_with('>') => {
            is_of_kind(placeholder, found)
        }
        Value::Object(fields) => {
            return fields.iter().find_map(|(key, wanted)| {
                let place = format!("{place}/{key}");
                match found.get(key) {
                    Some(found) => difference(wanted, found, &place),
                    None => Some(format!("{place} is missing")),
                }
            });
        }
        Value::Array(items) => {
            let Some(found) = found.as_array().filter(|found| found.len() == items.len()) else {
                return Some(format!("{place} must be a list of {} items, found {found}", items.len()));
            };
            let pairs = items.iter().zip(found).enumerate();
            return pairs
                .into_iter()
                .find_map(|(at, (wanted, found))| difference(wanted, found, &format!("{place}/{at}")));
        }
        plain => plain == found,
    };
    (!fits).then(|| format!("{place} must be {wanted}, found {found}"))
}

fn is_of_kind(placeholder: &str, found: &Value) -> bool {
    match placeholder {
        "<any>" => true,
        "<text>" => found.is_string(),
        "<number>" => found.is_number(),
        "<list>" => found.is_array(),
        "<id>" => found.as_str().is_some_and(|text| {
            text.len() == 24
                && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        }),
        unknown => panic!("no such placeholder: {unknown}"),
    }
}
