//! What the document says there is to call.

use std::fmt;

use serde_json::Value;

/// One method of one path.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    /// In capitals.
    pub(super) method: String,
    pub(super) path: String,
    /// Names of the variable parts of the path.
    pub(super) parameters: Vec<String>,
    /// Schema of the body.
    pub(super) body: Option<Value>,
    /// Whether it needs no token.
    pub(super) is_open: bool,
    /// Whether it answers with a stream, which may have no end, or goes on in another protocol.
    pub(super) is_endless: bool,
    /// Names of the query parameters that must be there.
    pub(super) query: Vec<String>,
}

impl Operation {
    pub(super) fn all(document: &Value) -> Vec<Self> {
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, methods): (&String, &Value)| -> Vec<Self> {
            let methods = methods.as_object().unwrap().iter();
            methods.map(|(method, operation)| Self::new(method, path, operation)).collect()
        };
        paths.iter().flat_map(of_path).collect()
    }

    fn new(method: &str, path: &str, operation: &Value) -> Self {
        let of_path = path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'));
        let success = &operation["responses"]["200"]["content"];
        let named = operation["parameters"].as_array().into_iter().flatten();
        let needed = named.filter(|one| one["in"] == "query" && one["required"] == true);
        Self {
            method: method.to_uppercase(),
            path: path.to_owned(),
            parameters: of_path.map(str::to_owned).collect(),
            body: operation["requestBody"]["content"]
                .get("application/json")
                .map(|media| media["schema"].clone()),
            is_open: operation["security"].as_array().is_some_and(Vec::is_empty),
            is_endless: success.is_null() || success.get("text/event-stream").is_some(),
            query: needed.map(|one| one["name"].as_str().unwrap().to_owned()).collect(),
        }
    }

    pub(super) fn changes(&self) -> bool {
        self.method != "GET"
    }

    /// The path with what `value` gives for each of its variable parts.
    pub(super) fn filled(&self, value: impl Fn(&str) -> String) -> String {
        let mut path = self.path.clone();
        for name in &self.parameters {
            path = path.replace(&format!("{{{name}}}"), &value(name));
        }
        let query: Vec<_> = self.query.iter().map(|name| format!("{name}=x")).collect();
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
