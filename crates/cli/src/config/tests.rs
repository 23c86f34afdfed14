//! Layering, origins and messages of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::load::Origin;
use super::settings::SETTINGS;
use super::{Config, ConfigErrors, Loaded, Override, Sources, load};

/// A file that exists while the value lives.
struct File(tempfile::NamedTempFile);

impl File {
    fn with(text: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        Self(file)
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

fn sources(file: &File, environment: &[(&str, &str)]) -> Sources {
    let environment: BTreeMap<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: Some(file.path()), environment, ..Sources::default() }
}

fn origin(loaded: &Loaded, path: &str) -> Origin {
    loaded
        .shown()
        .find(|(setting, ..)| setting.path == path)
        .map(|(.., origin)| origin.clone())
        .expect("a setting")
}

fn problems(result: Result<Loaded, ConfigErrors>) -> Vec<String> {
    result.expect_err("refused").problems.iter().map(ToString::to_string).collect()
}

#[test]
fn later_sources_win_and_every_value_knows_its_origin() {
    let file = File::with(
        "data_dir = \"/data\"\n[root]\nlisten = \"127.0.0.1:1\"\ndashboard = \"off\"\n[cluster]\nname = \"file\"\n",
    );
    let mut sources = sources(
        &file,
        &[
            ("OAK_ROOT_LISTEN", "127.0.0.1:2"),
            ("CLUSTER_NAME", "old"),
            ("SYSTEM_MANAGER_URL", "root.example"),
        ],
    );
    sources.flags = vec![Override { path: "cluster.name", flag: "--name", value: "flag".to_owned() }];
    let loaded = load(&sources).expect("valid");
    let config = &loaded.config;
    assert_eq!(config.root.listen.port(), 2);
    assert_eq!(config.root.dashboard, None);
    assert_eq!(config.cluster.name.as_str(), "flag");
    assert_eq!((config.cluster.root.host(), config.cluster.root.port()), ("root.example", 10000));
    assert_eq!(origin(&loaded, "data_dir"), Origin::File(file.path()));
    assert_eq!(origin(&loaded, "root.listen"), Origin::Environment("OAK_ROOT_LISTEN".to_owned()));
    assert_eq!(origin(&loaded, "cluster.name"), Origin::Flag("--name"));
    assert_eq!(origin(&loaded, "cluster.root"), Origin::Environment("SYSTEM_MANAGER_URL".to_owned()));
    assert_eq!(origin(&loaded, "network.mtu"), Origin::Default);
}

#[test]
fn our_variables_win_over_those_of_the_original() {
    let file = File::with("");
    let loaded =
        load(&sources(&file, &[("OAK_CLUSTER_NAME", "new"), ("CLUSTER_NAME", "old")])).expect("valid");
    assert_eq!(loaded.config.cluster.name.as_str(), "new");
    assert!(load(&sources(&file, &[("OAK_CLUSTER_NAME", ""), ("OAK_SERVER", "x"), ("HOME", "/")])).is_ok());
}

#[test]
fn reads_lists_and_tables() {
    let file = File::with(
        "[images]\nplain_http = [\"a:5000\"]\nsize_limit = \"2GiB\"\n\
         [images.mirrors]\n\"docker.io\" = [\"http://m1:5000\", \"m2\"]\n[network]\nmtu = 1400\n",
    );
    let config = load(&sources(&file, &[])).expect("valid").config;
    assert_eq!(config.images.mirrors["docker.io"], ["http://m1:5000", "m2"]);
    assert!(config.images.plain_http.contains("a:5000"));
    assert_eq!((config.images.size_limit.bytes(), config.network.mtu.bytes()), (2 << 30, 1400));

    let file = File::with("");
    let variables = [("OAK_IMAGES_MIRRORS", "docker.io=m1 m2, quay.io=m3")];
    let config = load(&sources(&file, &variables)).expect("valid").config;
    assert_eq!(config.images.mirrors["docker.io"], ["m1", "m2"]);
}

#[test]
fn tells_everything_that_is_wrong_at_once() {
    let file = File::with(
        "colour = 1\n[root]\nlissten = \"x\"\nlisten = \"here\"\n[netwrok]\nmtu = 1\n[network]\nmtu = 10\n\
         [images]\nmirrors = { x = 1 }\n",
    );
    let mut found = problems(load(&sources(&file, &[("OAK_ROOT_LISTN", "x"), ("OAK_CLUSTER_ROOT", "a b")])));
    // The order within a file is the TOML library's.
    found.sort();
    let place = format!("(file {})", file.path().display());
    assert_eq!(
        found,
        [
            "OAK_ROOT_LISTN (environment OAK_ROOT_LISTN): is not a setting; did you mean `OAK_ROOT_LISTEN`?"
                .to_owned(),
            "cluster.root (environment OAK_CLUSTER_ROOT): must be host or host:port (port 10000 when left out)"
                .to_owned(),
            format!("colour {place}: is not a setting; `oak config show` lists all"),
            format!("images.mirrors {place}: must be a list of texts"),
            format!("network.mtu {place}: must be a whole number from 1280 to 9216"),
            format!("netwrok {place}: is not a setting; did you mean `network`?"),
            format!("root.lissten {place}: is not a setting; did you mean `root.listen`?"),
            format!("root.listen {place}: must be an IP address with a port, such as 0.0.0.0:10000 or [::]:10000"),
        ]
    );
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let missing = Sources { file: Some("/nonexistent/oak.toml".into()), ..Sources::default() };
    assert!(problems(load(&missing))[0].contains("cannot be read"));
    let file = File::with("[root\n");
    assert!(problems(load(&sources(&file, &[])))[0].contains("is not valid TOML"));
}

#[test]
fn what_is_shown_reads_back_and_secrets_are_not_shown() {
    let file = File::with("[worker]\ntoken = \"oak1.w.secret\"\naddress = \"10.0.0.1\"\n");
    let loaded = load(&sources(&file, &[])).expect("valid");
    let mut again = Config::default();
    for (setting, text, _) in loaded.shown() {
        assert!(!text.contains("secret"), "{}", setting.path);
        if setting.path.ends_with("token") {
            continue;
        }
        (setting.set)(&mut again, super::settings::Raw::Text(&text)).expect(setting.path);
    }
    let mut expected = loaded.config;
    assert!(expected.worker.token.take().is_some_and(|token| token.expose() == "oak1.w.secret"));
    assert_eq!(again, expected);
    assert!(SETTINGS.iter().all(|setting| !setting.meaning.is_empty()));
}

#[test]
fn endpoints_and_sizes_in_every_form() {
    use super::kinds::{ByteSize, Endpoint};
    for (text, shown) in [
        ("root", "root:10000"),
        ("root:1", "root:1"),
        ("http://10.0.0.1/", "10.0.0.1:10000"),
        ("::1", "[::1]:10000"),
        ("[::1]", "[::1]:10000"),
        ("[fe80::1]:80", "[fe80::1]:80"),
    ] {
        assert_eq!(
            text.parse::<Endpoint<10000>>().map(|endpoint| endpoint.to_string()).as_deref(),
            Ok(shown)
        );
    }
    for bad in ["", ":80", "a:0", "a:99999", "a b", "a/b", "a:b:c"] {
        assert!(bad.parse::<Endpoint<10000>>().is_err(), "{bad}");
    }
    for (text, bytes) in [("5", 5), ("1KiB", 1024), ("2 MB", 2_000_000), ("3GiB", 3 << 30), ("7B", 7)] {
        assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
    }
    for bad in ["", "GiB", "-1", "1.5GiB", "99999999999TiB"] {
        assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
    }
}

#[test]
fn times_of_the_failure_detection_have_ranges() {
    let file = File::with("[cluster]\nlost_after = \"5s\"\nrestart_grace = \"2m\"\nlease = \"90s\"\n");
    let cluster = load(&sources(&file, &[("OAK_CLUSTER_LOST_AFTER", "1h")])).expect("valid").config.cluster;
    let seconds = |time: std::time::Duration| time.as_secs();
    assert_eq!(seconds(cluster.lost_after.duration()), 3600);
    assert_eq!(seconds(cluster.restart_grace.duration()), 120);
    assert_eq!((seconds(cluster.lease.duration()), cluster.lease.to_string().as_str()), (90, "90s"));

    let file = File::with("[cluster]\nlost_after = 3\nrestart_grace = \"2h\"\nlease = \"5s\"\n");
    let place = format!("(file {})", file.path().display());
    let must = "a whole number with s, m, h or d behind it";
    assert_eq!(
        problems(load(&sources(&file, &[("OAK_CLUSTER_LEASE", "301s")]))),
        [
            format!("cluster.lease {place}: must be a time from 6s to 5m: {must}"),
            format!("cluster.lost_after {place}: must be a time from 1s to 1h: {must}"),
            format!("cluster.restart_grace {place}: must be a time from 1s to 1h: {must}"),
            format!("cluster.lease (environment OAK_CLUSTER_LEASE): must be a time from 6s to 5m: {must}"),
        ]
    );
}

/// A directory like `/etc` of a worker of the original.
fn original(network: &str, worker: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in [("netmanager/netcfg.json", network), ("oakestra/conf.json", worker)] {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        std::fs::write(path, text).expect("written");
    }
    directory
}

#[test]
fn files_of_the_original_count_below_everything_else() {
    let directory = original(
        r#"{"NodePublicAddress": "192.0.2.7", "NodePublicPort": "50103", "ClusterUrl": "192.0.2.1",
            "ClusterMqttPort": "10003", "Debug": true, "MqttCert": "", "PublicIPNetworking": true}"#,
        r#"{"cluster_address": "cluster.example", "cluster_port": 10101, "overlay_network": "default",
            "addons": [{"addon_name": "image-builder", "addon_active": true},
                       {"addon_name": "FLOps-learner", "addon_active": false}],
            "virtualizations": [{"virutalizaiton_runtime": "docker", "virutalizaiton_active": true},
                                {"virutalizaiton_runtime": "unikernel", "virutalizaiton_active": true}]}"#,
    );
    let file = File::with("[log]\nfilter = \"warn\"\n");
    let sources = Sources { older: Some(directory.path().to_owned()), ..sources(&file, &[]) };
    let loaded = load(&sources).expect("valid");
    let worker = &loaded.config.worker;
    assert_eq!(worker.address, Some("192.0.2.7".parse().expect("an address")));
    assert_eq!((worker.cluster.host(), worker.cluster.port()), ("cluster.example", 10101));
    assert!(worker.addons.0 == ["image-builder"]);
    assert_eq!(loaded.config.log.filter, "warn");
    assert_eq!(origin(&loaded, "worker.cluster"), Origin::File(directory.path().join("oakestra/conf.json")));
    let notes = loaded.notes().join("\n");
    assert!(notes.contains("PublicIPNetworking") && notes.contains("unikernel"), "{notes}");
    assert!(!notes.contains("docker") && !notes.contains("MqttCert"), "{notes}");
}

