//! The same container started by `crun run`, as the measure for what a start costs on this machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Runs for the whole benchmark, so that the cost of its namespace is in no sample. crun refuses machines that have
/// an empty tree of cgroup version 2 beside those of version 1; in here it does not see it.
const HELPER: &str = r#"
set -e
if [ -e /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/rootfs"
echo ready
while read -r what id; do
    case "$what" in
    run) crun --root "$2/state" --cgroup-manager=cgroupfs run --bundle "$2" "$id" >"$2/log" 2>&1 </dev/null & ;;
    end)
        crun --root "$2/state" kill "$id" KILL
        wait
        crun --root "$2/state" delete --force "$id" 2>/dev/null || true
        echo ended
        ;;
    esac
done
"#;

/// A bundle like the one oak made, and a shell that runs it.
pub(crate) struct Crun {
    helper: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    bundle: PathBuf,
    number: u32,
}

impl Crun {
    /// Makes a bundle in `bundle` from the files of a container that oak runs in `container`.
    pub(crate) fn like(container: &Path, bundle: &Path) -> anyhow::Result<Self> {
        for folder in ["upper", "work", "rootfs", "state", "files"] {
            fs::create_dir_all(bundle.join(folder))?;
        }
        let read = |name: &str| -> anyhow::Result<Value> {
            let path = container.join(name);
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(serde_json::from_slice(&text)?)
        };
        let request = read("request.json")?;
        let layer = request["layers"][0].as_str().context("the container has no layer")?.to_owned();
        let configuration = adapt(read("config.json")?, bundle)?;
        fs::write(bundle.join("config.json"), configuration.to_string())?;
        let mut helper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", HELPER, "crun-helper", &layer])
            .arg(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(bundle.join("helper.log"))?)
            .spawn()
            .context("cannot run unshare")?;
        let commands = helper.stdin.take();
        let answers = BufReader::new(helper.stdout.take().context("the helper has no output")?);
        let mut crun = Self { helper, commands, answers, bundle: bundle.to_owned(), number: 0 };
        crun.expect("ready")?;
        Ok(crun)
    }

    /// Begins a start.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        self.tell("run")
    }

    /// Ends the container and waits until nothing is left of it.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        self.tell("end")?;
        self.expect("ended")
    }

    /// What crun said, for the case that its container does not answer.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.bundle.join("log")).unwrap_or_default()
    }

    fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let line = format!("{what} oak-bench-{}-{}\n", std::process::id(), self.number);
        let commands = self.commands.as_mut().context("the helper is gone")?;
        commands.write_all(line.as_bytes()).context("the helper is gone")
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.trim() != word {
            let log = fs::read_to_string(self.bundle.join("helper.log")).unwrap_or_default();
            bail!("crun cannot be used: {log} {}", self.log());
        }
        Ok(())
    }
}

impl Drop for Crun {
    fn drop(&mut self) {
        // The end of its input ends the helper.
        self.commands.take();
        let _ = self.helper.wait();
    }
}

/// The configuration of oak without what only oak has: its network namespace, its cgroup, its files.
fn adapt(mut configuration: Value, bundle: &Path) -> anyhow::Result<Value> {
    configuration["root"]["path"] = "rootfs".into();
    let linux = &mut configuration["linux"];
    linux["cgroupsPath"] = format!("/oak-bench-{}", std::process::id()).into();
    let namespaces = linux["namespaces"].as_array_mut().context("no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    let mounts = configuration["mounts"].as_array_mut().context("no mounts")?;
    let inside = |mount: &Value, parent: &str| {
        mount["destination"].as_str().is_some_and(|path| path.starts_with(parent))
    };
    mounts.retain(|mount| !inside(mount, "/sys/fs/cgroup"));
    mounts.push(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
    }));
    for mount in mounts.iter_mut().filter(|mount| inside(mount, "/etc/")) {
        let source = PathBuf::from(mount["source"].as_str().unwrap_or_default());
        let copy = bundle.join("files").join(source.file_name().unwrap_or_default());
        fs::copy(&source, &copy).with_context(|| format!("cannot copy {}", source.display()))?;
        // crun 1.8 fails on files with `rro`.
        mount["options"] = json!(["bind", "rprivate", "ro"]);
        mount["source"] = copy.to_string_lossy().into();
    }
    Ok(configuration)
}
