//! Uploads images with the distribution API over plain HTTP; what the registry has already is not sent again.

use std::time::Duration;

use anyhow::{Context as _, bail};
use ureq::http::{Response, header::LOCATION};
use ureq::{Agent, Body};

use super::layout::{BuiltImage, INDEX_TYPE, Layout, MANIFEST_TYPE};

/// How many blobs an upload sent, and how many were there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs that were uploaded.
    pub sent: usize,
    /// Blobs that the repository had.
    pub present: usize,
}

/// A registry's address and the connection to it.
pub(super) struct Uploader {
    base: String,
    agent: Agent,
}

impl Uploader {
    /// `registry` is `http://HOST:PORT`.
    pub(super) fn new(registry: &str) -> anyhow::Result<Self> {
        let base = registry.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            bail!("registry address {registry} must start with http://");
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .new_agent();
        Ok(Self { base, agent })
    }

    /// Uploads layers and configuration first: a registry refuses a manifest whose blobs it lacks.
    pub(super) fn push(&self, layout: &Layout, image: &BuiltImage) -> anyhow::Result<Pushed> {
        let repository = &image.repository;
        let mut pushed = Pushed::default();
        for digest in image.layers.iter().chain([&image.config]) {
            if self.has_blob(repository, digest)? {
                pushed.present += 1;
                continue;
            }
            self.put_blob(repository, digest, &layout.blob(digest)?)
                .with_context(|| format!("cannot upload blob {digest} of {repository}"))?;
            pushed.sent += 1;
        }
        self.put_manifest(repository, &image.manifest, MANIFEST_TYPE, &layout.blob(&image.manifest)?)?;
        self.put_manifest(repository, &image.tag, INDEX_TYPE, &layout.blob(&image.index)?)?;
        Ok(pushed)
    }

    fn has_blob(&self, repository: &str, digest: &str) -> anyhow::Result<bool> {
        let url = format!("{}/v2/{repository}/blobs/{digest}", self.base);
        let response = self.agent.head(&url).call().with_context(|| format!("cannot ask {url}"))?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            status => bail!("{url} answered {status}"),
        }
    }

    fn put_blob(&self, repository: &str, digest: &str, content: &[u8]) -> anyhow::Result<()> {
        let url = format!("{}/v2/{repository}/blobs/uploads/", self.base);
        let response = self.agent.post(&url).send_empty().with_context(|| format!("cannot ask {url}"))?;
        let response = expect_status(response, 202)?;
        let location = response.headers().get(LOCATION).context("upload without a location")?.to_str()?;
        let mut target =
            if location.starts_with('/') { format!("{}{location}", self.base) } else { location.to_owned() };
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str("digest=");
        target.push_str(digest);
        let response = self
            .agent
            .put(&target)
            .content_type("application/octet-stream")
            .send(content)
            .with_context(|| format!("cannot send to {target}"))?;
        expect_status(response, 201).map(drop)
    }

    fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: &[u8],
    ) -> anyhow::Result<()> {
        let url = format!("{}/v2/{repository}/manifests/{reference}", self.base);
        let response = self
            .agent
            .put(&url)
            .content_type(media_type)
            .send(content)
            .with_context(|| format!("cannot send to {url}"))?;
        expect_status(response, 201)
            .map(drop)
            .with_context(|| format!("cannot upload manifest {repository}:{reference}"))
    }
}

fn expect_status(mut response: Response<Body>, wanted: u16) -> anyhow::Result<Response<Body>> {
    let status = response.status().as_u16();
    if status == wanted {
        return Ok(response);
    }
    let said = response.body_mut().with_config().limit(4096).read_to_string().unwrap_or_default();
    bail!("the registry answered {status} instead of {wanted}: {said}")
}
