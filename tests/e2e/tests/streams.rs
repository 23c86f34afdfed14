//! Events as they happen, programs run inside instances, secrets, and images of a registry that asks for a password.

use std::fs::File;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, Host, Microservice, Output, World, application, eventually, soon};
use serde_json::json;

/// Ends a command that goes on by itself.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn secrets_programs_and_events_reach_whom_they_are_for() -> anyhow::Result<()> {
    World::run("streams", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let (_registry, private) = world.private_registry()?;
        let events = host.directory().join("events.json");
        let _listener = background(world, &host, &["events", "--follow", "-o", "json"], &events)?;

        said(&with_input(world, &host, "hunter2", &["secret", "set", "db-password"])?)?;
        let secrets = json!([
            { "name": "db-password", "env": "DB_PASSWORD" },
            { "name": "db-password", "file": "/run/secrets/db" },
        ]);
        let shell = Microservice::shell("shell", "echo begun; sleep 100000").set("secrets", secrets);
        let image = format!("{private}/library/nginx:latest");
        api.create(&application("streams", [shell, Microservice::new("private", &image)]))?;
        api.deploy("shell")?;
        api.wait_running("shell", 1)?;
        eventually("a running instance is an event within a second", Duration::from_secs(1), || {
            let told = std::fs::read_to_string(&events)?;
            ensure!(told.lines().any(|line| line.contains("\"RUNNING\"")), "only: {told}");
            Ok(())
        })?;

        secrets_are_inside(world, &host)?;
        programs_run(world, &host)?;
        times_of_output(world, &host)?;
        pulls_log_in(world, &host, &api, &private.to_string())?;

        // Broken links of images make its code an error; the name of the secret shows that it looked.
        let lies = |text: &str| anyhow::Ok(host.run(&["grep", "-rlasE", text, &path(&host)])?.stdout);
        let found = lies("hunter2|hunter3|aHVudGVy")?;
        ensure!(found.is_empty(), "values lie in the clear in {found}");
        ensure!(lies("db-password")?.contains("state.db"), "the state was not looked at");
        let past = said(&world.command(&host, &["events", "shell"])?)?;
        ensure!(past.contains("instance_requested") && past.contains("RUNNING"), "{past}");
        api.delete_application("streams")
    })
}

fn path(host: &Host) -> String {
    host.directory().to_string_lossy().into_owned()
}

fn said(output: &Output) -> anyhow::Result<String> {
    ensure!(output.code == Some(0), "{output:?}");
    Ok(output.stdout.clone())
}

/// A command of `oak` with this on its standard input.
fn with_input(world: &World, host: &Host, input: &str, words: &[&str]) -> anyhow::Result<Output> {
    let binary = world.binary()?;
    let script = "text=$1; shift; printf %s \"$text\" | \"$@\"";
    let binary = binary.to_string_lossy();
    host.run(&[&["sh", "-c", script, "sh", input, &*binary], words].concat())
}

fn background(
    world: &World,
    host: &Host,
    words: &[&str],
    output: &std::path::Path,
) -> anyhow::Result<Background> {
    let mut command = host.command(&world.binary()?.to_string_lossy());
    command.args(words).stdin(std::process::Stdio::piped()).stdout(File::create(output)?);
    command.stderr(File::create(output.with_extension("errors"))?);
    Ok(Background(command.spawn().context("cannot start oak")?))
}

fn secrets_are_inside(world: &World, host: &Host) -> anyhow::Result<()> {
    let inside = |script: &str| said(&world.command(host, &["exec", "shell", "--", "sh", "-c", script])?);
    let first = inside("tr '\\0' '\\n' < /proc/1/environ | grep ^DB_PASSWORD=")?;
    ensure!(first == "DB_PASSWORD=hunter2\n", "{first}");
    ensure!(inside("printf %s \"$DB_PASSWORD\"")? == "hunter2");
    ensure!(inside("cat /run/secrets/db")? == "hunter2");
    let mode = inside("ls -l /run/secrets/db")?;
    ensure!(mode.starts_with("-r--------"), "{mode}");
    Ok(())
}

fn programs_run(world: &World, host: &Host) -> anyhow::Result<()> {
    let exec = |words: &[&str]| world.command(host, &[&["exec"], words].concat());
    let echoed = said(&exec(&["shell/0", "--", "echo", "hello", "world"])?)?;
    ensure!(echoed == "hello world\n", "{echoed}");
    let piped = with_input(world, host, "some input", &["exec", "-i", "shell", "--", "cat"])?;
    ensure!(said(&piped)? == "some input", "{piped:?}");
    let failed = exec(&["shell", "--", "sh", "-c", "echo oops >&2; exit 7"])?;
    ensure!((failed.code, failed.stderr.as_str()) == (Some(7), "oops\n"), "{failed:?}");
    let terminal = said(&exec(&["-t", "shell", "--", "sh", "-c", "test -t 0 && test -t 1 && echo shown"])?)?;
    ensure!(terminal == "shown\r\n", "{terminal:?}");
    let unknown = exec(&["shell", "--", "no-such-program"])?;
    ensure!(unknown.code == Some(1) && unknown.stderr.contains("no-such-program"), "{unknown:?}");

    let output = host.directory().join("sleeper.out");
    let sleeper = background(world, host, &["exec", "-i", "shell", "--", "sleep", "4242"], &output)?;
    let is_there = || anyhow::Ok(host.run(&["pgrep", "-f", "^sleep 4242"])?.code == Some(0));
    eventually("the program runs", soon(), || {
        ensure!(is_there()?);
        Ok(())
    })?;
    // What was started here only enters the machine; the client itself dies without a word.
    let kill = "kill -9 $(pgrep -f '^[^ ]*oak exec -i shell')";
    said(&host.run(&["sh", "-c", kill])?)?;
    drop(sleeper);
    eventually("the program ends with its client", soon(), || {
        ensure!(!is_there()?);
        Ok(())
    })
}

fn times_of_output(world: &World, host: &Host) -> anyhow::Result<()> {
    let timed = said(&world.command(host, &["logs", "shell", "--timestamps", "--since", "1h"])?)?;
    ensure!(timed.ends_with("Z begun\n") && timed.starts_with("20"), "{timed}");
    let none = said(&world.command(host, &["logs", "shell", "--since", "2100-01-01T00:00:00Z"])?)?;
    ensure!(none.is_empty(), "{none}");
    Ok(())
}

fn pulls_log_in(world: &World, host: &Host, api: &Api<'_>, registry: &str) -> anyhow::Result<()> {
    api.deploy("private")?;
    api.wait_status("private", "FAILED", &["asks for a user name and a password"])?;
    let login = ["registry", "login", registry, "--username", "puller"];
    said(&with_input(world, host, "hunter3", &login)?)?;
    api.wait_running("private", 1)?;
    let listed = said(&world.command(host, &["registry", "ls"])?)?;
    ensure!(listed.contains(registry) && listed.contains("puller"), "{listed}");
    Ok(())
}
