//! One file from its first case to its last.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::{Case, Companion, Expected, Request, Story};
use crate::document::Document;
use crate::http::{self, Response};
use crate::shape::difference;
use crate::system::System;

struct Run {
    system: System,
    document: Document,
    /// Tokens and saved parts of answers.
    names: BTreeMap<String, String>,
}

/// What fails, with the case.
pub(crate) fn run(name: &str, story: &Story) -> Vec<String> {
    let mut run = Run::start(&story.with);
    let mut failures = Vec::new();
    for case in &story.cases {
        for problem in run.case(case) {
            failures.push(format!("{name}.toml: {}\n    {problem}", case.name));
        }
    }
    failures
}

impl Run {
    fn start(companions: &[Companion]) -> Self {
        let system = System::start();
        let document = Document(Value::Null);
        let mut run = Self { system, document, names: BTreeMap::new() };
        run.document = Document(run.plain("GET", "/docs/openapi.json", None));
        let tokens =
            run.plain("POST", "/api/auth/login", Some(json!({"username": "Admin", "password": "Admin"})));
        let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
        let admin = token("token");
        for (name, token) in run.system.wrong_tokens(&admin) {
            run.save(name, token);
        }
        run.save("refresh", token("refresh_token"));
        run.save("admin", admin);
        for companion in companions {
            match companion {
                Companion::Cluster => {
                    let made = run.plain("POST", "/api/tokens", Some(json!({ "role": "cluster" })));
                    run.system.add_cluster(made["token"].as_str().unwrap());
                }
            }
        }
        run
    }

    fn save(&mut self, name: &str, value: String) {
        self.names.insert(name.to_owned(), value);
    }

    /// A call that must succeed.
    fn plain(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let token =
            self.names.get("admin").map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        let headers: Vec<_> = token.into_iter().collect();
        let body = body.map(|body| body.to_string().into_bytes());
        let response = http::send(self.system.address, method, path, &headers, body.as_deref()).unwrap();
        assert_eq!(response.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&response.body));
        serde_json::from_slice(&response.body).unwrap()
    }

    fn case(&mut self, case: &Case) -> Vec<String> {
        let mut problems = Vec::new();
        for send in case.send.all() {
            problems.extend(self.exchange(send, &case.request, &case.expected));
        }
        for next in &case.then {
            let found = self.exchange(&next.send, &next.request, &next.expected);
            problems.extend(found.map(|problem| format!("afterwards {problem}")));
        }
        problems
    }

    /// Sends and judges; the problem if there is one.
    fn exchange(&mut self, send: &str, request: &Request, expected: &Expected) -> Option<String> {
        let (method, path) = send.split_once(' ').expect("METHOD /path");
        let path = self.fill_in(path);
        let mut headers: Vec<_> =
            request.headers.iter().map(|(name, value)| (name.clone(), self.fill_in(value))).collect();
        if let Some(name) = &request.token {
            let token = self.names.get(name).unwrap_or_else(|| panic!("no token is called {name}"));
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        let body = request.bytes(|text| self.fill_in(text));
        let response = match http::send(self.system.address, method, &path, &headers, body.as_deref()) {
            Ok(response) => response,
            Err(problem) => return Some(format!("{method} {path}: {problem}")),
        };
        let problem = self.judge(method, &path, &response, expected)?;
        let shown: String = String::from_utf8_lossy(&response.body).chars().take(400).collect();
        let shown_path: String = path.chars().take(120).collect();
        Some(format!("{method} {shown_path}: {problem}\n    {} {shown}", response.status))
    }

    fn judge(
        &mut self,
        method: &str,
        path: &str,
        response: &Response,
        expected: &Expected,
    ) -> Option<String> {
        if response.status != expected.status {
            return Some(format!("status must be {}", expected.status));
        }
        if u128::from(expected.within_ms) < response.took.as_millis() {
            return Some(format!("took {} ms", response.took.as_millis()));
        }
        for (name, wanted) in &expected.answer_headers {
            let found = response.header(name).unwrap_or_default();
            let fits = match wanted.strip_suffix('*') {
                Some(start) => found.starts_with(start),
                None => found == wanted,
            };
            if !fits {
                return Some(format!("header {name} must be `{wanted}`, found `{found}`"));
            }
        }
        let text = String::from_utf8_lossy(&response.body);
        if let Some(part) = &expected.text
            && !text.contains(&self.fill_in(part))
        {
            return Some(format!("must contain `{part}`"));
        }
        if let Some(complaint) = self.document.complaint(method, path, response.status, &response.body) {
            return Some(format!("differs from the document: {complaint}"));
        }
        let mut value: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if response.status >= 400 && method != "HEAD" && value["code"] != response.status {
            return Some("is no error in the common form".to_owned());
        }
        if let Some(part) = &expected.message
            && !value["message"].as_str().unwrap_or_default().contains(&self.fill_in(part))
        {
            return Some(format!("the message must contain `{part}`"));
        }
        // JSON in a string is looked at as what it is.
        if let Some(inner) = value.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            value = inner;
        }
        if let Some(wanted) = &expected.answer {
            let wanted: Value = serde_json::from_str(&self.fill_in(&wanted.to_string())).unwrap();
            if let Some(difference) = difference(&wanted, &value, "") {
                return Some(difference);
            }
        }
        for (name, place) in &expected.save {
            let found = value.pointer(place).unwrap_or_else(|| panic!("nothing at {place} in {value}"));
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            self.names.insert(name.clone(), found);
        }
        None
    }

    /// Puts saved names in the place of `${name}`.
    fn fill_in(&self, text: &str) -> String {
        let mut text = text.to_owned();
        while let Some(start) = text.find("${") {
            let end = start + text[start..].find('}').expect("a } after ${");
            let name = &text[start + 2..end];
            let value = self.names.get(name).unwrap_or_else(|| panic!("nothing is called {name}"));
            text.replace_range(start..=end, value);
        }
        text
    }
}
