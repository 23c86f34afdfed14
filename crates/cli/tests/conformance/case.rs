//! The form of the files.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Story {
    /// What else runs besides a root.
    #[serde(default)]
    pub(crate) with: Vec<Companion>,
    #[serde(rename = "case")]
    pub(crate) cases: Vec<Case>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Companion {
    Cluster,
}

/// A request, several that must be answered alike, and what must be so afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The rule.
    pub(crate) name: String,
    /// `METHOD /path`, one or several.
    pub(crate) send: OneOrMore,
    #[serde(flatten)]
    pub(crate) request: Request,
    #[serde(flatten)]
    pub(crate) expected: Expected,
    /// What must be so afterwards.
    #[serde(default)]
    pub(crate) then: Vec<FollowUp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowUp {
    pub(crate) send: String,
    #[serde(flatten)]
    pub(crate) request: Request,
    #[serde(flatten)]
    pub(crate) expected: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    /// Name of a saved token: `admin`, `refresh`, `expired` … Without one no token is sent.
    #[serde(default)]
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// A JSON body.
    #[serde(default)]
    pub(crate) json: Option<Value>,
    /// A body as text.
    #[serde(default)]
    pub(crate) body: Option<String>,
    /// A body that is too long to be written down.
    #[serde(default)]
    pub(crate) made: Option<Made>,
    /// A body in hexadecimal digits.
    #[serde(default)]
    pub(crate) hex: Option<String>,
}

/// `before`, `repeat` so many `times`, `after`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Made {
    #[serde(default)]
    before: String,
    repeat: String,
    times: usize,
    #[serde(default)]
    after: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    /// What the answer must hold at least. `<text>`, `<number>`, `<id>`, `<list>`, `<any>` stand for every such value,
    /// a list for exactly its items.
    #[serde(default)]
    pub(crate) answer: Option<Value>,
    /// Part of the message of an error.
    #[serde(default)]
    pub(crate) message: Option<String>,
    /// Part of an answer that is no JSON.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// Headers of the answer; a `*` at the end stands for anything.
    #[serde(default)]
    pub(crate) answer_headers: BTreeMap<String, String>,
    /// Name → place in the answer (`/0/applicationID`).
    #[serde(default)]
    pub(crate) save: BTreeMap<String, String>,
    /// Longest time until the answer.
    #[serde(default = "usual_patience")]
    pub(crate) within_ms: u64,
}

/// Also on a busy machine; what hangs takes longer.
const fn usual_patience() -> u64 {
    5_000
}

impl Case {
    /// The status of each request of the case that counts as one.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = u16> {
        self.send.all().iter().map(|_| self.expected.status)
    }
}

impl Request {
    /// The bytes of the body, if there is one.
    pub(crate) fn bytes(&self, fill_in: impl Fn(&str) -> String) -> Option<Vec<u8>> {
        if let Some(json) = &self.json {
            return Some(fill_in(&json.to_string()).into_bytes());
        }
        if let Some(made) = &self.made {
            return Some(
                [fill_in(&made.before), made.repeat.repeat(made.times), fill_in(&made.after)].concat().into(),
            );
        }
        if let Some(hex) = &self.hex {
            let digits: String = hex.split_whitespace().collect();
            let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
            return Some((0..digits.len()).step_by(2).map(byte).collect());
        }
        self.body.as_deref().map(|body| fill_in(body).into_bytes())
    }
}
