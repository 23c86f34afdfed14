//! What is wrong with a descriptor: all problems at once, each with its place, the rule and what was found.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::path::Path;

/// Problems listed in one answer; the rest is only counted.
pub const MAX_LISTED_PROBLEMS: usize = 50;

/// Why a descriptor is refused, as far as a caller reacts to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlaErrorKind {
    /// Not UTF-8 or not JSON (HTTP 400).
    Syntax,
    /// More bytes than [`super::MAX_DOCUMENT_BYTES`] (HTTP 413).
    TooLarge,
    /// JSON, but not an object (HTTP 422).
    NotAnObject,
    /// `sla_version` is missing or not `v2.0` (HTTP 422).
    Version,
    /// At least one field breaks a rule (HTTP 422).
    Schema,
}

/// One thing that is wrong with a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlaProblem {
    /// Place in the document, such as `applications[0].microservices[1].memory`; empty for the document itself.
    pub path: String,
    /// What is allowed there, or why the value is refused.
    pub message: String,
    /// The value that was found, shortened; `None` where a value is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What to do about it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl fmt::Display for SlaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(found) = &self.found {
            write!(f, ", found {found}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

/// A refused descriptor with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SlaErrors {
    kind: SlaErrorKind,
    problems: Vec<SlaProblem>,
    more: usize,
}

impl SlaErrors {
    /// A refusal for one reason that concerns the whole document.
    pub(super) fn whole(kind: SlaErrorKind, message: impl Into<String>, fix: Option<&str>) -> Self {
        let problem = SlaProblem {
            path: String::new(),
            message: message.into(),
            found: None,
            fix: fix.map(str::to_owned),
        };
        Self { kind, problems: vec![problem], more: 0 }
    }

    pub(super) fn with_problem(kind: SlaErrorKind, problem: SlaProblem) -> Self {
        Self { kind, problems: vec![problem], more: 0 }
    }

    /// How a caller should react.
    #[must_use]
    pub fn kind(&self) -> SlaErrorKind {
        self.kind
    }

    /// The problems in document order, at most [`MAX_LISTED_PROBLEMS`].
    #[must_use]
    pub fn problems(&self) -> &[SlaProblem] {
        &self.problems
    }

    /// How many problems there are beyond [`Self::problems`].
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for SlaErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the descriptor is refused: ")?;
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                f.write_str(" | ")?;
            }
            problem.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, " | and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Something that was accepted but is probably not what the author meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlaWarning {
    /// Place in the document.
    pub path: String,
    /// What was noticed.
    pub message: String,
}

impl fmt::Display for SlaWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Collects problems and warnings while a document is read; both lists are bounded.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: Vec<SlaProblem>,
    more: usize,
    warnings: Vec<SlaWarning>,
}

impl Findings {
    /// A value is not of the allowed form.
    pub(super) fn expected(&mut self, path: Path<'_>, allowed: impl fmt::Display, found: &Value) {
        self.push(path, || (format!("must be {allowed}"), Some(shown(found)), None));
    }

    /// A required value is missing.
    pub(super) fn missing(&mut self, path: Path<'_>, allowed: impl fmt::Display) {
        self.push(path, || (format!("is required and must be {allowed}"), None, None));
    }

    /// A value is understood, but refused for `reason`; `fix` says what to write instead.
    pub(super) fn refused(&mut self, path: Path<'_>, reason: impl fmt::Display, found: &Value, fix: &str) {
        self.push(path, || (reason.to_string(), Some(shown(found)), Some(fix.to_owned())));
    }

    /// Something is accepted but suspicious. Beyond [`MAX_LISTED_PROBLEMS`] warnings are dropped.
    pub(super) fn warn(&mut self, path: Path<'_>, message: impl fmt::Display) {
        if self.warnings.len() < MAX_LISTED_PROBLEMS {
            self.warnings.push(SlaWarning { path: path.to_string(), message: message.to_string() });
        }
    }

    /// Gives `document` and the warnings if there was no problem.
    pub(super) fn finish<T>(self, document: T) -> Result<(T, Vec<SlaWarning>), SlaErrors> {
        if self.problems.is_empty() {
            return Ok((document, self.warnings));
        }
        Err(SlaErrors { kind: SlaErrorKind::Schema, problems: self.problems, more: self.more })
    }

    // The texts are made only when they are kept: a hostile document may hold a problem every two bytes.
    fn push(&mut self, path: Path<'_>, text: impl FnOnce() -> (String, Option<String>, Option<String>)) {
        if self.problems.len() >= MAX_LISTED_PROBLEMS {
            self.more += 1;
            return;
        }
        let (message, found, fix) = text();
        self.problems.push(SlaProblem { path: path.to_string(), message, found, fix });
    }
}

/// A value as it is shown in a message: one line, short, and its type visible.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => match text.char_indices().nth(MAX_SHOWN_TEXT) {
            Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
            None => format!("{text:?}"),
        },
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Characters of a text that are shown in a message.
const MAX_SHOWN_TEXT: usize = 60;
