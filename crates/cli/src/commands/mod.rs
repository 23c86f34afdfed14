//! The user commands: thin callers of the root API. Each reads its arguments, makes its calls and prints what came
//! of it; deciding is up to the root.

mod apply;
mod backup;
mod config;
mod delete;
mod duration;
mod events;
mod exec;
mod explain;
mod failure;
mod find;
mod get;
mod hidden;
mod local;
mod logs;
mod maintenance;
mod net;
mod restore;
mod scale;
mod secret;
mod sim;
#[cfg(test)]
mod tests;
mod token;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use oak_client::{Client, Credentials};
use oak_model::Availability;

pub(crate) use backup::Arguments as BackupArguments;
pub(crate) use config::Arguments as ConfigArguments;
pub(crate) use failure::{EXIT_FAILURE, EXIT_USAGE, Failure};
pub(crate) use net::Arguments as NetArguments;
pub(crate) use restore::Arguments as RestoreArguments;
pub(crate) use sim::Arguments as SimArguments;

use crate::output::{Output, Style};

/// Which root is spoken to, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArguments {
    /// Address of the root
    #[arg(
        long,
        global = true,
        env = "OAK_SERVER",
        default_value = "http://127.0.0.1:10000",
        value_name = "URL",
        help_heading = "Server"
    )]
    server: String,
    /// User to log in as
    #[arg(
        long,
        global = true,
        env = "OAK_USER",
        default_value = "Admin",
        value_name = "NAME",
        help_heading = "Server"
    )]
    user: String,
    /// Password; better given as OAK_PASSWORD, because others on this machine can see arguments
    #[arg(
        long,
        global = true,
        env = "OAK_PASSWORD",
        default_value = "Admin",
        hide_env_values = true,
        hide_default_value = true,
        value_name = "TEXT",
        help_heading = "Server"
    )]
    password: String,
    /// Speak to the cluster on this machine instead of a root: for times when the root cannot be reached. Its access
    /// key is read from the data directory
    #[arg(long, global = true, help_heading = "Server")]
    local: bool,
    /// Organisation to log in to
    #[arg(long, global = true, env = "OAK_ORGANIZATION", value_name = "NAME", help_heading = "Server")]
    organization: Option<String>,
}

impl ServerArguments {
    fn client(&self) -> Result<Client, Failure> {
        if self.local {
            return local::client();
        }
        let credentials = Credentials {
            username: self.user.clone(),
            password: self.password.clone(),
            organization: self.organization.clone(),
        };
        Ok(Client::new(&self.server, credentials)?)
    }
}

/// Commands that speak to a root.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum UserCommand {
    /// Create or change what a descriptor asks for: application, services, instances; does nothing twice
    Apply(apply::Arguments),
    /// List applications, services, instances, clusters or workers
    Get(get::Arguments),
    /// Tell why an instance is where it is, or nowhere, and what would help
    Explain(explain::Arguments),
    /// Set how many instances a service keeps
    Scale(scale::Scale),
    /// Call the update of a service off, or take the last one back
    Rollback(scale::Rollback),
    /// Print the output of an instance
    Logs(logs::Arguments),
    /// Tell what happened
    Events(events::Arguments),
    /// Run a program inside an instance
    Exec(exec::Arguments),
    /// Store secrets for services
    Secret(secret::SecretArguments),
    /// Store credentials of image registries
    Registry(secret::RegistryArguments),
    /// Delete an application, a service or an instance, or remove a cluster or worker that is gone for good
    Delete(delete::Arguments),
    /// Close a worker: it keeps what it has and gets nothing new
    Cordon(maintenance::Worker),
    /// Open a worker again after `oak cordon` or `oak drain`
    Uncordon(maintenance::Worker),
    /// Close a worker and move what it has to others, new ones first
    Drain(maintenance::Drain),
    /// Make join tokens for clusters and workers
    Token(token::Arguments),
}

impl UserCommand {
    /// Runs the command with the streams of this process and tells how it ended.
    pub(crate) async fn run(self, server: &ServerArguments) -> ExitCode {
        // Not locked: the log of this program goes to the same standard error from other threads.
        let mut data = io::BufWriter::new(io::stdout());
        let mut talk = io::stderr();
        let mut output = Output { data: &mut data, talk: &mut talk, style: Style::of_stdout() };
        let result = self.run_with(server, &mut output).await;
        let result = result.and_then(|()| output.data.flush().map_err(Failure::from));
        match result {
            Ok(()) => ExitCode::SUCCESS,
            // `oak get … | head`: the reader has what it wanted.
            Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
            Err(failure) => {
                // What was printed before the failure belongs before its message.
                let _ = output.data.flush();
                let _ = failure.write(output.talk);
                failure.exit_code()
            }
        }
    }

    /// Runs the command with the given streams.
    pub(crate) async fn run_with(
        self,
        server: &ServerArguments,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let client = server.client()?;
        match self {
            Self::Apply(arguments) => arguments.run(&client, output).await,
            Self::Get(arguments) => arguments.run(&client, output).await,
            Self::Explain(arguments) => arguments.run(&client, output).await,
            Self::Scale(arguments) => arguments.run(&client, output).await,
            Self::Rollback(arguments) => arguments.run(&client, output).await,
            Self::Logs(arguments) => arguments.run(&client, output).await,
            Self::Events(arguments) => arguments.run(&client, output).await,
            Self::Exec(arguments) => arguments.run(&client, output).await,
            Self::Secret(arguments) => arguments.run(&client, output).await,
            Self::Registry(arguments) => arguments.run(&client, output).await,
            Self::Delete(arguments) => arguments.run(&client, output).await,
            Self::Cordon(worker) => worker.set(&client, Availability::Cordoned, output).await,
            Self::Uncordon(worker) => worker.set(&client, Availability::Open, output).await,
            Self::Drain(arguments) => arguments.run(&client, output).await,
            Self::Token(arguments) => arguments.run(&client, output).await,
        }
    }
}

/// Whether an error means that the reader of our output went away.
fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}