#[test]
fn a_public_port_of_the_original_counts_with_the_address_it_belongs_to() {
    let file = File::with("");
    let load_with = |network: &str| {
        let directory = original(network, "");
        load(&Sources { older: Some(directory.path().to_owned()), ..sources(&file, &[]) })
    };
    let both = load_with(r#"{"NodePublicAddress": "192.0.2.7", "NodePublicPort": "51820"}"#).expect("valid");
    assert_eq!((both.config.worker.tunnel_port, both.notes().len()), (51820, 0));
    let alone = load_with(r#"{"NodePublicAddress": "0.0.0.0", "NodePublicPort": "51820"}"#).expect("valid");
    assert_eq!(alone.config.worker.tunnel_port, 50103);
    let notes = alone.notes().join("\n");
    assert!(
        notes.contains("NodePublicPort") && notes.contains("50103") && notes.contains("51820"),
        "{notes}"
    );
    let wrong = load_with(r#"{"NodePublicAddress": "192.0.2.7", "NodePublicPort": "many"}"#);
    assert!(problems(wrong)[0].contains("worker.tunnel_port"));
}

#[test]
fn what_the_original_finds_by_itself_is_left_open() {
    let directory = original(
        r#"{"NodePublicAddress": "0.0.0.0", "ClusterUrl": "0.0.0.0", "Debug": false}"#,
        r#"{"cluster_address": "0.0.0.0", "cluster_port": 10100, "addons": null, "csi_drivers": null}"#,
    );
    let file = File::with("");
    let sources = Sources { older: Some(directory.path().to_owned()), ..sources(&file, &[]) };
    let loaded = load(&sources).expect("valid");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.notes(), [""; 0]);
}

#[test]
fn a_damaged_file_of_the_original_is_named() {
    let directory = original(r#"{"NodePublicAddress": "nowhere"}"#, r#"{"cluster_address": "#);
    let file = File::with("");
    let sources = Sources { older: Some(directory.path().to_owned()), ..sources(&file, &[]) };
    let problems = problems(load(&sources));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("conf.json") && problem.contains("JSON")));
    assert!(problems.iter().any(|problem| problem.contains("worker.address")));
}
