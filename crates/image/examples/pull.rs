//! Pulls an image into a directory, for trying the store by hand:
//! `cargo run -p oak-image --example pull -- <directory> <image> [registry=mirror …] [ca=file.pem …]`

#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

use std::error::Error;

use oak_image::{ImageReference, ImageStore, ImageStoreConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is there already")?;
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(image)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull <directory> <image> [registry=mirror …] [ca=file.pem …]".into());
    };
    let mut config = ImageStoreConfig::new(directory);
    for argument in arguments {
        let (registry, address) = argument.split_once('=').ok_or("a mirror is written registry=address")?;
        if registry == "ca" {
            config.certificate_authorities.push(address.into());
            continue;
        }
        config.mirrors.entry(registry.to_owned()).or_default().push(address.to_owned());
    }
    let store = ImageStore::open(config)?;
    let progress =
        |progress: oak_image::PullProgress| println!("{:?} {:?} %", progress.phase, progress.percent());
    let image = store.ensure(&ImageReference::parse(&image)?, progress).await?;
    println!("{} {} {:?}", image.reference, image.digest, image.config);
    for layer in &image.layers {
        println!("{}", layer.display());
    }
    Ok(())
}
