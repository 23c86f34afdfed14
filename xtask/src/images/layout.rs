//! An OCI image layout on disk: content-addressed blobs, and one index that names the images in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::Layer;
use super::recipe::ImageRecipe;

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
const RECIPE: &str = "eu.oakestra.test.recipe";

/// A built set of images.
#[derive(Clone, Debug)]
pub struct Layout {
    directory: PathBuf,
    images: Vec<BuiltImage>,
}

/// One image of a layout. Digests are in the form `sha256:<64 hex digits>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// Name in a registry, such as `library/nginx`.
    pub repository: String,
    /// Tag in a registry, such as `latest`.
    pub tag: String,
    /// Digest of the image index, which is what the tag points to.
    pub index: String,
    /// Digest of the manifest for this machine's architecture.
    pub manifest: String,
    /// Digest of the configuration.
    pub config: String,
    /// Digests of the compressed layers, lowest first.
    pub layers: Vec<String>,
    /// Bytes of all compressed layers.
    pub size_bytes: u64,
}

impl Layout {
    /// Where the layout is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The images in it.
    pub fn images(&self) -> &[BuiltImage] {
        &self.images
    }

    /// Returns the image with this repository name.
    pub fn find(&self, repository: &str) -> Option<&BuiltImage> {
        self.images.iter().find(|image| image.repository == repository)
    }

    /// Reads a blob and checks that it is what its digest says.
    ///
    /// # Errors
    ///
    /// If it is missing or damaged.
    pub fn blob(&self, digest: &str) -> anyhow::Result<Vec<u8>> {
        read_blob(&self.directory, digest)
    }

    /// Opens a layout that was made from the recipe with this fingerprint.
    pub(super) fn open(directory: &Path, recipe: &str) -> anyhow::Result<Self> {
        let path = directory.join("index.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let index: Value =
            serde_json::from_slice(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        if index["annotations"][RECIPE] != recipe {
            bail!("{} was made from another recipe", path.display());
        }
        let mut images = Vec::new();
        for entry in index["manifests"].as_array().context("index without images")? {
            images.push(read_image(directory, entry)?);
        }
        let layout = Self { directory: directory.to_path_buf(), images };
        for image in &layout.images {
            for layer in &image.layers {
                layout.blob(layer)?;
            }
        }
        Ok(layout)
    }
}

/// Writes a layout into an empty directory.
#[derive(Debug)]
pub(super) struct LayoutWriter {
    directory: PathBuf,
    architecture: &'static str,
    entries: Vec<Value>,
}

impl LayoutWriter {
    /// `architecture` as Go and so the image specification spell it.
    pub(super) fn create(directory: &Path, architecture: &'static str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory.join("blobs/sha256"))
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory: directory.to_path_buf(), architecture, entries: Vec::new() })
    }

    /// Adds an image with these layers, lowest first.
    pub(super) fn add_image(&mut self, recipe: &ImageRecipe, layers: &[&Layer]) -> anyhow::Result<()> {
        let mut layer_descriptors = Vec::new();
        for layer in layers {
            layer_descriptors.push(self.write_blob(LAYER_TYPE, &layer.compressed)?);
        }
        let config = self.write_blob(CONFIG_TYPE, &encode(&config_of(recipe, layers, self.architecture))?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": layer_descriptors,
        });
        let mut manifest = self.write_blob(MANIFEST_TYPE, &encode(&manifest)?)?;
        manifest["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest] });
        let mut index = self.write_blob(INDEX_TYPE, &encode(&index)?)?;
        index["annotations"] = json!({ REFERENCE_NAME: format!("{}:{}", recipe.repository, recipe.tag) });
        self.entries.push(index);
        Ok(())
    }

    /// Writes the index last: a directory without one is no layout.
    pub(super) fn finish(self, recipe: &str) -> anyhow::Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX_TYPE,
            "manifests": self.entries,
            "annotations": { RECIPE: recipe },
        });
        std::fs::write(self.directory.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")?;
        std::fs::write(self.directory.join("index.json"), encode(&index)?)?;
        Ok(())
    }

    fn write_blob(&self, media_type: &str, content: &[u8]) -> anyhow::Result<Value> {
        let digest = digest_of(content);
        let path = blob_path(&self.directory, &digest)?;
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": content.len() }))
    }
}

