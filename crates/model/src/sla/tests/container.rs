//! Volumes, files, health checks and restarts.

use serde_json::{Value, json};

use super::{parse_service, service};
use crate::container::HOSTPATH_DRIVER;
use crate::{HealthCheck, Probe, RestartPolicy};

/// The only problem of a service with these changes, as a text.
fn problem(changes: &Value) -> String {
    let errors = parse_service(changes).expect_err(&changes.to_string());
    let [problem] = errors.problems() else { panic!("{changes}: {errors}") };
    problem.to_string().replace("applications[0].microservices[0].", "")
}

fn volume(changes: Value) -> Value {
    let base = json!({"volume_id": "data", "csi_driver": HOSTPATH_DRIVER});
    json!({"volumes": [super::merged(base, &changes)]})
}

#[test]
fn a_volume_has_a_place_inside_and_a_folder_outside() {
    let read = |changes| service(&volume(changes)).spec.volumes.remove(0);
    let plain = read(json!({}));
    assert_eq!((plain.mount_path.as_str(), plain.folder()), ("/mnt/csi/data", "data"));
    let full = read(json!({"mount_path": "/root/.ollama", "config": {"host_path": "shop/ollama"}}));
    assert_eq!((full.mount_path.as_str(), full.folder()), ("/root/.ollama", "shop/ollama"));
    let other =
        read(json!({"csi_driver": "nfs.example", "volume_id": "server#/share", "mount_path": "/data"}));
    assert_eq!((other.driver.as_str(), other.id.as_str()), ("nfs.example", "server#/share"));
}

#[test]
fn no_folder_of_a_volume_is_outside_of_their_root() {
    for folder in ["../x", "a/../../x", "/etc", "a//b", "a/", "./a", ".."] {
        let text = problem(&volume(json!({"config": {"host_path": folder}})));
        assert!(text.starts_with("volumes[0].config.host_path: leads out"), "{text}");
        let text = problem(&volume(json!({"volume_id": folder, "mount_path": "/data"})));
        assert!(text.starts_with("volumes[0].volume_id: leads out"), "{text}");
    }
}

#[test]
fn volumes_and_files_are_refused_with_the_reason() {
    for (changes, words) in [
        (json!({"volumes": [{"csi_driver": "d"}]}), "volumes[0].volume_id: is required"),
        (json!({"volumes": [{"volume_id": "d"}]}), "volumes[0].csi_driver: is required"),
        (volume(json!({"mount_path": "data"})), "volumes[0].mount_path: must be an absolute path"),
        (volume(json!({"mount_path": "/"})), "volumes[0].mount_path: must be an absolute path"),
        (volume(json!({"mount_path": "/a/../b"})), "volumes[0].mount_path: must be an absolute path"),
        (volume(json!({"mount_path": "/proc/x"})), "/proc belongs to the kernel"),
        (volume(json!({"mount_path": "/etc/hosts"})), "the worker writes this file"),
        (volume(json!({"mount_path": "/etc/resolv.conf"})), "the worker writes this file"),
        (json!({"added_files": ["/etc/hostname=x"]}), "the worker writes this file"),
        (volume(json!({"config": {"host_path": 1}})), "volumes[0].config.host_path: must be a text"),
        (volume(json!({"config": {"mode": "x"}})), "knows only `host_path`"),
        (volume(json!({"readonly": true})), "volumes[0].readonly: is not known here"),
        (volume(json!({"csi_driver": "x", "volume_id": "a#b/../c"})), "volumes[0].mount_path: is required"),
        (json!({"added_files": ["http://x"]}), "added_files[0]: must be of the form `/path=text`"),
        (json!({"added_files": ["/a=base64:!"]}), "added_files[0]: must be valid base64"),
        (json!({"added_files": ["/a=1", "/a=2"]}), "added_files[1]: is taken by applications[0].micro"),
        (json!({"added_files": ["/dev/sda=1"]}), "/dev belongs to the kernel"),
        (json!({"added_files": [format!("/a={}", "x".repeat(256 * 1024))]}), "262144 bytes together"),
        (json!({"added_files": vec!["/a=1"; 65]}), "at most 64 files"),
    ] {
        // `is taken by` names the whole path of the other one.
        let errors = parse_service(&changes).expect_err(&changes.to_string()).to_string();
        let text = errors.replacen("applications[0].microservices[0].", "", 1);
        assert!(text.contains(words), "{changes}: {text}");
    }
    let mut both = volume(json!({"mount_path": "/a"}));
    both["added_files"] = json!(["/a=1"]);
    assert!(problem(&both).contains("is taken by volumes[0].mount_path"));
}

#[test]
fn files_keep_what_is_in_them() {
    let spec = service(&json!({"added_files": ["/etc/app.conf=a=b\n", "/x=base64:AP8="]})).spec;
    let files: Vec<_> = spec.added_files.iter().map(|file| (file.path(), file.content())).collect();
    assert_eq!(files, [("/etc/app.conf", &b"a=b\n"[..]), ("/x", &[0, 255][..])]);
}

