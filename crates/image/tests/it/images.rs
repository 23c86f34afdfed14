//! Images to serve.

use std::io::Write;

use oak_image::Digest;
use serde_json::{Value, json};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Architecture of this machine in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An uncompressed layer with these files.
pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A gzip layer that stays about `length` bytes long.
pub(crate) fn bulky_layer(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect();
    gzip(&archive(&[("bulk", &noise)]))
}

/// A configuration for `architecture`.
pub(crate) fn config(architecture: &str) -> Vec<u8> {
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/entry"], "Cmd": ["arg"], "Env": ["A=b"], "WorkingDir": "/work", "User": "7:8", "StopSignal": "SIGQUIT"},
        "rootfs": {"type": "layers", "diff_ids": []},
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn manifest(media_type: &str, config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(layer), "size": layer.len()})
        })
        .collect();
    json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len()},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// An index of (architecture, manifest).
pub(crate) fn index(manifests: &[(&str, &[u8])]) -> Vec<u8> {
    let manifests: Vec<Value> = manifests
        .iter()
        .map(|(architecture, manifest)| {
            json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(manifest), "size": manifest.len(),
                "platform": {"architecture": architecture, "os": "linux"}})
        })
        .collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).to_string().into_bytes()
}
