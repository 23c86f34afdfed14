//! `oak logs`: output of an instance.

use clap::Args;
use oak_client::{Client, LogOptions};

use super::{Failure, find};
use crate::output::Output;

/// Which instance, and how much of its output.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// SERVICE/NUMBER; the number may be left out while the service has one instance
    #[arg(value_name = "SERVICE[/N]")]
    instance: String,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Only what was written since then: 90s, 10m, 2h, 1d or a time such as 2026-11-24T16:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let (service, instance) = find::instance(client, &self.instance).await?;
        let options = LogOptions {
            tail: self.tail,
            follow: self.follow,
            since: self.since,
            timestamps: self.timestamps,
        };
        let mut stream = client.logs(&service.id, instance.number, options).await?;
        while let Some(piece) = stream.next().await? {
            // As it is: the reader may be a program, and programs colour their output on purpose.
            output.data.write_all(&piece)?;
            output.data.flush()?;
        }
        Ok(())
    }
}
