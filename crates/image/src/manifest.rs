//! Manifests, indices and image configurations of OCI and Docker (schema 2), and the choice of a platform.
//!
//! Everything here is parsed from bytes whose digest was checked, but which a stranger wrote.

use serde::Deserialize;

use crate::config::ImageLimits;
use crate::digest::Digest;
use crate::error::Failure;
use crate::image::ImageConfig;

/// Media types asked for; registries convert or refuse according to this list.
pub(crate) const ACCEPTED_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A document served as a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image.
    Manifest(ImageManifest),
    /// One image per platform.
    Index(Vec<IndexEntry>),
}

/// The blobs one image consists of; layers lowest first.
#[derive(Clone, Debug)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// A blob by digest, with its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// The manifest for one platform.
#[derive(Clone, Debug)]
pub(crate) struct IndexEntry {
    pub(crate) digest: Digest,
    pub(crate) platform: Option<Platform>,
}

/// Platform in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDocument {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<WireDescriptor>,
    #[serde(default)]
    layers: Option<Vec<WireDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<WireDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

impl Document {
    /// Parses a manifest or an index.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let wire: WireDocument = serde_json::from_slice(bytes)
            .map_err(|error| Failure::corrupt(format!("its manifest is not valid ({error})")))?;
        if wire.schema_version != 2 {
            return Err(Failure::unsupported(format!(
                "its manifest has the outdated schema version {}; push it again with a current tool",
                wire.schema_version
            )));
        }
        if let Some(manifests) = wire.manifests {
            return Ok(Self::Index(manifests.into_iter().filter_map(index_entry).collect()));
        }
        let (Some(config), Some(layers)) = (wire.config, wire.layers) else {
            let media_type = wire.media_type.unwrap_or_else(|| "unknown".to_owned());
            return Err(Failure::unsupported(format!("it is not a container image but {media_type}")));
        };
        let layers = layers.into_iter().map(descriptor).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::Manifest(ImageManifest { config: descriptor(config)?, layers }))
    }
}

impl ImageManifest {
    /// Refuses what exceeds the limits or is not a stack of file-system layers.
    pub(crate) fn check(&self, limits: &ImageLimits) -> Result<(), Failure> {
        if self.layers.is_empty() {
            return Err(Failure::unsupported("it has no layers"));
        }
        if self.layers.len() > limits.max_layers {
            let reason =
                format!("it has {} layers, this node accepts {}", self.layers.len(), limits.max_layers);
            return Err(Failure::TooLarge { reason });
        }
        for layer in &self.layers {
            check_layer_type(&layer.media_type)?;
            if layer.size > limits.max_layer_bytes {
                return Err(Failure::TooLarge {
                    reason: format!(
                        "layer {} has {} MiB, this node accepts {} MiB",
                        layer.digest,
                        layer.size >> 20,
                        limits.max_layer_bytes >> 20
                    ),
                });
            }
        }
        Ok(())
    }

    /// Layers lowest first with every digest only once. Applying a layer again on top of others gives what its last
    /// application alone gives, and overlayfs refuses the same directory twice; so the topmost occurrence stays.
    pub(crate) fn distinct_layers(&self) -> Vec<Descriptor> {
        let mut seen = std::collections::HashSet::new();
        let mut distinct: Vec<Descriptor> =
            self.layers.iter().rev().filter(|layer| seen.insert(&layer.digest)).cloned().collect();
        distinct.reverse();
        distinct
    }
}

/// Compression is recognised by content; the type only tells layers from other artefacts.
fn check_layer_type(media_type: &str) -> Result<(), Failure> {
    let is_layer = media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.");
    if !is_layer {
        return Err(Failure::unsupported(format!("it is not a container image: one part is {media_type}")));
    }
    if media_type.contains("encrypted") {
        return Err(Failure::unsupported("its layers are encrypted"));
    }
    Ok(())
}

fn descriptor(wire: WireDescriptor) -> Result<Descriptor, Failure> {
    let digest = Digest::parse(&wire.digest)
        .map_err(|error| Failure::unsupported(format!("its manifest names an unusable digest: {error}")))?;
    Ok(Descriptor { media_type: wire.media_type, digest, size: wire.size })
}

/// Entries with an unusable digest cannot be chosen; the others still can.
fn index_entry(wire: WireDescriptor) -> Option<IndexEntry> {
    Some(IndexEntry { digest: Digest::parse(&wire.digest).ok()?, platform: wire.platform })
}

/// Go's name of this machine's architecture.
pub(crate) fn node_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Picks the entry for Linux on `architecture`; the first one when several fit, as Docker does, except that plain
/// variants win over special ones (`amd64` before `amd64/v3`, `arm64/v8` counts as plain).
pub(crate) fn choose_platform<'a>(
    entries: &'a [IndexEntry],
    architecture: &str,
) -> Result<&'a IndexEntry, Failure> {
    let fitting = entries.iter().filter(|entry| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os == "linux"
                && platform.architecture == architecture
                && variant_rank(platform).is_some()
        })
    });
    if let Some(entry) = fitting.min_by_key(|entry| entry.platform.as_ref().and_then(variant_rank)) {
        return Ok(entry);
    }
    // An index of one entry without a platform is written by some build tools.
    if let [entry] = entries
        && entry.platform.is_none()
    {
        return Ok(entry);
    }
    let mut platforms: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.architecture != "unknown")
        .take(12)
        .map(platform_name)
        .collect();
    platforms.dedup();
    let built_for = if platforms.is_empty() { "no known platform".to_owned() } else { platforms.join(", ") };
    Err(Failure::WrongArchitecture { built_for, node: architecture.to_owned() })
}

