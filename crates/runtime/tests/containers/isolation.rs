//! What a container can and cannot see and do.

use crate::world::World;

#[tokio::test]
async fn an_ordinary_container_is_confined() {
    let Some(world) = World::new() else { return };
    let script = "
        unshare -m true 2>/dev/null && echo unshare
        unshare -U true 2>/dev/null && echo unshare-user
        mount -t tmpfs none /tmp 2>/dev/null && echo mount
        hostname other 2>/dev/null && echo hostname
        mknod /tmp/disk b 254 0 2>/dev/null && cat /tmp/disk >/dev/null 2>&1 && echo disk
        echo 1 > /proc/sys/vm/drop_caches 2>/dev/null && echo sysctl
        touch /sys/fs/cgroup/x 2>/dev/null && echo cgroup
        for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
            (echo 999999999 > $f) 2>/dev/null && echo limit
        done
        cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max
        cat /proc/kcore 2>/dev/null | head -c 1 | grep -q . && echo kcore
        echo pids $(ls -d /proc/[0-9]* | wc -l)
        grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
        ls /dev";
    let mut request = world.shell("a", script);
    request.limits.memory_bytes = Some(64 << 20);
    let (status, said) = world.run(request).await.unwrap();
    assert!(status.is_success(), "{said}");
    assert!(said.lines().any(|line| line == "67108864"), "own limit is not visible: {said}");
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    for escaped in
        ["unshare", "unshare-user", "mount", "hostname", "disk", "sysctl", "cgroup", "limit", "kcore"]
    {
        assert!(!lines.contains(&escaped), "{escaped} is possible: {said}");
    }
    // the shell, the substitution, ls, wc
    assert!(lines.iter().any(|line| matches!(*line, "pids 3" | "pids 4")), "{said}");
    for expected in [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "ptmx",
        "pts",
        "shm",
        "mqueue",
        "fd",
        "stdin",
    ] {
        assert!(lines.contains(&expected), "no {expected}: {said}");
    }
}

#[tokio::test]
async fn ordinary_programs_run_under_the_filter() {
    let Some(world) = World::new() else { return };
    let script = "echo x > /dev/shm/f; cat /dev/shm/f; head -c 3 /dev/urandom | wc -c
        echo a > /dev/null; (sleep 0.01 & wait); yes | head -n 1000 | wc -l; chroot / true && echo chroot
        ulimit -n; stat -c %a /tmp /dev/shm";
    let (status, said) = world.run(world.shell("a", script)).await.unwrap();
    assert_eq!(said, "x\n3\n1000\nchroot\n1024\n755\n1777\n");
    assert!(status.is_success());
}

#[tokio::test]
async fn the_program_starts_with_default_signals_and_no_privileged_score() {
    let Some(world) = World::new() else { return };
    let (_, said) = world
        .run(world.program("a", &["cat", "/proc/self/status", "/proc/self/oom_score_adj"]))
        .await
        .unwrap();
    for expected in ["SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000", "0"] {
        assert!(said.lines().any(|line| line == expected), "no {expected}: {said}");
    }
}

#[tokio::test]
async fn a_privileged_container_may_do_almost_everything() {
    let Some(world) = World::new() else { return };
    let script = "mount -t tmpfs none /tmp && echo mounted
        unshare -m true && echo unshared
        grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; ls /dev";
    let mut request = world.shell("a", script);
    request.privileged = true;
    let (_, said) = world.run(request).await.unwrap();
    for expected in ["mounted", "unshared", "NoNewPrivs:\t0", "Seccomp:\t0"] {
        assert!(said.lines().any(|line| line == expected), "no {expected}: {said}");
    }
    let kmsg = std::path::Path::new("/dev/kmsg").exists();
    assert_eq!(said.lines().any(|line| line == "kmsg"), kmsg, "{said}");
}

#[tokio::test]
async fn namespaces_are_the_containers_own() {
    let Some(world) = World::new() else { return };
    let script =
        "for n in cgroup ipc mnt net pid uts; do stat -L -c $n:%i /proc/self/ns/$n; done; ls /sys/class/net";
    let (_, said) = world.run(world.shell("a", script)).await.unwrap();
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        let host = std::fs::metadata(format!("/proc/self/ns/{name}")).unwrap();
        let host = format!("{name}:{}", std::os::unix::fs::MetadataExt::ino(&host));
        assert!(said.contains(&format!("{name}:")) && !said.contains(&host), "{said}");
    }
    assert!(said.contains("lo") && !said.contains("eth0"), "{said}");
}

#[tokio::test]
async fn a_given_network_namespace_is_joined() {
    let Some(world) = World::new() else { return };
    let mut request = world.shell("a", "stat -L -c %i /proc/self/ns/net");
    request.network_namespace = Some("/proc/self/ns/net".into());
    let (_, said) = world.run(request).await.unwrap();
    let own = std::fs::metadata("/proc/self/ns/net").unwrap();
    assert_eq!(said.trim(), std::os::unix::fs::MetadataExt::ino(&own).to_string());
}

#[tokio::test]
async fn the_image_is_not_changed_by_its_containers() {
    let Some(world) = World::new() else { return };
    let (_, said) = world.run(world.shell("a", "echo new > /etc/motd; cat /etc/motd")).await.unwrap();
    assert_eq!(said, "new\n");
    let layer = std::fs::read_to_string(world.path().join("users/etc/motd")).unwrap();
    assert_eq!(layer, "upper\n");
    let (_, said) = world.run(world.shell("b", "cat /etc/motd")).await.unwrap();
    assert_eq!(said, "upper\n");
}
