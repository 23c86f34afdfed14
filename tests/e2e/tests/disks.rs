//! Disks that are full or damaged, and backups: what runs goes on, nothing acknowledged is lost, and everything that
//! cannot be done is said with the way out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Host, Machines, Microservice, Tiers, World, application, container_cgroups, eventually, get,
    is_alive, let_pass, processes_of, soon,
};
use rustix::process::{Pid, Signal, kill_process};

const TALKER: &str = "trap 'exit 0' TERM; while true; do echo tick; sleep 0.1; done";
const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

fn data(host: &Host) -> PathBuf {
    host.directory().join("data")
}

/// A small disk for the data directory, seen by this machine only.
fn mount_small_disk(host: &Host, mib: u32) -> anyhow::Result<()> {
    fs::create_dir_all(data(host))?;
    let (size, place) = (format!("size={mib}m"), data(host).display().to_string());
    host.check(&["mount", "-t", "tmpfs", "-o", &size, "small-disk", &place]).map(drop)
}

/// Writes a file until only about `left_kib` are free.
fn fill(host: &Host, name: &str, left_kib: u64) -> anyhow::Result<()> {
    let place = data(host).join(name).display().to_string();
    let script = format!(
        "free=$(df --output=avail -k {data} | tail -1)
         take=$(( free > {left_kib} ? free - {left_kib} : 0 ))
         head -c $(( take * 1024 )) /dev/zero >>{place} || true
         [ {left_kib} -gt 0 ] || cat /dev/zero >>{place} 2>/dev/null || true",
        data = data(host).display()
    );
    host.check(&["sh", "-c", &script]).map(drop)
}

fn free(host: &Host, name: &str) -> anyhow::Result<()> {
    host.check(&["rm", &data(host).join(name).display().to_string()]).map(drop)
}

/// The first process of the only instance of a service, a shell.
fn process_of(host: &Host, api: &Api<'_>, service: &str) -> anyhow::Result<i32> {
    let record = api.service(service)?;
    let id = record["microserviceID"].as_str().context("a service without an id")?.to_owned();
    let names = container_cgroups(host)?;
    let name =
        names.iter().find(|name| name.starts_with(&id)).with_context(|| format!("{service}: {names:?}"))?;
    // Not what the shell has started, nor what starts the shell.
    let is_shell =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sh\0-c\0"));
    processes_of(host, name)?.into_iter().find(is_shell).context("no process")
}

fn readiness(host: &Host) -> anyhow::Result<String> {
    Ok(get(host, "http://127.0.0.1:10000/readyz")?.body)
}

