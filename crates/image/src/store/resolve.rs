//! Finds out what an image consists of: manifest, configuration, layers, and who has them.

use bytes::Bytes;

use super::Shared;
use crate::config::Credentials;
use crate::digest::Digest;
use crate::error::Failure;
use crate::image::ImageConfig;
use crate::manifest::{self, Descriptor, Document};
use crate::reference::ImageReference;
use crate::registry::Endpoint;

/// Configurations are small; those with long histories have a few hundred KiB.
const LARGEST_CONFIG: usize = 4 << 20;

/// What a registry says the image is.
pub(super) struct Resolved {
    pub(super) digest: Digest,
    /// As sent; its digest is `digest`.
    pub(super) manifest: Bytes,
    /// As sent.
    pub(super) source_config: Bytes,
    pub(super) config: ImageConfig,
    /// Lowest first, each once.
    pub(super) layers: Vec<Descriptor>,
    /// Where to ask for the layers: first where the manifest came from.
    pub(super) endpoints: Vec<Endpoint>,
}

/// Asks one endpoint after the other; the failure is that of the last, the registry itself, with a note on its mirrors.
pub(super) async fn resolve(
    shared: &Shared,
    reference: &ImageReference,
    credentials: Option<&Credentials>,
) -> Result<Resolved, Failure> {
    let mut endpoints = shared.registry.endpoints(reference.registry());
    // Mirrors belong to somebody else.
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.name == reference.registry()) {
        endpoint.credentials = credentials.cloned();
    }
    let mut mirrors = String::new();
    let mut last = Failure::unsupported("no registry is known for it");
    for index in 0..endpoints.len() {
        let Some(endpoint) = endpoints.get(index) else { break };
        match resolve_at(shared, endpoint, reference).await {
            Ok(mut resolved) => {
                endpoints.rotate_left(index);
                resolved.endpoints = endpoints;
                return Ok(resolved);
            }
            Err(failure) => {
                tracing::debug!(image = %reference, registry = %endpoint.name, ?failure, "not resolved");
                if index + 1 < endpoints.len() {
                    mirrors.push_str(&format!("; mirror {}: {}", endpoint.name, failure.brief()));
                }
                last = failure;
            }
        }
    }
    Err(last.with_note(&mirrors))
}

async fn resolve_at(
    shared: &Shared,
    endpoint: &Endpoint,
    reference: &ImageReference,
) -> Result<Resolved, Failure> {
    let (registry, repository) = (&shared.registry, reference.repository());
    let node = manifest::node_architecture();
    let selector = reference.manifest_selector();
    let (mut bytes, mut digest) = registry.manifest(endpoint, repository, &selector).await?;
    check_digest(endpoint, reference.digest(), &digest)?;
    let mut document = Document::parse(&bytes)?;
    if let Document::Index(entries) = &document {
        let wanted = manifest::choose_platform(entries, node)?.digest.clone();
        (bytes, digest) = registry.manifest(endpoint, repository, &wanted.to_string()).await?;
        check_digest(endpoint, Some(&wanted), &digest)?;
        document = Document::parse(&bytes)?;
    }
    let Document::Manifest(manifest) = document else {
        return Err(Failure::unsupported("its index points to another index"));
    };
    manifest.check(&shared.config.limits)?;
    let source_config =
        registry.small_blob(endpoint, repository, &manifest.config.digest, LARGEST_CONFIG).await?;
    let config = manifest::parse_config(&source_config, node)?;
    let layers = manifest.distinct_layers();
    Ok(Resolved { digest, manifest: bytes, source_config, config, layers, endpoints: Vec::new() })
}

fn check_digest(endpoint: &Endpoint, wanted: Option<&Digest>, got: &Digest) -> Result<(), Failure> {
    match wanted {
        Some(wanted) if wanted != got => {
            Err(Failure::corrupt(format!("{} sent a manifest with digest {got} for {wanted}", endpoint.name)))
        }
        _ => Ok(()),
    }
}
