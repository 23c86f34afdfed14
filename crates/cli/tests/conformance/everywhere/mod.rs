//! Bad input on every operation of the document, so that a new route is tried by itself: the answer is a documented
//! error in the common form, and nothing changes.
//!
//! * `operation`: what there is to call, from the document;
//! * `schema`: bodies that are right but for one place;
//! * `lab`: a root with something in it, a second tenant, and what a look at everything shows.

mod lab;
mod operation;
mod schema;

use std::collections::BTreeMap;
use std::thread;

use serde_json::Value;

use lab::{Caller, Lab};
use operation::Operation;

/// In place of an id, percent-encoded as in a path.
const STRANGE: [&str; 12] = [
    "6b0b00000000000000000000",
    "ffffffffffffffffffffffff",
    "%00",
    "%ff%fe",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%F0%9F%A6%84",
    "18446744073709551616",
    "1e9",
    "%20",
    "'%20or%201=1%20--",
    "%7B%22$oid%22:%20%221%22%7D",
    "a%0d%0aset-cookie:%20x=y",
];

/// A body: name, start, what is repeated, how often, end.
type Made = (&'static str, &'static [u8], &'static [u8], usize, &'static [u8]);

/// Bodies that are nothing anywhere.
const NOT_JSON: [Made; 14] = [
    ("nothing", b"", b"", 0, b""),
    ("a brace", b"{", b"", 0, b""),
    ("text", b"hello", b"", 0, b""),
    ("a form", b"username=Admin&password=Admin", b"", 0, b""),
    ("XML", b"<?xml version=\"1.0\"?><a/>", b"", 0, b""),
    ("a comma too much", b"{\"a\":1,}", b"", 0, b""),
    ("not a number", b"{\"a\":NaN}", b"", 0, b""),
    ("bytes that are no text", b"{\"a\":\"\xff\xfe\"}", b"", 0, b""),
    ("UTF-16", b"\xff\xfe{\0}\0", b"", 0, b""),
    ("zeros", b"", b"\0", 1000, b""),
    ("half of a surrogate pair", b"{\"a\":\"\\ud800\"}", b"", 0, b""),
    ("deep lists", b"{\"a\":", b"[", 100_000, b""),
    ("deep objects", b"", b"{\"a\":", 30_000, b""),
    ("ten megabytes", b"{\"a\":\"", b"x", 10_000_000, b"\"}"),
];

/// Bodies that are JSON and no object.
const NO_OBJECT: [Made; 7] = [
    ("null", b"null", b"", 0, b""),
    ("a number", b"5", b"", 0, b""),
    ("a text", b"\"text\"", b"", 0, b""),
    ("true", b"true", b"", 0, b""),
    ("an empty list", b"[]", b"", 0, b""),
    ("a list of objects", b"[{}", b",{}", 20, b"]"),
    ("a list of a hundred thousand", b"[0", b",0", 99_999, b"]"),
];

fn made((_, start, repeated, times, end): &Made) -> Vec<u8> {
    [*start, &repeated.repeat(*times), *end].concat()
}

/// Tries `attempts` on all operations, several at the same time, and looks afterwards whether something has changed. Each
/// attempt answers what it found to be wrong.
fn everywhere(attempts: impl Fn(&Lab, &Operation) -> Vec<String> + Sync) {
    let lab = Lab::start();
    let before = lab.look();
    let changed = changes(&before, &lab.look());
    assert!(changed.is_empty(), "what is looked at changes by itself: {changed:#?}");
    let operations = lab.operations();
    assert!(operations.len() > 60, "{operations:#?}");
    let (lab, attempts) = (&lab, &attempts);
    let mut problems: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = operations
            .chunks(operations.len().div_ceil(4))
            .map(|part| {
                scope.spawn(move || part.iter().flat_map(|one| attempts(lab, one)).collect::<Vec<_>>())
            })
            .collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    problems.extend(changes(&before, &lab.look()));
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Where two looks differ, and how.
fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let differing = before.iter().zip(after).filter(|(was, is)| was != is);
    let tell = |((path, was), (_, is)): ((&String, &String), (&String, &String))| {
        let same = was.chars().zip(is.chars()).take_while(|(one, other)| one == other).count();
        let from = same.saturating_sub(60);
        let part = |text: &str| text.chars().skip(from).take(200).collect::<String>();
        format!("{path} has changed from …{}… to …{}…", part(was), part(is))
    };
    differing.map(tell).collect()
}

