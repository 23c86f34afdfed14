//! `oak events`: what happened.

use std::time::Duration;

use clap::Args;
use oak_client::{Client, ClientErrorKind, Event, Told};

use super::{Failure, find};
use crate::output::{Format, Output, clean};

/// How long to wait before a broken stream is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which events.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Only those of this service; may be left out with --follow
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Go on with what happens; a broken connection is taken up where it ended
    #[arg(short, long)]
    follow: bool,
    /// Only these kinds, such as instance_status,instance_moved
    #[arg(long, value_name = "KINDS")]
    kind: Option<String>,
    /// So many from the recent past
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let service = match &self.service {
            Some(name) => Some(find::service(client, name).await?.id),
            None => None,
        };
        let Some(id) = &service else {
            if self.follow {
                return self.follow(client, None, Vec::new(), output).await;
            }
            return Err(Failure::usage("name a service, or follow what happens with --follow"));
        };
        let past = client.events_of(id, self.limit).await?;
        for event in past.iter().filter(|event| self.is_wanted(event)) {
            self.print(event, output)?;
        }
        if !self.follow {
            return Ok(());
        }
        let since = past.last().map_or_else(|| "0".to_owned(), |last| last.sequence.to_string());
        self.follow(client, Some(since), vec![("service", id.clone())], output).await
    }

    async fn follow(
        &self,
        client: &Client,
        mut since: Option<String>,
        mut filters: Vec<(&'static str, String)>,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        filters.extend(self.kind.clone().map(|kinds| ("kind", kinds)));
        loop {
            let mut stream = match client.events(since.as_deref(), &filters).await {
                Ok(stream) => stream,
                Err(error) if since.is_some() && error.kind() == ClientErrorKind::Unreachable => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            loop {
                match stream.next().await {
                    Ok(Some(Told::Event(event))) => {
                        self.print(&event, output)?;
                        output.data.flush()?;
                    }
                    Ok(Some(Told::Gap)) => {
                        output.say("events are missing here: they are not kept any more")?;
                    }
                    Ok(Some(Told::End(reason))) => output.say(format_args!("{}", clean(&reason)))?,
                    Ok(None) | Err(_) => break,
                }
            }
            since = stream.last_id.take().or(since);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn is_wanted(&self, event: &Event) -> bool {
        let kinds = self.kind.as_deref().unwrap_or_default();
        kinds.is_empty() || kinds.split(',').any(|kind| kind.trim() == event.kind)
    }

    fn print(&self, event: &Event, output: &mut Output<'_>) -> Result<(), Failure> {
        if self.output == Format::Json {
            let text = serde_json::to_string(event).map_err(std::io::Error::from)?;
            return Ok(output.line(text)?);
        }
        let instance = event.instance_number.map(|number| format!("/{number}")).unwrap_or_default();
        let status = event.status.as_deref().unwrap_or("-");
        let about = event.service.as_deref().unwrap_or("-");
        let text =
            format!("{} {:<20} {about}{instance} {status} {}", event.timestamp, event.kind, event.detail);
        Ok(output.line(clean(&text))?)
    }
}
