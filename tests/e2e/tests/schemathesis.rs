//! Requests that schemathesis (from PyPI) invents from the document of the API, against a running system with
//! something in it: no answer is a fault or differs from the document, and every operation is reached.
//!
//! `SCHEMATHESIS_EXAMPLES` is the number of requests per operation and phase, `SCHEMATHESIS_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use oak_e2e::{Api, Host, Microservice, World, application, install};
use serde_json::Value;

const VERSION: &str = "4.32.5";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/schemathesis");
/// Where the hooks take mails.
const MAIL_PORT: u16 = 2525;
/// A run that takes longer hangs.
const PATIENCE_S: &str = "1500";

/// Operations that are not called: one has an answer without an end, the other is read at the start.
const NOT_CALLED: &[&str] = &["GET /api/events", "GET /docs/openapi.json"];
/// Operations that cannot succeed here, and the status that they answer instead.
const NEVER_200: &[(&str, u16)] = &[
    // The cluster and the worker that the others need are connected.
    ("DELETE /api/clusters/{id}", 409),
    ("DELETE /api/clusters/{id}/workers/{worker}", 409),
    // It is answered to a WebSocket only.
    ("GET /api/service/{id}/instance/{number}/exec", 400),
    ("GET /api/settings", 501),
    ("PUT /api/settings", 501),
    ("PUT /apisettings", 501),
];

type Statuses = BTreeMap<String, BTreeMap<u16, u64>>;

#[test]
fn answers_to_invented_requests_are_documented() -> anyhow::Result<()> {
    let Some(environment) = install("schemathesis", VERSION)? else { return Ok(()) };
    World::run("schemathesis", |world| {
        let host = world.host("device", 10)?;
        let settings = host.directory().join("oak.toml");
        let mail = format!(
            "[mail]\nhost = \"127.0.0.1\"\nport = {MAIL_PORT}\nsecurity = \"none\"\nsender = \"oak@example.org\"\n"
        );
        fs::write(&settings, format!("[root]\npublic_url = \"https://oak.example\"\n{mail}"))?;
        let mut oak = world.oak(&host, &["up", "--config", &settings.to_string_lossy()])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let kept = Microservice::shell("kept", "echo hello; trap 'exit 0' TERM; sleep 100000 & wait");
        api.create(&application("kept", [kept]))?;
        api.deploy("kept")?;
        api.wait_running("kept", 1)?;
        let service = api.service("kept")?["microserviceID"].as_str().context("no id")?.to_owned();

        let said = run(&environment, &host, &service, world.directory());
        let log = oak.log_of_this_life()?;
        for fault in ["panicked", "a request failed"] {
            if let Some(line) = log.lines().find(|line| line.contains(fault)) {
                bail!("{line}");
            }
        }
        said?;
        let statuses = fs::read(world.directory().join("statuses.json"))?;
        judge(&serde_json::from_slice(&statuses)?, &documented(&api)?)
    })
}

/// One run of the program.
fn run(environment: &Path, host: &Host, service: &str, directory: &Path) -> anyhow::Result<()> {
    let setting = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (examples, seed) = (setting("SCHEMATHESIS_EXAMPLES", "3"), setting("SCHEMATHESIS_SEED", "1"));
    let api = "http://127.0.0.1:10000";
    let log = directory.join("schemathesis.log");
    let program = environment.join("bin/schemathesis");
    let ended = host
        .command("timeout")
        .current_dir(directory)
        .args(["--signal=KILL", PATIENCE_S])
        .arg(program)
        .args(["--config-file", &format!("{FIXTURES}/schemathesis.toml")])
        .args(["run", &format!("{api}/docs/openapi.json"), "--url", api, "--no-color"])
        .args(["--max-examples", &examples, "--seed", &seed, "--exclude-path", "/api/events"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"])
        .args(["--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure"])
        .env("SCHEMATHESIS_HOOKS", format!("{FIXTURES}/hooks.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OAK_API", api)
        .env("OAK_SERVICE", service)
        .env("OAK_STATUSES", directory.join("statuses.json"))
        .env("OAK_MAIL_PORT", MAIL_PORT.to_string())
        .stdout(File::create(&log)?)
        .stderr(File::create(directory.join("schemathesis.err"))?)
        .status()?;
    if ended.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log)? + &fs::read_to_string(directory.join("schemathesis.err"))?;
    let begin = said.find("= FAILURES =").or_else(|| said.find("= ERRORS =")).unwrap_or(0);
    bail!("seed {seed}, {examples} examples: {}", said.get(begin..).unwrap_or_default())
}

/// Operations of the document as `METHOD path`.
fn documented(api: &Api<'_>) -> anyhow::Result<BTreeSet<String>> {
    let document: Value = serde_json::from_str(&api.send("GET", "/docs/openapi.json", None)?.body)?;
    let paths = document["paths"].as_object().context("no paths")?;
    let of_path = |(path, methods): (&String, &Value)| -> Vec<String> {
        let methods = methods.as_object().into_iter().flat_map(|methods| methods.keys());
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect()
    };
    Ok(paths.iter().flat_map(of_path).collect())
}

/// Prints what was seen; every operation must have succeeded at least once.
#[allow(clippy::print_stdout, reason = "the table is what the person who runs this wants to see")]
fn judge(statuses: &Statuses, documented: &BTreeSet<String>) -> anyhow::Result<()> {
    let mut unreached = Vec::new();
    for operation in documented {
        let seen = statuses.get(operation).cloned().unwrap_or_default();
        let counts: Vec<_> = seen.iter().map(|(status, count)| format!("{status}×{count}")).collect();
        println!("{operation:70} {}", counts.join(" "));
        let wanted = NEVER_200.iter().find(|(name, _)| name == operation).map_or(200, |(_, status)| *status);
        if !seen.contains_key(&wanted) && !NOT_CALLED.contains(&operation.as_str()) {
            unreached.push(format!("{operation}: never {wanted}"));
        }
    }
    ensure!(
        unreached.is_empty(),
        "not reached; see fixtures/schemathesis/hooks.py, `PREPARE`:\n{}",
        unreached.join("\n")
    );
    Ok(())
}