#[test]
fn a_service_may_have_its_own_resolver_settings() {
    let spec = service(&json!({"added_files": ["/etc/resolv.conf=nameserver 192.0.2.53\n"]})).spec;
    assert_eq!(spec.added_files.first().map(|file| file.path()), Some("/etc/resolv.conf"));
}

#[test]
fn a_health_check_has_one_probe_and_usual_times() {
    let read = |check: Value| service(&json!({"healthcheck": check})).spec.healthcheck;
    let usual =
        |probe| Some(HealthCheck { probe, interval_s: 10, timeout_s: 2, retries: 3, start_period_s: 0 });
    assert_eq!(read(json!({})), None);
    assert_eq!(read(json!({"tcp": {"port": 6379}})), usual(Probe::Tcp { port: 6379 }));
    assert_eq!(
        read(json!({"http": {"port": 80, "scheme": "http"}})),
        usual(Probe::Http { port: 80, path: "/".into() })
    );
    assert_eq!(read(json!({"command": ["true"]})), usual(Probe::Command(vec!["true".into()])));
    let times =
        json!({"tcp": {"port": 1}, "interval_s": 1, "timeout_s": 5, "retries": 1, "start_period_s": 60});
    assert_eq!(
        read(times),
        Some(HealthCheck {
            probe: Probe::Tcp { port: 1 },
            interval_s: 1,
            timeout_s: 5,
            retries: 1,
            start_period_s: 60
        })
    );
}

#[test]
fn wrong_health_checks_are_refused() {
    for (check, words) in [
        (json!([]), "healthcheck: must be an object"),
        (
            json!({"interval_s": 1}),
            "healthcheck: must be an object with exactly one of http, tcp and command",
        ),
        (json!({"tcp": {"port": 1}, "command": ["x"]}), "exactly one of"),
        (json!({"tcp": {}}), "healthcheck.tcp.port: is required"),
        (json!({"tcp": {"port": 0}}), "healthcheck.tcp.port: must be a port"),
        (json!({"tcp": {"port": 65536}}), "healthcheck.tcp.port: must be a port"),
        (json!({"http": {"port": 1, "path": "x"}}), "healthcheck.http.path: must be a path"),
        (json!({"http": {"port": 1, "path": "/a b"}}), "healthcheck.http.path: must be a path"),
        (json!({"http": {"port": 1, "path": "/\r\nX: y"}}), "healthcheck.http.path: must be a path"),
        (json!({"http": {"port": 1, "scheme": "https"}}), "plain HTTP"),
        (json!({"command": []}), "healthcheck.command: must be a list of texts"),
        (json!({"command": ["a\u{0}"]}), "without NUL"),
        (json!({"tcp": {"port": 1}, "interval_s": 0}), "healthcheck.interval_s: must be an integer from 1"),
        (
            json!({"tcp": {"port": 1}, "retries": 101}),
            "healthcheck.retries: must be an integer from 1 to 100",
        ),
        (json!({"tcp": {"port": 1}, "interval": 5}), "healthcheck.interval: is not known here"),
    ] {
        let text = problem(&json!({"healthcheck": check}));
        assert!(text.contains(words), "{check}: {text}");
    }
}

#[test]
fn restart_and_stop_grace_are_read() {
    let spec = |changes: Value| service(&changes).spec;
    assert_eq!(spec(json!({})).restart, RestartPolicy::Always);
    assert_eq!(spec(json!({})).stop_grace_s, None);
    assert_eq!(spec(json!({"restart": "on-failure"})).restart, RestartPolicy::OnFailure);
    assert_eq!(spec(json!({"restart": "never", "stop_grace_s": 0.0})).stop_grace_s, Some(0));
    assert!(spec(json!({"restart": "never"})).finishes_by_itself());
}

#[test]
fn a_specification_of_before_has_none_of_it_and_is_written_as_before() {
    let before = service(&json!({})).spec;
    let text = serde_json::to_string(&before).unwrap();
    for key in ["volumes", "added_files", "healthcheck", "restart", "stop_grace_s"] {
        assert!(!text.contains(key), "{text}");
    }
    assert_eq!(serde_json::from_str::<crate::ServiceSpec>(&text).unwrap(), before);
    let full = service(&json!({
        "restart": "never", "healthcheck": {"http": {"port": 80}}, "stop_grace_s": 3,
        "added_files": ["/a=1"], "volumes": [{"volume_id": "v", "csi_driver": "d"}],
    }));
    let text = serde_json::to_string(&full.spec).unwrap();
    assert_eq!(serde_json::from_str::<crate::ServiceSpec>(&text).unwrap(), full.spec);
}