#[test]
fn a_full_disk_stops_nothing_that_runs() -> anyhow::Result<()> {
    World::run("full_disk", |world| {
        let host = world.host("device", 10)?;
        mount_small_disk(&host, 300)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        api.create(&application(
            "lasting",
            [Microservice::shell("talker", TALKER), Microservice::nginx("late")],
        ))?;
        api.deploy("talker")?;
        api.wait_running("talker", 1)?;

        // No room for an image: said with place and numbers, and nothing half-written stays.
        fill(&host, "hog", 30 << 10)?;
        api.deploy("late")?;
        let place = data(&host).display().to_string();
        api.wait_status("late", "FAILED", &["no space left on this node", &place, "MiB free"])?;
        let blobs =
            host.check(&["ls", "-A", &data(&host).join("worker/images/blobs").display().to_string()])?;
        ensure!(blobs.trim().is_empty(), "left behind: {blobs}");
        api.undeploy("late", -1)?;

        // No room at all, not even in the ballast.
        eventually("the root says that it takes no changes", soon(), || {
            fill(&host, "hog2", 0)?;
            // The root learns of it when it writes, so something has to be written.
            let token = api.send("POST", "/api/tokens", Some(r#"{"role":"cluster"}"#))?;
            ensure!(token.status != 422, "{token:?}");
            let ready = readiness(&host)?;
            ensure!(ready.contains("read-only"), "{ready}");
            Ok(())
        })?;
        fill(&host, "hog2", 0)?;
        let page = api.send("POST", "/api/application/", Some(&application("other", [])))?;
        ensure!(page.status == 507, "{page:?}");
        ensure!(page.body.contains("\"message\"") && page.body.contains("full"), "{page:?}");
        ensure!(page.body.contains("df -h"), "the way out is not named: {page:?}");
        ensure!(api.find_application("lasting")?.is_some(), "reading does not work");
        ensure!(api.find_application("other")?.is_none(), "something was stored");

        // What runs is untouched, and starts again when it ends.
        let before = process_of(&host, &api, "talker")?;
        ensure!(is_alive(before));
        kill_process(Pid::from_raw(before).context("no pid")?, Signal::KILL)?;
        let after = eventually("the killed instance runs again", soon(), || {
            let now = process_of(&host, &api, "talker")?;
            ensure!(now != before && is_alive(now), "{now}");
            Ok(now)
        })?;
        ensure!(oak.is_running(), "oak ended");

        // A new start needs no room either.
        oak.kill()?;
        fill(&host, "hog2", 0)?;
        oak.start_until("worker ready")?;
        oak.wait_for_log("connected to the cluster")?;
        ensure!(api.find_application("lasting")?.is_some(), "reading does not work after a start");
        ensure!(process_of(&host, &api, "talker")? == after, "the new start touched it");

        for name in ["hog", "hog2"] {
            free(&host, name)?;
        }
        eventually("the root takes changes again", soon(), || {
            let ready = readiness(&host)?;
            ensure!(ready.contains("\"ready\""), "{ready}");
            Ok(())
        })?;
        api.create(&application("other", [Microservice::shell("new", SLEEP)]))?;
        api.deploy("new")?;
        api.wait_running("new", 1)?;
        api.wait_running("talker", 1)?;
        ensure!(process_of(&host, &api, "talker")? == after, "it was started once more");
        eventually("the log goes on", soon(), || {
            let output = world.command(&host, &["logs", "talker", "--tail", "1"])?;
            ensure!(output.stdout.contains("tick"), "{output:?}");
            Ok(())
        })?;
        let log = oak.log_of_this_life()?;
        let told = log.matches("the disk does not take everything").count();
        ensure!((1..=3).contains(&told), "told {told} times, there are three stores:\n{log}");

        // All of it was written.
        oak.kill()?;
        oak.start_until("worker ready")?;
        ensure!(api.find_application("other")?.is_some());
        api.wait_running("new", 1)?;
        ensure!(process_of(&host, &api, "talker")? == after, "the restart of oak touched it");
        Ok(())
    })
}

#[test]
fn a_backup_is_put_back_on_a_fresh_directory() -> anyhow::Result<()> {
    World::run("backup", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let services = [Microservice::shell("one", SLEEP), Microservice::shell("two", SLEEP)];
        api.create(&application("saved", services))?;
        api.deploy("one")?;
        api.deploy("two")?;
        api.wait_running("one", 1)?;
        api.wait_running("two", 1)?;

        let file = host.directory().join("backup.tar").display().to_string();
        let made = world.command(&host, &["backup", "--output", &file])?;
        ensure!(made.code == Some(0), "{made:?}");
        let checked = world.command(&host, &["backup", "--verify", &file])?;
        ensure!(checked.code == Some(0) && checked.stdout == made.stdout, "{checked:?}");
        let refused = world.command(&host, &["restore", &file, "--replace"])?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("already running"), "{refused:?}");

        ensure!(world.command(&host, &["down"])?.code == Some(0));
        oak.wait_for_end()?;
        let refused = world.command(&host, &["restore", &file])?;
        ensure!(refused.code == Some(1) && refused.stderr.contains("--replace"), "{refused:?}");
        fs::rename(data(&host), host.directory().join("lost"))?;
        let restored = world.command(&host, &["restore", &file])?;
        ensure!(restored.code == Some(0) && restored.stdout == made.stdout, "{restored:?}");

        oak.start_until("worker ready")?;
        let services = api.call("GET", "/api/services/", None)?;
        ensure!(services.as_array().is_some_and(|all| all.len() == 2), "{services}");
        api.wait_running("one", 1)?;
        api.wait_running("two", 1)?;
        // The clusters and workers of before are members still, and new work finds them.
        api.deploy("one")?;
        api.wait_running("one", 2)?;
        Ok(())
    })
}

/// What was deployed after the backup is not lost: the root takes it over from its cluster, and nothing is restarted.
#[test]
fn a_root_set_back_to_an_older_backup_takes_over_what_came_later() -> anyhow::Result<()> {
    World::run("older_root", |world| {
        let machines = Machines::create(world, 1)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let worker = &machines.workers[0];
        let services = ["kept", "later"].map(|name| Microservice::shell(name, SLEEP));
        tiers.api.create(&application("app", services))?;
        tiers.api.deploy("kept")?;
        tiers.api.wait_running("kept", 1)?;
        let file = machines.root.directory().join("backup.tar").display().to_string();
        let made = world.command(&machines.root, &["backup", "--output", &file])?;
        ensure!(made.code == Some(0), "{made:?}");

        tiers.api.deploy("later")?;
        tiers.api.create(&application("young", [Microservice::shell("youngest", SLEEP)]))?;
        tiers.api.deploy("youngest")?;
        let all = ["kept", "later", "youngest"];
        for name in all {
            tiers.api.wait_running(name, 1)?;
        }
        let before = all.map(|name| process_of(worker, &tiers.api, name).ok());
        tiers.root.kill()?;
        let restored = world.command(&machines.root, &["restore", &file, "--replace"])?;
        ensure!(restored.code == Some(0), "{restored:?}");
        let aside = fs::read_dir(data(&machines.root))?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("replaced-"));
        ensure!(aside, "the newer state was not kept");
        tiers.root.start_until("restored from a backup")?;
        tiers.root.wait_for_log("root ready")?;

        for name in all {
            eventually("the root knows it again", soon(), || {
                ensure!(tiers.api.instances(name)?.len() == 1);
                Ok(())
            })?;
            tiers.api.wait_running(name, 1)?;
        }
        // Numbers are not given twice, and new work goes on.
        for name in all {
            let number = tiers.api.deploy(name)?;
            ensure!(number == 1, "{name} got number {number}");
            tiers.api.wait_running(name, 2)?;
        }
        for pid in before {
            ensure!(is_alive(pid.context("no process")?), "something was restarted");
        }
        Ok(())
    })
}