fn platform_name(platform: &Platform) -> String {
    let mut name: String = platform.architecture.chars().filter(|c| !c.is_control()).take(20).collect();
    if platform.os != "linux" {
        name = format!(
            "{}/{name}",
            platform.os.chars().filter(|c| !c.is_control()).take(20).collect::<String>()
        );
    }
    name
}

/// Order of preference among variants of one architecture; `None` for those that may not run here.
fn variant_rank(platform: &Platform) -> Option<u8> {
    match (platform.architecture.as_str(), platform.variant.as_str()) {
        (_, "") | ("arm64", "v8") | ("arm", "v7") => Some(0),
        ("arm", "v6") => Some(1),
        ("arm", "v5") => Some(2),
        ("amd64", "v1") => Some(1),
        _ => None,
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireConfig {
    architecture: String,
    os: String,
    config: Option<WireRunConfig>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireRunConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// Parses the configuration blob and checks that it is for this machine.
pub(crate) fn parse_config(bytes: &[u8], architecture: &str) -> Result<ImageConfig, Failure> {
    let wire: WireConfig = serde_json::from_slice(bytes)
        .map_err(|error| Failure::corrupt(format!("its configuration is not valid ({error})")))?;
    let platform =
        Platform { architecture: wire.architecture.clone(), os: wire.os.clone(), variant: String::new() };
    // Very old images leave both empty.
    let fits = (wire.architecture.is_empty() || wire.architecture == architecture)
        && (wire.os.is_empty() || wire.os == "linux");
    if !fits {
        return Err(Failure::WrongArchitecture {
            built_for: platform_name(&platform),
            node: architecture.to_owned(),
        });
    }
    let run = wire.config.unwrap_or_default();
    Ok(ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        user: run.user.unwrap_or_default(),
        stop_signal: run.stop_signal.unwrap_or_default(),
        architecture: wire.architecture,
        os: wire.os,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seed: &str, architecture: &str, os: &str, variant: &str) -> IndexEntry {
        IndexEntry {
            digest: Digest::of(seed.as_bytes()),
            platform: Some(Platform {
                architecture: architecture.into(),
                os: os.into(),
                variant: variant.into(),
            }),
        }
    }

    #[test]
    fn chooses_linux_on_the_own_architecture_and_the_plainest_variant() {
        let entries = [
            entry("attestation", "unknown", "unknown", ""),
            entry("windows", "amd64", "windows", ""),
            entry("v3", "amd64", "linux", "v3"),
            entry("plain", "amd64", "linux", ""),
            entry("arm64", "arm64", "linux", "v8"),
            entry("armv6", "arm", "linux", "v6"),
            entry("armv7", "arm", "linux", "v7"),
        ];
        let chosen = |architecture| choose_platform(&entries, architecture).unwrap().digest.clone();
        assert_eq!(chosen("amd64"), Digest::of(b"plain"));
        assert_eq!(chosen("arm64"), Digest::of(b"arm64"));
        assert_eq!(chosen("arm"), Digest::of(b"armv7"));
    }

    #[test]
    fn names_the_platforms_that_exist_when_none_fits() {
        let entries = [
            entry("a", "arm64", "linux", ""),
            entry("w", "amd64", "windows", ""),
            entry("u", "unknown", "unknown", ""),
        ];
        match choose_platform(&entries, "amd64") {
            Err(Failure::WrongArchitecture { built_for, node }) => {
                assert_eq!((built_for.as_str(), node.as_str()), ("arm64, windows/amd64", "amd64"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_layer_that_occurs_twice_keeps_its_topmost_place() {
        let layer = |seed: &str| Descriptor {
            media_type: String::new(),
            digest: Digest::of(seed.as_bytes()),
            size: 1,
        };
        let manifest = ImageManifest {
            config: layer("config"),
            layers: vec![layer("a"), layer("empty"), layer("b"), layer("empty")],
        };
        assert_eq!(manifest.distinct_layers(), vec![layer("a"), layer("b"), layer("empty")]);
    }

    #[test]
    fn other_artefacts_and_old_schemas_are_refused_with_a_reason() {
        let digest = Digest::of(b"x");
        let cases = [
            (r#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#.to_owned(), "schema version 1"),
            (r#"{"schemaVersion":2,"mediaType":"application/x"}"#.to_owned(), "application/x"),
            ("[]".to_owned(), "not valid"),
            (r#"{"schemaVersion":2,"config":{"digest":"md5:0"},"layers":[]}"#.to_owned(), "digest"),
        ];
        for (json, hint) in cases {
            let error = format!("{:?}", Document::parse(json.as_bytes()).unwrap_err());
            assert!(error.contains(hint), "{error}");
        }
        let helm = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":2}},"layers":[
                {{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"{digest}","size":1}}]}}"#
        );
        let Ok(Document::Manifest(manifest)) = Document::parse(helm.as_bytes()) else {
            panic!("not a manifest")
        };
        assert!(matches!(manifest.check(&ImageLimits::default()), Err(Failure::Unsupported { .. })));
    }

    #[test]
    fn the_configuration_keeps_what_a_runtime_needs() {
        let json = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":["nginx"],"Cmd":null,
            "Env":["A=b"],"WorkingDir":"/w","User":"1:2","StopSignal":"SIGQUIT","ExposedPorts":{"80/tcp":{}}},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = parse_config(json.as_bytes(), "amd64").unwrap();
        assert_eq!(config.entrypoint, ["nginx"]);
        assert!(config.cmd.is_empty());
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("1:2", "SIGQUIT"));
        assert!(matches!(parse_config(json.as_bytes(), "arm64"), Err(Failure::WrongArchitecture { .. })));
    }
}