#[test]
fn wrong_tokens_are_refused_by_every_operation() {
    everywhere(|lab, operation| {
        if operation.is_open {
            return Vec::new();
        }
        let path = lab.existing(operation);
        let body = operation.body.as_ref().map(|schema| lab.example(schema).to_string());
        let try_it = |(name, token): (&str, Option<&str>)| {
            let headers = token.map(|token| format!("Bearer {token}"));
            let found = lab.call_as(operation, &path, headers.as_deref(), body.as_deref().map(str::as_bytes));
            let found = found.refused(&[401, 422]);
            found.err().map(|problem| format!("{operation}, token {name}: {problem}"))
        };
        let tokens = lab.wrong_tokens.iter().map(|(name, token)| (*name, Some(&**token)));
        tokens.chain([("missing", None)]).filter_map(try_it).collect()
    });
}

#[test]
fn bodies_that_are_no_object_are_refused_by_every_operation() {
    everywhere(|lab, operation| {
        if operation.body.is_none() {
            return Vec::new();
        }
        let path = lab.existing(operation);
        let try_it = |(kind, allowed): (&Made, &[u16])| {
            let found = lab.call(operation, &path, Caller::Admin, Some(&made(kind))).refused(allowed);
            found.err().map(|problem| format!("{operation}, {}: {problem}", kind.0))
        };
        let not_json = NOT_JSON.iter().map(|kind| (kind, &[400, 413][..]));
        let no_object = NO_OBJECT.iter().map(|kind| (kind, &[400, 413, 422][..]));
        not_json.chain(no_object).filter_map(try_it).collect()
    });
}

#[test]
fn a_wrong_value_anywhere_in_a_body_is_refused_by_every_operation() {
    everywhere(|lab, operation| {
        let Some(schema) = &operation.body else { return Vec::new() };
        let path = lab.existing(operation);
        let try_it = |(place, body): (String, Value)| {
            let body = body.to_string();
            let found = lab.call(operation, &path, Caller::Admin, Some(body.as_bytes()));
            let found = found.refused(&[400, 401, 403, 409, 413, 422, 429]);
            let shown: String = body.chars().take(300).collect();
            found.err().map(|problem| format!("{operation}, {place}: {problem}; sent {shown}"))
        };
        lab.wrong_bodies(schema).into_iter().filter_map(try_it).collect()
    });
}

#[test]
fn strange_ids_are_refused_by_every_operation() {
    everywhere(|lab, operation| {
        let long = "a".repeat(5000);
        let mut problems = Vec::new();
        for parameter in &operation.parameters {
            for strange in STRANGE.iter().copied().chain([long.as_str()]) {
                let path = lab.with_one_replaced(operation, parameter, strange);
                // Nothing that could be stored, if the name happens to be a good one.
                let body = operation.body.as_ref().map(|_| &b"{\"\":"[..]);
                let answer = lab.call(operation, &path, Caller::Admin, body);
                // Reading may find something: a number of addresses, an instance.
                let found = if operation.changes() && answer.status() != 200 {
                    answer.refused(&[400, 401, 403, 404, 409, 413, 414, 422])
                } else {
                    answer.documented()
                };
                problems.extend(found.err().map(|problem| format!("{operation}, {strange:.60}: {problem}")));
            }
        }
        problems
    });
}

#[test]
fn what_belongs_to_others_is_out_of_reach_of_every_operation() {
    everywhere(|lab, operation| {
        let belongs_to_root = operation.parameters.iter().any(|name| name != "count");
        if !belongs_to_root {
            return Vec::new();
        }
        let body = operation.body.as_ref().map(|schema| lab.example(schema).to_string());
        let body = body.as_deref().map(str::as_bytes);
        let path = lab.existing(operation);
        // Names of secrets and registries are those of each organisation itself.
        if operation.path.starts_with("/api/secrets/")
            || operation.path.starts_with("/api/registry-credentials/")
        {
            return Vec::new();
        }
        let found = lab.call(operation, &path, Caller::Stranger, body).refused(&[400, 401, 403, 404, 422]);
        found.err().map(|problem| format!("{operation}: {problem}")).into_iter().collect()
    });
}