#[test]
fn damaged_files_are_named_with_the_way_out() -> anyhow::Result<()> {
    World::run("damaged", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let services = ["one", "two"].map(|name| Microservice::shell(name, SLEEP));
        api.create(&application("app", services))?;
        for name in ["one", "two"] {
            api.deploy(name)?;
            api.wait_running(name, 1)?;
        }

        // One row of the worker: the others do not notice, and the cluster tells it again.
        let (one, two) = (process_of(&host, &api, "one")?, process_of(&host, &api, "two")?);
        oak.kill()?;
        let record = row_of(&host, "one")?;
        fs::write(&record, b"\0\0\0\0")?;
        oak.start_until("put aside under this name")?;
        oak.wait_for_log("connected to the cluster")?;
        api.wait_running("one", 1)?;
        api.wait_running("two", 1)?;
        ensure!(record.with_extension("json.damaged").exists());
        ensure!(process_of(&host, &api, "two")? == two && is_alive(two), "the other one was touched");
        ensure!(process_of(&host, &api, "one")? != one);

        // The database of the root: it does not start, and says what helps.
        oak.kill()?;
        let database = data(&host).join("root/state.db");
        fs::remove_file(database.with_extension("db-wal")).context("there is no log")?;
        fs::write(&database, vec![0xa5; 8192])?;
        oak.start()?;
        let code = oak.wait_for_end()?;
        let log = oak.log_of_this_life()?;
        ensure!(code == Some(1), "{code:?}: {log}");
        for text in ["root/state.db is damaged", "oak restore FILE --data-dir", "--replace"] {
            ensure!(log.contains(text), "`{text}` is not in:\n{log}");
        }
        ensure!(is_alive(two), "what ran was stopped");
        Ok(())
    })
}

/// Flash wears out. A worker with containers that do nothing writes nothing; neither do its cluster and its root.
#[test]
fn who_is_idle_writes_nothing() -> anyhow::Result<()> {
    World::run("flash", |world| {
        let machines = Machines::create(world, 1)?;
        let tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&application("app", [Microservice::shell("still", SLEEP)]))?;
        tiers.api.deploy("still")?;
        tiers.api.wait_running("still", 1)?;
        let shell = process_of(&machines.workers[0], &tiers.api, "still")?;
        let shim = parent_of(shell)?;
        let pids = [tiers.workers[0].pid()?, shim, tiers.cluster.pid()?, tiers.root.pid()?];
        let written = || pids.iter().map(|pid| bytes_written(*pid)).collect::<anyhow::Result<Vec<u64>>>();
        // Starting is over when a few seconds pass without a write.
        let before = eventually("everything is still", soon(), || {
            let before = written()?;
            let_pass(Duration::from_secs(3));
            let now = written()?;
            ensure!(before == now, "{before:?} {now:?}");
            Ok(now)
        })?;
        let_pass(Duration::from_secs(25));
        let grown: u64 = written()?.iter().zip(&before).map(|(now, before)| now - before).sum();
        ensure!(grown == 0, "{grown} bytes were written in 25 s: {before:?} {:?}", written()?);
        Ok(())
    })
}

/// What a process had written to disks, bytes.
fn bytes_written(pid: i32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(bytes.context("no write_bytes")?.trim().parse()?)
}

fn parent_of(pid: i32) -> anyhow::Result<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(parent.context("no parent")?.trim().parse()?)
}

/// The file with the worker's row of a service's instance.
fn row_of(host: &Host, service: &str) -> anyhow::Result<PathBuf> {
    let folder = data(host).join("worker/workloads");
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::read_to_string(&path)?.contains(&format!("\"service\":\"{service}\"")) {
            return Ok(path);
        }
    }
    anyhow::bail!("no row of {service}")
}
