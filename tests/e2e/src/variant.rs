//! Images of one test only: the curl image under another name, with one layer more, for any architecture.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use ureq::Agent;
use xtask::images::Layout;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the image has that the curl image has not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant<'a> {
    pub(crate) repository: &'a str,
    /// `None`: as it is.
    pub(crate) architecture: Option<&'a str>,
    /// Size of a layer of random bytes.
    pub(crate) extra_bytes: usize,
}

/// Builds and pushes; called in the network of the registry.
pub(crate) fn push(
    registry: &str,
    layout: &Layout,
    directory: &Path,
    wanted: Variant<'_>,
) -> anyhow::Result<()> {
    let image = layout.find("curlimages/curl").context("there is no curl image")?;
    let uploader = Uploader { base: format!("{registry}/v2/{}", wanted.repository), agent: agent() };
    let (layer, unpacked_digest) = random_layer(directory, wanted.extra_bytes)?;
    let mut config: Value = serde_json::from_slice(&layout.blob(&image.config)?)?;
    if let Some(architecture) = wanted.architecture {
        config["architecture"] = json!(architecture);
    }
    let architecture = config["architecture"].clone();
    let layers = config["rootfs"]["diff_ids"].as_array_mut().context("no layers in the configuration")?;
    layers.push(json!(unpacked_digest));
    let config = serde_json::to_vec(&config)?;

    let mut manifest: Value = serde_json::from_slice(&layout.blob(&image.manifest)?)?;
    for digest in &image.layers {
        uploader.blob(&layout.blob(digest)?)?;
    }
    uploader.blob(&layer)?;
    uploader.blob(&config)?;
    manifest["config"]["digest"] = json!(digest_of(&config));
    manifest["config"]["size"] = json!(config.len());
    let descriptors = manifest["layers"].as_array_mut().context("no layers in the manifest")?;
    let kind = descriptors[0]["mediaType"].clone();
    descriptors.push(json!({ "mediaType": kind, "digest": digest_of(&layer), "size": layer.len() }));
    let manifest = serde_json::to_vec(&manifest)?;
    uploader.manifest(&digest_of(&manifest), MANIFEST, &manifest)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST,
            "digest": digest_of(&manifest),
            "size": manifest.len(),
            "platform": { "architecture": architecture, "os": "linux" },
        }],
    });
    uploader.manifest("latest", INDEX, &serde_json::to_vec(&index)?)
}

/// A compressed layer with one file of random bytes, and the digest of it uncompressed.
fn random_layer(directory: &Path, bytes: usize) -> anyhow::Result<(Vec<u8>, String)> {
    let mut content = vec![0_u8; bytes];
    StdRng::from_os_rng().fill(content.as_mut_slice());
    std::fs::write(directory.join("random"), content)?;
    let (archive, compressed) = (directory.join("random.tar"), directory.join("random.tar.gz"));
    let directory = directory.to_string_lossy();
    let made =
        Command::new("tar").args(["-C", &directory, "-cf", &archive.to_string_lossy(), "random"]).status()?;
    ensure!(made.success(), "tar failed");
    let made = Command::new("gzip").args(["-1", "-kf", &archive.to_string_lossy()]).status()?;
    ensure!(made.success(), "gzip failed");
    Ok((std::fs::read(compressed)?, digest_of(&std::fs::read(archive)?)))
}

fn digest_of(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent()
}

struct Uploader {
    base: String,
    agent: Agent,
}

impl Uploader {
    fn blob(&self, content: &[u8]) -> anyhow::Result<()> {
        let begun = self.agent.post(format!("{}/blobs/uploads/", self.base)).send_empty()?;
        let place = begun.headers().get("location").context("no place for an upload")?.to_str()?;
        let registry = self.base.split("/v2/").next().unwrap_or_default();
        let place = if place.starts_with('/') { format!("{registry}{place}") } else { place.to_owned() };
        let mark = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{mark}digest={}", digest_of(content));
        let done = self.agent.put(&url).content_type("application/octet-stream").send(content)?;
        ensure!(done.status().as_u16() == 201, "{url} answered {}", done.status());
        Ok(())
    }

    fn manifest(&self, reference: &str, kind: &str, content: &[u8]) -> anyhow::Result<()> {
        let url = format!("{}/manifests/{reference}", self.base);
        let mut done = self.agent.put(&url).content_type(kind).send(content)?;
        let said = done.body_mut().read_to_string().unwrap_or_default();
        ensure!(done.status().as_u16() == 201, "{url} answered {}: {said}", done.status());
        Ok(())
    }
}
