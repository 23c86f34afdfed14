//! The Python CLI of the original (`oak-cli` 0.5.5 from PyPI), unmodified, against a running system.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use oak_e2e::{Api, Host, World, eventually, install, soon};

const VERSION: &str = "0.5.5";
/// How old clients name a status in their tables when all is well.
const RUNNING: &str = "RUNNING";

/// The program with a home directory of its own on a machine.
struct Cli<'a> {
    host: &'a Host,
    program: PathBuf,
    home: &'a Path,
}

impl Cli<'_> {
    /// Runs a command that must succeed; returns what it printed.
    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let program = self.program.to_string_lossy();
        let all: Vec<&str> = std::iter::once(&*program).chain(words.iter().copied()).collect();
        self.start(&all)
    }

    fn start(&self, all: &[&str]) -> anyhow::Result<String> {
        let home = self.home.to_string_lossy();
        let environment = [("HOME", &*home), ("COLUMNS", "300"), ("TERM", "dumb"), ("NO_COLOR", "1")];
        let output = self.host.run_with(all, &environment)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(output.code == Some(0), "{all:?} ended with {:?}: {said}", output.code);
        ensure!(!said.contains("Traceback"), "{all:?}: {said}");
        Ok(said)
    }

    /// Runs a command whose output must contain all of these.
    fn shows(&self, words: &[&str], parts: &[&str]) -> anyhow::Result<()> {
        let said = self.run(words)?;
        for part in parts {
            ensure!(said.contains(part), "{words:?} does not show `{part}`:\n{said}");
        }
        Ok(())
    }

    fn shows_in_time(&self, words: &[&str], parts: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{words:?} shows {parts:?}"), soon(), || self.shows(words, parts))
    }
}

#[test]
fn every_command_of_the_python_cli_works() -> anyhow::Result<()> {
    let Some(environment) = install("oak-cli", VERSION)? else { return Ok(()) };
    let program = environment.join("bin/oak");
    World::run("python_cli", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let home = world.directory().join("home");
        std::fs::create_dir_all(&home)?;
        let cli = Cli { host: &host, program: program.clone(), home: &home };
        let api = Api::on(&host);

        the_program_itself(&cli)?;
        clusters(&cli)?;
        applications_and_services(&cli, &api)?;
        nothing_is_left(&cli, &api)
    })
}

fn the_program_itself(cli: &Cli<'_>) -> anyhow::Result<()> {
    cli.shows(&["version", "--no-show-logo"], &[VERSION])?;
    cli.run(&["configuration", "key-vars", "configure", "system_manager_ip", "--value", "127.0.0.1"])?;
    cli.shows(&["configuration", "show-config"], &["127.0.0.1"])?;
    cli.shows(&["api-docs"], &["http://127.0.0.1:10000/api/docs"])?;
    cli.shows(&["dashboard-link"], &["http://127.0.0.1"])?;
    Ok(())
}

fn clusters(cli: &Cli<'_>) -> anyhow::Result<()> {
    cli.shows(&["cluster", "list"], &["local"])?;
    cli.shows(&["cl", "ls", "-all"], &["local"])?;
    cli.shows(&["cluster", "info", "local"], &["local", "10100"])
}

fn applications_and_services(cli: &Cli<'_>, api: &Api<'_>) -> anyhow::Result<()> {
    cli.shows(&["application", "show"], &["No applications exist yet"])?;
    cli.shows(&["service", "show"], &["No services exist yet"])?;
    cli.shows(&["application", "sla", "--sla-file-name", "default_app_with_services"], &["clientsrvr"])?;
    // Its own example, with its own images: created and deployed in one go.
    cli.run(&["application", "create", "--sla-file-name", "default_app_with_services", "-d"])?;
    cli.run(&["a", "c", "--sla-file-name", "blank_app_without_services"])?;
    for service in ["curl", "nginx"] {
        api.wait_running(service, 1)?;
    }
    for verbosity in ["simple", "detailed", "exhaustive"] {
        cli.shows(&["a", "s", "-v", verbosity], &["clientsrvr"])?;
        cli.shows_in_time(&["s", "s", "-v", verbosity], &["curl", "nginx", RUNNING])?;
    }
    let (application, nginx) = (application(api, "clientsrvr")?, service(api, "nginx")?);
    cli.shows(&["service", "show", &application], &["curl", "nginx"])?;
    cli.shows(&["service", "inspect", &nginx], &["nginx", RUNNING])?;
    let curl = service(api, "curl")?;
    cli.shows_in_time(&["s", "i", &curl], &["--CURL-START--"])?;
    live_views(cli, &nginx)?;

    cli.run(&["service", "deploy", &nginx])?;
    cli.run(&["s", "d", &nginx])?;
    api.wait_running("nginx", 3)?;
    cli.shows(&["s", "i", &nginx], &["nginx"])?;
    cli.run(&["service", "undeploy", "--service-id", &nginx, "--instance-id", "1"])?;
    expect_instances(api, "nginx", 2)?;
    cli.run(&["s", "u", "--service-id", &nginx])?;
    expect_instances(api, "nginx", 0)?;
    cli.run(&["service", "undeploy"])?;
    expect_instances(api, "curl", 0)?;

    cli.run(&["application", "delete", &application])?;
    ensure!(
        cli.run(&["application", "delete", &application]).is_err(),
        "an unknown application is no success"
    );
    cli.run(&["a", "d", "-y"])?;
    cli.run(&["application", "delete"]).map(drop)
}

/// They run until they are interrupted.
fn live_views(cli: &Cli<'_>, service: &str) -> anyhow::Result<()> {
    let program = cli.program.to_string_lossy();
    for words in [
        &["a", "s", "-l"][..],
        &["s", "s", "-l"],
        &["s", "i", service, "-l"],
        &["cl", "ls", "-l"],
        &["cl", "i", "local", "-l"],
    ] {
        let timeout = ["timeout", "--preserve-status", "-s", "INT", "6", &program];
        let all: Vec<&str> = timeout.into_iter().chain(words.iter().copied()).collect();
        let output = cli.host.run_with(&all, &[("HOME", &cli.home.to_string_lossy()), ("COLUMNS", "300")])?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(said.contains("LIVE") && !said.contains("Error"), "{words:?}: {said}");
    }
    Ok(())
}

fn nothing_is_left(cli: &Cli<'_>, api: &Api<'_>) -> anyhow::Result<()> {
    let all = api.call("GET", "/api/applications/", None)?;
    ensure!(all == serde_json::json!([]), "still there: {all}");
    cli.shows(&["application", "show"], &["No applications exist yet"])
}

fn application(api: &Api<'_>, name: &str) -> anyhow::Result<String> {
    find(api, "/api/applications/", "application_name", name, "applicationID")
}

fn service(api: &Api<'_>, name: &str) -> anyhow::Result<String> {
    find(api, "/api/services/", "microservice_name", name, "microserviceID")
}

fn find(api: &Api<'_>, path: &str, key: &str, name: &str, wanted: &str) -> anyhow::Result<String> {
    let all = api.call("GET", path, None)?;
    let found = all.as_array().into_iter().flatten().find(|record| record[key] == name);
    let Some(found) = found else { bail!("there is no {name} in {all}") };
    found[wanted].as_str().map(str::to_owned).with_context(|| format!("no {wanted} in {found}"))
}

fn expect_instances(api: &Api<'_>, service: &str, wanted: usize) -> anyhow::Result<()> {
    eventually(&format!("{service} has {wanted} instances"), soon(), || {
        let instances = api.instances(service)?;
        ensure!(instances.len() == wanted, "{instances:?}");
        Ok(())
    })
}
