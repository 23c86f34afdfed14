//! What is in the test images. Only data: how it becomes layers is in the sibling modules.
//!
//! Both images stand on the same two layers, so that tests can see that a layer is fetched and stored once.

/// One layer: packages with everything they need that is not in the layers below, then directories, files and links.
#[derive(Debug)]
pub(super) struct LayerRecipe {
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    pub(super) directories: &'static [DirectoryRecipe],
    pub(super) files: &'static [FileRecipe],
    /// Path and target.
    pub(super) links: &'static [(&'static str, &'static str)],
}

#[derive(Debug)]
pub(super) struct DirectoryRecipe {
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) user: u64,
    pub(super) group: u64,
}

/// A file of root's with mode 0644.
#[derive(Debug)]
pub(super) struct FileRecipe {
    pub(super) path: &'static str,
    pub(super) content: &'static str,
}

/// One image: the base layers, one layer of its own, and the configuration that a runtime reads.
#[derive(Debug)]
pub(super) struct ImageRecipe {
    pub(super) repository: &'static str,
    pub(super) tag: &'static str,
    pub(super) layer: LayerRecipe,
    pub(super) user: &'static str,
    pub(super) working_directory: &'static str,
    pub(super) entrypoint: &'static [&'static str],
    pub(super) command: &'static [&'static str],
    pub(super) exposed_ports: &'static [&'static str],
    pub(super) stop_signal: Option<&'static str>,
}

/// Packages that others ask for but that a container of these images never runs: maintainer-script tools, and `ip`,
/// which only nginx's init script wants. Resolution takes them, and so all they need, as installed already.
pub(super) const NEVER_INSTALLED: &[&str] =
    &["debconf", "dpkg", "init-system-helpers", "iproute2", "mawk", "tar"];

/// Paths that no container needs. Licence texts (`usr/share/doc/*/copyright`) are kept.
pub(super) const STRIPPED: &[&str] = &[
    "etc/apt/",
    "etc/cron.d/",
    "etc/cron.daily/",
    "etc/default/",
    "etc/dpkg/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "etc/skel/",
    "etc/ufw/",
    "etc/update-motd.d/",
    "usr/games/",
    "usr/include/",
    "usr/lib/systemd/",
    "usr/sbin/iconvconfig",
    "usr/sbin/zic",
    "usr/share/apport/",
    "usr/share/base-files/",
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/debianutils/",
    "usr/share/dict/",
    "usr/share/doc-base/",
    "usr/share/gdb/",
    "usr/share/info/",
    "usr/share/libc-bin/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/menu/",
    "usr/share/perl5/",
    "usr/share/vim/",
    "usr/share/zsh/",
    "var/lib/dpkg/",
    "var/lib/systemd/",
];

/// The layers under every image, lowest first.
pub(super) const BASE: [LayerRecipe; 2] = [
    LayerRecipe {
        name: "libc",
        packages: &["base-files", "netbase", "libc6", "libc-bin"],
        directories: &[],
        files: &[
            FileRecipe {
                path: "etc/passwd",
                content: "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
                          nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
            },
            FileRecipe { path: "etc/group", content: "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n" },
            FileRecipe {
                path: "etc/nsswitch.conf",
                content: "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
            },
        ],
        // The packages install into the directories on the left; see `tree::merged_path`.
        links: &[
            ("bin", "usr/bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("sbin", "usr/sbin"),
            ("etc/os-release", "../usr/lib/os-release"),
            ("var/run", "/run"),
        ],
    },
    LayerRecipe {
        name: "shell",
        packages: &["dash", "coreutils", "grep", "sed"],
        directories: &[],
        files: &[],
        links: &[("usr/bin/sh", "dash")],
    },
];

pub(super) const IMAGES: [ImageRecipe; 2] = [
    ImageRecipe {
        repository: "library/nginx",
        tag: "latest",
        layer: LayerRecipe {
            name: "nginx",
            packages: &["nginx"],
            directories: &[DirectoryRecipe { path: "var/www", mode: 0o755, user: 0, group: 0 }],
            files: &[FileRecipe { path: "etc/nginx/nginx.conf", content: NGINX_CONFIGURATION }],
            links: &[],
        },
        user: "",
        working_directory: "/",
        entrypoint: &["nginx", "-g", "daemon off;"],
        command: &[],
        exposed_ports: &["80/tcp"],
        stop_signal: Some("SIGQUIT"),
    },
    // The descriptor in the manual asks for this tag; the program inside is the Debian release's, not 7.82.0.
    ImageRecipe {
        repository: "curlimages/curl",
        tag: "7.82.0",
        layer: LayerRecipe {
            name: "curl",
            packages: &["curl"],
            directories: &[DirectoryRecipe { path: "home/curl_user", mode: 0o755, user: 100, group: 101 }],
            files: &[
                FileRecipe {
                    path: "etc/passwd",
                    content: "root:x:0:0:root:/root:/bin/sh\ncurl_user:x:100:101:curl_user:/home/curl_user:/bin/sh\n\
                              nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
                },
                FileRecipe { path: "etc/group", content: "root:x:0:\ncurl_group:x:101:\nnogroup:x:65534:\n" },
            ],
            links: &[],
        },
        user: "curl_user",
        working_directory: "/home/curl_user",
        entrypoint: &[],
        command: &["curl", "--help"],
        exposed_ports: &[],
        stop_signal: None,
    },
];

/// Answers with the stock page; the header tells which container answered, for tests of load balancing.
const NGINX_CONFIGURATION: &str = "\
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log stderr notice;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout combined;
    sendfile on;
    keepalive_timeout 65;

    server {
        listen 80 default_server;
        listen [::]:80 default_server;
        server_name _;
        root /usr/share/nginx/html;
        index index.html;
        add_header X-Served-By $hostname always;
    }
}
";
