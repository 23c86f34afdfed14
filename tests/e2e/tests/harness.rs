//! The harness itself: it notices what is left behind, and leaves nothing behind.

use std::path::Path;

use anyhow::{Context as _, ensure};
use oak_e2e::{Footprint, World, eventually, soon};

#[test]
fn leftovers_of_every_kind_are_noticed_and_end_with_the_machine() -> anyhow::Result<()> {
    World::run("harness", |world| {
        let host = world.host("machine", 10)?;
        let before = Footprint::of(&host)?;
        before.nothing_more_than(&before)?;
        let init = host.pid();

        let mut sleeper = host.command("sleep").arg("1000").spawn()?;
        host.check(&["ip", "link", "add", "name", "left0", "type", "veth", "peer", "name", "left1"])?;
        host.check(&["nft", "add table inet left"])?;
        host.check(&["mount", "-t", "tmpfs", "left", "/mnt"])?;
        host.check(&[
            "sh",
            "-c",
            "for g in /sys/fs/cgroup/*/; do mkdir \"$g/left\" 2>/dev/null; done; true",
        ])?;
        let error = eventually("all leftovers are noticed", soon(), || {
            let said =
                Footprint::of(&host)?.nothing_more_than(&before).err().context("nothing was noticed")?;
            ensure!(said.to_string().contains("process sleep"), "{said}");
            Ok(said)
        })?;
        let said = error.to_string();
        for leftover in
            ["1 × process sleep", "device left0", "rule table inet left", "mount /mnt", "cgroup left"]
        {
            ensure!(said.contains(leftover), "{leftover} was not noticed: {said}");
        }

        drop(host);
        sleeper.wait()?;
        ensure!(!Path::new("/proc").join(init.to_string()).exists(), "the machine goes on");
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains("left /mnt"), "the mount is on the real machine");
        Ok(())
    })
}