/// Returns `sha256:` and the hexadecimal digest of the bytes.
pub(super) fn digest_of(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

fn config_of(recipe: &ImageRecipe, layers: &[&Layer], architecture: &str) -> Value {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let history: Vec<Value> = layers
        .iter()
        .map(|layer| json!({ "created": "1970-01-01T00:00:00Z", "created_by": format!("layer {}", layer.name) }))
        .collect();
    let mut config = json!({
        "User": recipe.user,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "WorkingDir": recipe.working_directory,
    });
    if !recipe.entrypoint.is_empty() {
        config["Entrypoint"] = json!(recipe.entrypoint);
    }
    if !recipe.command.is_empty() {
        config["Cmd"] = json!(recipe.command);
    }
    if !recipe.exposed_ports.is_empty() {
        config["ExposedPorts"] =
            recipe.exposed_ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
    }
    if let Some(signal) = recipe.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

fn read_image(directory: &Path, entry: &Value) -> anyhow::Result<BuiltImage> {
    let name = entry["annotations"][REFERENCE_NAME].as_str().context("image without a name")?;
    let (repository, tag) = name.rsplit_once(':').with_context(|| format!("image name {name} has no tag"))?;
    let index = digest_in(entry)?;
    let manifest = digest_in(&read_json(directory, &index)?["manifests"][0])?;
    let content = read_json(directory, &manifest)?;
    let mut layers = Vec::new();
    let mut size_bytes = 0;
    for layer in content["layers"].as_array().context("manifest without layers")? {
        layers.push(digest_in(layer)?);
        size_bytes += layer["size"].as_u64().context("layer without a size")?;
    }
    let config = digest_in(&content["config"])?;
    read_json(directory, &config)?;
    Ok(BuiltImage {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        index,
        manifest,
        config,
        layers,
        size_bytes,
    })
}

fn read_json(directory: &Path, digest: &str) -> anyhow::Result<Value> {
    let content = read_blob(directory, digest)?;
    serde_json::from_slice(&content).with_context(|| format!("cannot parse blob {digest}"))
}

fn read_blob(directory: &Path, digest: &str) -> anyhow::Result<Vec<u8>> {
    let path = blob_path(directory, digest)?;
    let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if digest_of(&content) != digest {
        bail!("{} is damaged", path.display());
    }
    Ok(content)
}

fn blob_path(directory: &Path, digest: &str) -> anyhow::Result<PathBuf> {
    match digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(directory.join("blobs/sha256").join(hex))
        }
        _ => bail!("{digest} is no sha256 digest"),
    }
}

fn digest_in(descriptor: &Value) -> anyhow::Result<String> {
    Ok(descriptor["digest"].as_str().context("descriptor without a digest")?.to_owned())
}

fn encode(value: &Value) -> anyhow::Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot encode JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::recipe::IMAGES;
    use crate::images::tree::Tree;

    fn written(directory: &Path) -> Layout {
        let layer = Layer::from_tree("empty", &Tree::default()).unwrap();
        let mut writer = LayoutWriter::create(directory, "amd64").unwrap();
        for image in &IMAGES {
            writer.add_image(image, &[&layer]).unwrap();
        }
        writer.finish("recipe 1").unwrap();
        Layout::open(directory, "recipe 1").unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let layout = written(directory.path());
        let nginx = layout.find("library/nginx").unwrap();
        assert_eq!((nginx.tag.as_str(), nginx.layers.len()), ("latest", 1));
        let config: Value = serde_json::from_slice(&layout.blob(&nginx.config).unwrap()).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["nginx", "-g", "daemon off;"]));
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
        assert_eq!(layout.find("curlimages/curl").unwrap().tag, "7.82.0");
    }

    #[test]
    fn a_layout_of_another_recipe_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path());
        assert!(Layout::open(directory.path(), "recipe 2").is_err());
    }

    #[test]
    fn a_damaged_layer_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = written(directory.path());
        let layer = blob_path(directory.path(), &layout.images()[0].layers[0]).unwrap();
        std::fs::write(layer, "short").unwrap();
        assert!(Layout::open(directory.path(), "recipe 1").is_err());
    }

    #[test]
    fn a_digest_cannot_name_another_file() {
        assert!(blob_path(Path::new("/x"), "sha256:../../etc/passwd").is_err());
        assert!(blob_path(Path::new("/x"), "md5:00").is_err());
    }
}
