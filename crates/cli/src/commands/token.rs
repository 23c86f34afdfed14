//! `oak token`: join tokens.

use std::time::Duration;

use clap::{Args, Subcommand};
use oak_client::{Client, TokenRole};

use super::{Failure, duration};
use crate::output::Output;

/// What to do with tokens.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Make a one-time token and print it
    Create {
        #[command(subcommand)]
        role: Role,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum Role {
    /// For a cluster that joins this root
    Cluster {
        #[command(flatten)]
        life: Life,
    },
    /// For a worker that joins a cluster
    Worker {
        /// Name of the cluster; may be left out while there is only one
        #[arg(long, value_name = "NAME")]
        cluster: Option<String>,
        #[command(flatten)]
        life: Life,
    },
}

#[derive(Args, Clone, Copy, Debug)]
struct Life {
    /// How long the token can be used, such as 30m, 1h or 7d
    #[arg(long, default_value = "1h", value_parser = duration::parse, value_name = "TIME")]
    ttl: Duration,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let Action::Create { role } = self.action;
        let (role, life) = match role {
            Role::Cluster { life } => (TokenRole::Cluster, life),
            Role::Worker { cluster, life } => (TokenRole::Worker { cluster }, life),
        };
        let token = client.create_token(&role, life.ttl).await?;
        output.line(&token.token)?;
        output.say(format_args!("one use, valid for {}", duration::shown(life.ttl)))?;
        Ok(())
    }
}
