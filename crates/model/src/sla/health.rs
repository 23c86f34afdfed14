//! `healthcheck`, `restart` and `stop_grace_s`: how an instance is watched, started again and stopped.

use serde_json::Value;

use crate::container::{HealthCheck, Probe, RestartPolicy};

use super::errors::Findings;
use super::fields::Fields;

/// Longest time in a health check: an hour.
const MAX_SECONDS: u32 = 3600;
/// Longest wait for the answer of one try.
const MAX_TIMEOUT: u32 = 300;
/// Most failures in a row.
const MAX_RETRIES: u32 = 100;
/// Longest time between stop signal and kill.
pub(super) const MAX_GRACE: u32 = 300;
/// Longest path of an HTTP check, bytes.
const MAX_PATH_BYTES: usize = 1024;
/// Most words of a command, and most bytes of all of them.
const MAX_WORDS: usize = 100;
const MAX_COMMAND_BYTES: usize = 8 * 1024;

/// Reads `restart`.
pub(super) fn read_restart(fields: Fields<'_>, findings: &mut Findings) -> RestartPolicy {
    const KEY: &str = "restart";
    let Some(text) = fields.text(KEY, findings).filter(|text| !text.is_empty()) else {
        return RestartPolicy::default();
    };
    text.parse().unwrap_or_else(|_| {
        let words = RestartPolicy::ALL.map(RestartPolicy::as_str).join(", ");
        findings.expected(fields.path.key(KEY), format_args!("one of {words}"), &text.into());
        RestartPolicy::default()
    })
}

/// Reads `stop_grace_s`; `None`: the worker's usual time.
pub(super) fn read_stop_grace(fields: Fields<'_>, findings: &mut Findings) -> Option<u32> {
    const KEY: &str = "stop_grace_s";
    fields.map.contains_key(KEY).then(|| fields.integer(KEY, MAX_GRACE, "seconds", findings))
}

/// Reads `healthcheck`; an empty object asks for nothing.
pub(super) fn read_healthcheck(fields: Fields<'_>, findings: &mut Findings) -> Option<HealthCheck> {
    const KEY: &str = "healthcheck";
    const PROBES: [&str; 3] = ["http", "tcp", "command"];
    const NUMBERS: [&str; 4] = ["interval_s", "timeout_s", "retries", "start_period_s"];
    let value = fields.map.get(KEY).filter(|value| !value.is_null())?;
    let path = fields.path.key(KEY);
    let sent = Fields::of(value, &path, findings)?;
    if sent.map.is_empty() {
        return None;
    }
    let known: Vec<&str> = PROBES.into_iter().chain(NUMBERS).collect();
    super::fields::refuse_unknown(sent, &known, findings);
    let given: Vec<&str> = PROBES.into_iter().filter(|key| sent.map.contains_key(*key)).collect();
    let probe = match given.as_slice() {
        ["http"] => read_http(sent, findings),
        ["tcp"] => read_tcp(sent, findings),
        ["command"] => read_command(sent, findings),
        _ => {
            findings.expected(path, "an object with exactly one of http, tcp and command", value);
            None
        }
    };
    let interval_s = at_least_one(sent, "interval_s", 10, MAX_SECONDS, "seconds", findings);
    let timeout_s = at_least_one(sent, "timeout_s", 2, MAX_TIMEOUT, "seconds", findings);
    let retries = at_least_one(sent, "retries", 3, MAX_RETRIES, "failures in a row", findings);
    let start_period_s = sent.integer("start_period_s", MAX_SECONDS, "seconds", findings);
    Some(HealthCheck { probe: probe?, interval_s, timeout_s, retries, start_period_s })
}

fn at_least_one(
    fields: Fields<'_>,
    key: &str,
    default: u32,
    max: u32,
    unit: &str,
    findings: &mut Findings,
) -> u32 {
    let Some(value) = fields.map.get(key) else { return default };
    match super::fields::whole(value).and_then(|number| u32::try_from(number).ok()) {
        Some(number) if (1..=max).contains(&number) => number,
        _ => {
            let allowed = format_args!("an integer from 1 to {max} ({unit})");
            findings.expected(fields.path.key(key), allowed, value);
            default
        }
    }
}

fn read_http(fields: Fields<'_>, findings: &mut Findings) -> Option<Probe> {
    let path = fields.path.key("http");
    let http = Fields::of(fields.map.get("http")?, &path, findings)?;
    super::fields::refuse_unknown(http, &["port", "path", "scheme"], findings);
    let scheme = http.text("scheme", findings).filter(|scheme| !scheme.is_empty());
    if let Some(scheme) = scheme.filter(|scheme| *scheme != "http") {
        let fix = "use http, or tcp: {\"port\": …}";
        findings.refused(path.key("scheme"), "health checks speak plain HTTP", &scheme.into(), fix);
    }
    let port = read_port(http, findings);
    let target = http.text("path", findings).filter(|target| !target.is_empty()).unwrap_or("/");
    let is_target = target.starts_with('/')
        && target.len() <= MAX_PATH_BYTES
        && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_target {
        let allowed = "a path of visible ASCII characters that starts with /";
        findings.expected(path.key("path"), allowed, &target.into());
        return None;
    }
    Some(Probe::Http { port: port?, path: target.to_owned() })
}

fn read_tcp(fields: Fields<'_>, findings: &mut Findings) -> Option<Probe> {
    let path = fields.path.key("tcp");
    let tcp = Fields::of(fields.map.get("tcp")?, &path, findings)?;
    super::fields::refuse_unknown(tcp, &["port"], findings);
    Some(Probe::Tcp { port: read_port(tcp, findings)? })
}

fn read_port(fields: Fields<'_>, findings: &mut Findings) -> Option<u16> {
    const KEY: &str = "port";
    const ALLOWED: &str = "a port of the instance from 1 to 65535";
    let Some(value) = fields.map.get(KEY) else {
        findings.missing(fields.path.key(KEY), ALLOWED);
        return None;
    };
    let port =
        super::fields::whole(value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    if port.is_none() {
        findings.expected(fields.path.key(KEY), ALLOWED, value);
    }
    port
}

fn read_command(fields: Fields<'_>, findings: &mut Findings) -> Option<Probe> {
    const KEY: &str = "command";
    let words = fields.texts(KEY, findings);
    let bytes: usize = words.iter().map(|word| word.len() + 1).sum();
    let is_command = words.first().is_some_and(|word| !word.is_empty())
        && words.len() <= MAX_WORDS
        && bytes <= MAX_COMMAND_BYTES
        && !words.iter().any(|word| word.contains('\0'));
    if !is_command {
        let allowed =
            "a list of texts: program and arguments, at most 100 of 8 KiB together, without NUL bytes";
        findings.expected(fields.path.key(KEY), allowed, fields.map.get(KEY).unwrap_or(&Value::Null));
        return None;
    }
    Some(Probe::Command(words.into_iter().map(str::to_owned).collect()))
}
